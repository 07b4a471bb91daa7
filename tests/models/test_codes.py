"""Views made of what the network says of other views, and losses that look at them: a small method of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from bdf_jax.config import Config, DataConfig, vary
from bdf_jax.errors import BdfError
from bdf_jax.losses.codes import Alike, Fools, Tells
from bdf_jax.losses.terms import Identity
from bdf_jax.models import Network, initial_variables
from bdf_jax.models.codes import Begun, Style
from bdf_jax.models.critics_scales import StridedScales
from bdf_jax.models.decoders import Styled
from bdf_jax.models.network import derive
from bdf_jax.parts import Named, from_dict, to_dict
from bdf_jax.pixels import signed
from bdf_jax.views import Grey, View, ancestors, roots

SMALL = {"blocks": 1, "widths": (4,), "hidden": 8}
CONFIG = Config(
    data=DataConfig(image_size=(32, 16), identities=2, images=2),
    views=Named(
        fake=View("V", Styled(("content I", "style V"), **SMALL)),
        cycle=View("I", Styled(("content fake", "style I"), **SMALL), share="fake"),
        grey=View("V", Grey(channels_of="normalised")),
    ),
    network=small.part(
        inputs=("V", "I"),
        codes=Named(content=Begun(2), style=Style((4, 4), 4)),
        critics=Named(visible=StridedScales(widths=(4,))),
    ),
    losses=Named(
        did=Identity(),
        cycle=Alike("cycle=I"),
        content=Alike("fake=I", code="content"),
        fool=Fools("visible=fake"),
        tell=Tells("visible=V:fake", trains=("*",)),
    ),
)
WANTED = (("content", "I"), ("content", "fake"), ("style", "V"), ("", "fake"), ("", "cycle"))


@pytest.fixture(scope="module")
def network():
    return Network.of(CONFIG, 5)


@pytest.fixture(scope="module")
def images():
    return {
        base: jnp.asarray(np.random.default_rng(i).normal(size=(4, 32, 16, 3)), "f4") for i, base in enumerate("VI")
    }


@pytest.fixture(scope="module")
def variables(network):
    return initial_variables(network, 0, (32, 16))


@pytest.fixture(scope="module")
def outputs(network, variables, images):
    return network.apply(variables, images, train=True, mutable=["batch_stats"], wanted=WANTED)


def test_what_a_method_is_made_of_can_be_written_and_read():
    assert from_dict(Config, to_dict(CONFIG)) == CONFIG


def test_a_view_needs_everything_that_it_is_made_of():
    assert ancestors(("cycle",), CONFIG.views) == ["fake", "cycle"]
    assert roots("cycle", CONFIG.views) == {"V", "I"} == roots("fake", CONFIG.views)
    assert roots("grey", CONFIG.views) == {"V"}


def test_a_view_is_decoded_from_the_content_of_one_and_the_style_of_another(network, variables, outputs):
    codes = outputs[0]["codes"]
    by_hand = Styled(("content I", "style V"), **SMALL).module("generator_fake", network).clone(parent=None)
    params = {"params": variables["params"]["generator_fake"]}
    made, _ = by_hand.apply(params, codes["", "fake"], codes["content", "I"], codes["style", "V"], train=True)
    np.testing.assert_allclose(codes["", "fake"], made, atol=1e-5)
    assert np.abs(signed(made)).max() < 1
    assert not np.allclose(codes["", "cycle"], made, atol=0.1)


def test_views_beside_the_trunk_leave_what_the_trunk_says_and_its_running_statistics_as_they_are(
    network, variables, images, outputs
):
    """A made image passes the first stages by itself."""
    plain, statistics = network.apply(variables, images, train=True, mutable=["batch_stats"])
    np.testing.assert_array_equal(outputs[0]["pooled"], plain["pooled"])
    jax.tree.map(np.testing.assert_array_equal, outputs[1], statistics)


def test_content_is_the_trunk_after_its_first_stages(network, variables, images, outputs):
    x = outputs[0]["codes"]["content", "I"]
    assert x.shape == (4, 16, 8, 16)
    swapped = {"V": images["V"], "I": outputs[0]["codes"]["", "fake"]}
    # By running statistics, an image's content does not depend on what passes with it.
    seen = network.apply(variables, images, train=False, wanted=(("content", "fake"),))["codes"]["content", "fake"]
    fake = network.apply(variables, images, train=False, wanted=(("", "fake"),))["codes"]["", "fake"]
    again = network.apply(variables, {**swapped, "I": fake}, train=False, wanted=(("content", "I"),))["codes"]
    np.testing.assert_allclose(again["content", "I"], seen, atol=1e-5)


def test_made_views_can_be_looked_at(network, variables, images):
    assert derive(network, variables, images, ("fake", "cycle"))["cycle"].shape == (4, 32, 16, 3)
    assert network.derived(0) == ("fake", "grey")
    assert network.derived(0, alone=True) == ("grey",)


def test_grey_of_normalised_channels_is_their_weighted_sum(network, variables, images):
    grey = derive(network, variables, images, ("grey",))["grey"]
    for n, y, x in ((0, 3, 4), (2, 31, 0)):
        red, green, blue = (float(c) for c in images["V"][n, y, x])
        np.testing.assert_allclose(grey[n, y, x], [0.299 * red + 0.587 * green + 0.114 * blue] * 3, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"views.fake.by.out_of": ("content cycle", "style V")}, "no view can be made of itself"),
        ({"views.fake.by.out_of": ("content X", "style V")}, "there is no view 'X'"),
        ({"views.fake.by.out_of": ("contents I", "style V")}, "contents"),
        ({"views.fake.by.out_of": ("content I",)}, "expected a content and a style"),
        ({"losses.cycle.pairs": "cycle"}, "pairs of views such as"),
        ({"losses.cycle.pairs": "cycle=X"}, "'X'"),
        ({"losses.content.code": "texture"}, "'texture'"),
        ({"losses.tell.critics": "visible=V"}, "visible=V:fake_V"),
        ({"losses.fool.critics": "infrared=fake"}, "'infrared'"),
        ({"network.codes.content.stages": 6}, "stages"),
        ({"network.bn": "per_view"}, "bn=shared"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changes, expected):
    with pytest.raises(BdfError, match=expected):
        vary(CONFIG, changes)
