"""Pieces that methods are put together from, each with the least network that has it."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdf_jax.augment import augmented_views, step_key
from bdf_jax.config import AugmentConfig, Config, Stage, vary
from bdf_jax.errors import BdfError
from bdf_jax.evaluation.features import make_embed
from bdf_jax.losses.terms import Identity, Triplet
from bdf_jax.models import Network, initial_variables
from bdf_jax.models.blocks import Block
from bdf_jax.models.heads import Linear, Pool, Project, Sphere
from bdf_jax.models.metrics import Metric, check_fitted, linear
from bdf_jax.models.network import NetworkConfig
from bdf_jax.models.trunk import Tiny
from bdf_jax.parts import Named
from bdf_jax.pixels import LUMA, MEAN, STD, normalise
from bdf_jax.training.entries import Entry
from bdf_jax.training.stages import phases
from bdf_jax.views import Branch, Drawn, View, ZeroPadding

NO_AUGMENT = AugmentConfig(flip=0.0, pad=0, erase=0.0)


@dataclasses.dataclass(frozen=True)
class Doubled(Block):
    """Each map, and behind it the map times 2 and times 3, as two branches."""

    branches = 2

    def module(self, name, **settings):
        return _Doubled(name=name)


class _Doubled(nn.Module):
    @nn.compact
    def __call__(self, x, before, *, train):
        return x, [2 * x, 3 * x]


def config(views=None, augment=NO_AUGMENT, **network) -> Config:
    return vary(
        Config(
            views=Named(views or {}),
            network=NetworkConfig(**{"trunk": Tiny(), **network}),
            losses=Named(ce=Identity()),
            augment=augment,
        ),
        {"data.image_size": (32, 16), "data.identities": 2, "data.images": 2},
    )


def outputs_of(config: Config, images, **arguments):
    network = Network.of(config, 5)
    variables = initial_variables(network, 0, config.data.image_size)
    return network.apply(variables, images, train=False, **arguments), variables


def pixels(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def bases(N=2):
    normal = np.random.default_rng(1).normal(size=(2, N, 32, 16, 3)).astype(np.float32)
    return {"V": normal[0], "I": normal[1]}


def test_a_drawn_view_is_the_same_image_with_a_draw_of_its_own():
    views = {"R": View("V", Drawn(channels=(1.0, 0, 0, 0))), "G": View("I", Drawn(channels=(0, 0, 0, 1.0)))}
    images = pixels(3, 2, 32, 16, 3)
    found = augmented_views(images, step_key(0, 0), config(views))
    assert list(found) == ["V", "I", "R", "G"]
    normal = np.asarray(normalise(images))
    np.testing.assert_allclose(found["V"], normal[:, 0], atol=1e-5)
    for i in range(3):
        for y in range(32):
            for x in range(16):
                np.testing.assert_allclose(found["R"][i, y, x], np.full(3, normal[i, 0, y, x, 0]), atol=1e-5)
                np.testing.assert_allclose(found["G"][i, y, x], np.full(3, normal[i, 1, y, x] @ LUMA), atol=1e-5)


def test_crops_and_flips_of_a_drawn_view_are_not_those_of_its_parent_and_differ_from_step_to_step():
    drawn = config({"R": View("V", Drawn())}, AugmentConfig(erase=0.0))
    images = pixels(8, 2, 32, 16, 3)
    first, second = (augmented_views(images, step_key(0, step), drawn) for step in (0, 1))
    assert not np.array_equal(first["V"], first["R"])
    assert not np.array_equal(first["R"], second["R"])
    apart = [augmented_views(images[i : i + 4], step_key(0, 0), drawn, first_pair=i)["R"] for i in (0, 4)]
    np.testing.assert_array_equal(np.concatenate(apart), first["R"])


def test_channels_are_exchanged_as_often_as_their_probabilities_say():
    images = pixels(400, 2, 4, 4, 3)
    augment = dataclasses.replace(NO_AUGMENT, visible_channels=(0.5, 0.25, 0.0, 0.0))
    found, normal = augmented_views(images, step_key(0, 0), config(augment=augment)), np.asarray(normalise(images))
    np.testing.assert_allclose(found["I"], normal[:, 1], atol=1e-5)
    shares = [
        np.mean([np.allclose(found["V"][i], normal[i, 0][..., c : c + 1], atol=1e-5) for i in range(400)])
        for c in range(3)
    ]
    kept = np.mean([np.allclose(found["V"][i], normal[i, 0], atol=1e-5) for i in range(400)])
    np.testing.assert_allclose([*shares, kept], [0.5, 0.25, 0.0, 0.25], atol=0.07)


@pytest.mark.parametrize(("channels", "zeros"), [(2, "after"), (3, "after"), (3, "before"), (2, "before")])
def test_zero_padding_puts_grey_into_a_channel_of_its_base(channels, zeros):
    views = {"Z": View("V", ZeroPadding(channels, zeros)), "Y": View("I", ZeroPadding(channels, zeros))}
    padded = config(views, inputs=("Z", "Y"))
    found, _ = outputs_of(padded, bases())
    mean, std = (MEAN, STD) if channels == 3 else (np.full(2, MEAN.mean()), np.full(2, STD.mean()))
    for name, base, place in (("Z", "V", 0), ("Y", "I", channels - 1)):
        grey = (bases()[base] * STD + MEAN) @ LUMA
        expected = np.zeros((*grey.shape, channels)) if zeros == "after" else np.tile(-mean / std, (*grey.shape, 1))
        expected[..., place] = (grey - mean[place]) / std[place]
        np.testing.assert_allclose(found["pixels"][name], expected, atol=1e-5)
    assert found["pooled"].shape == (2, 2, 1, 128)


def test_branches_are_views_that_begin_behind_their_block():
    views = {f"{base}{i}": View(base, Branch("double", i)) for base in "VI" for i in (0, 1)}
    branched = config(views, blocks=Named(double=Doubled(after=4)))
    found, variables = outputs_of(branched, bases())
    assert found["views"] == ("V", "I", "V0", "V1", "I0", "I1")
    stem = variables["params"]["stem"]
    assert found["pooled"].shape == (2, 6, 1, 128)
    assert jax.tree.leaves(stem)
    alone, _ = outputs_of(branched, bases(), views=("V1", "V"))
    np.testing.assert_allclose(alone["pooled"][:, 0], found["pooled"][:, 3], rtol=1e-5)
    np.testing.assert_allclose(alone["pooled"][:, 1], found["pooled"][:, 0], rtol=1e-5)
    last = vary(branched, {"network.blocks.double.after": 5})
    found, _ = outputs_of(last, bases())
    np.testing.assert_allclose(found["pooled"][:, 3], 3 * found["pooled"][:, 0], rtol=1e-5)


def test_a_trunk_may_end_earlier():
    short = config(trunk=Tiny(layers=3))
    found, variables = outputs_of(short, bases())
    assert found["pooled"].shape[-1] == 64
    assert "layer4" not in variables["params"]


def test_specific_heads_see_the_views_of_their_base():
    heads = Named(classifier=Linear(), own=Linear(specific=True, bias=True), sphere=Sphere(scale=10.0))
    found, variables = outputs_of(config(heads=heads), bases())
    params = variables["params"]
    for m, word in enumerate(("visible", "infrared")):
        head = params[f"own_{word}"]
        expected = np.asarray(found["embedding"][:, m, 0]) @ head["kernel"] + head["bias"]
        np.testing.assert_allclose(found["logits"]["own"][:, m, 0], expected, rtol=1e-4, atol=1e-5)
    for n in range(2):
        for c in range(5):
            f, w = np.asarray(found["embedding"][n, 0, 0]), np.asarray(params["sphere"]["kernel"][:, c])
            cosine = f @ w / np.linalg.norm(f) / np.linalg.norm(w)
            np.testing.assert_allclose(found["logits"]["sphere"][n, 0, 0, c], 10 * cosine, rtol=1e-3, atol=1e-4)


def test_a_projecting_neck_for_each_stripe_that_is_not_joined():
    striped = config(pool=Pool("gem", p=10.0, stripes=2, join=False), neck=Project(7, slope=0.0))
    found, variables = outputs_of(striped, bases())
    assert found["pooled"].shape == (2, 2, 2, 128)
    assert found["embedding"].shape == (2, 2, 2, 7)
    for s in range(2):
        dense = variables["params"][f"bnneck{s}_project"]
        x = np.asarray(found["pooled"][:, :, s]) @ dense["kernel"] + dense["bias"]
        expected = np.maximum(x / np.sqrt(1 + 1e-5), 0)  # statistics of an untrained network
        np.testing.assert_allclose(found["embedding"][:, :, s], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("joined", [False, True])
def test_a_ranking_of_stripes_apart_or_joined(joined):
    from bdf_jax.losses.ranking import ranking_terms
    from bdf_jax.losses.terms import Scope

    features = np.random.default_rng(0).normal(size=(4, 2, 3, 5)).astype(np.float32)  # N = 2 x 2, M, S, D
    scope = Scope(
        {"views": ("V", "I"), "pooled": jnp.asarray(features)}, jnp.zeros(4, int), shape=(2, 2), bases=(0, 1),
        gather=lambda x: x, critic=None,
    )  # fmt: skip
    found = Triplet("V>I", joined=joined)(scope)["V>I"]
    stripes = [features.reshape(2, 2, 2, 15)] if joined else [features[:, :, s].reshape(2, 2, 2, 5) for s in range(3)]
    each = [ranking_terms(jnp.asarray(s), [(0, 1)], level="sample", margin=0.3)[0] for s in stripes]
    np.testing.assert_allclose(found, np.mean(each), rtol=1e-6)


@dataclasses.dataclass(frozen=True)
class Centred(Metric):
    """The first d dimensions, from the mean of each base."""

    def fit(self, features_ND, pids_N, modalities_N):
        eye = np.eye(features_ND.shape[1], self.features)
        return linear(eye, -eye, np.stack([features_ND[modalities_N == base].mean(0) for base in (0, 1)]))


def test_a_fitted_metric_maps_each_base_and_is_refused_before():
    fit = config(metric=Centred(3))
    fit = vary(fit, {"retrieve.feature": "fitted", "retrieve.similarity": "euclidean"})
    network = Network.of(fit, 5)
    variables = initial_variables(network, 0, (32, 16))
    with pytest.raises(BdfError, match="runs/x: its metric is fitted at the end of training"):
        check_fitted("fitted", variables, "runs/x")
    images = pixels(4, 32, 16, 3)
    plain = make_embed(network, dataclasses.replace(fit.retrieve, feature="embedding"))
    features = np.concatenate([plain(variables, images, base) for base in (0, 1)])
    maps = fit.network.metric.fit(features, np.zeros(8), np.repeat([0, 1], 4))
    variables = {**variables, "batch_stats": {**variables["batch_stats"], "metric": maps}}
    check_fitted("fitted", variables, "runs/x")
    embed = make_embed(network, fit.retrieve)
    for base, sign in ((0, 1), (1, -1)):
        own = features[4 * base : 4 * base + 4]
        expected = sign * (own - own.mean(0))[:, :3]
        np.testing.assert_allclose(embed(variables, images, base), expected, rtol=1e-4, atol=1e-4)


def test_pooled_and_embedding_in_one_vector():
    both = vary(config(), {"retrieve.feature": "both"})
    network = Network.of(both, 5)
    variables = initial_variables(network, 0, (32, 16))
    images = pixels(2, 32, 16, 3)
    parts = [
        make_embed(network, dataclasses.replace(both.retrieve, feature=feature))(variables, images, 0)
        for feature in ("pooled", "embedding")
    ]
    found = make_embed(network, both.retrieve)(variables, images, 0)
    np.testing.assert_allclose(found, np.concatenate(parts, 1) / np.sqrt(2), rtol=1e-5)


@dataclasses.dataclass(frozen=True)
class Halved(Entry):
    """The classifier times 1/2."""

    def __call__(self, params):
        return {**params, "classifier": jax.tree.map(lambda x: x / 2, params["classifier"])}


def test_a_stage_is_entered_before_its_first_step():
    staged = vary(config(), {"stages.first": Stage(1.0), "stages.second": Stage(3.0, enter=Halved())})
    first, second = phases(staged, 8)
    assert (first.start, first.stop, first.enter) == (0, 2, None)
    assert (second.start, second.stop, second.enter) == (2, 8, Halved())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"retrieve.feature": "fitted"}, "retrieve.feature: 'fitted' needs a metric"),
        ({"augment.visible_channels": (0.5, 0.5, 0.5, 0.0)}, "augment.visible_channels: expected probabilities"),
        ({"views.X": View("Y", Drawn())}, "there is no view 'Y'"),
        ({"network.blocks.b": Doubled(after=6)}, "network.blocks.b.after"),
        ({"views.X": View("V", Branch("nothing"))}, "views.X.by.block"),
        ({"network.blocks.b": Doubled(after=3), "views.X": View("V", Branch("b", 2))}, "views.X.by.branch"),
    ],
)
def test_what_cannot_be_is_refused_by_name(changes, message):
    with pytest.raises(BdfError, match=message):
        vary(config(), changes)
