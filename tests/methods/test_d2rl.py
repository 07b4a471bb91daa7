"""D2RL: four channels of real and generated halves, a shared latent with noise, and what trains what."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from scopes import normal

from bdf_jax.config import vary
from bdf_jax.errors import BdfError
from bdf_jax.models import Network, initial_variables
from bdf_jax.models.codes import NOISE
from bdf_jax.models.network import derive
from bdf_jax.pixels import LUMA, MEAN, STD
from bdf_jax.training.stages import phases

TINY = small.tiny_method("d2rl")


@pytest.fixture(scope="module")
def network():
    return Network.of(TINY, 5)


@pytest.fixture(scope="module")
def variables(network):
    return initial_variables(network, 0, (32, 16))


def made_of(network, variables, wanted, *, train=True, **images):
    images = {"V": normal(2, 32, 16, 3), "I": normal(2, 32, 16, 3, seed=1), **images}
    if not train:
        return network.apply(variables, images, train=False, wanted=wanted)["codes"]
    return network.apply(variables, images, train=True, mutable=["batch_stats"], wanted=wanted)[0]["codes"]


def test_the_trunk_sees_the_colours_and_the_infrared_of_an_image_one_of_them_generated(network, variables):
    wanted = (("", "F"), ("", "B"), ("", "MV"), ("", "MI"))
    made = made_of(network, variables, wanted, train=False)
    visible, infrared = normal(2, 32, 16, 3), normal(2, 32, 16, 3, seed=1)
    for view, colours, other in (("MV", visible, made["", "F"]), ("MI", made["", "B"], infrared)):
        pixels = np.asarray(made["", view])
        np.testing.assert_allclose(pixels[..., :3], colours, atol=1e-6)
        for n, i, j in ((0, 0, 0), (1, 31, 15), (0, 7, 3)):
            level = sum(float((other[n, i, j, c] * STD[c] + MEAN[c]) * LUMA[c]) for c in range(3))
            expected = (level - float(MEAN.mean())) / float(STD.mean())
            assert pixels[n, i, j, 3] == pytest.approx(expected, abs=1e-4)
    assert variables["params"]["stem"]["conv"]["kernel"].shape[2] == 4


def test_the_missing_half_is_generated_at_the_test_from_one_image_alone(network, variables):
    found = derive(network, variables, {"V": jnp.asarray(normal(2, 32, 16, 3))}, ("MV", "F"))
    assert found["MV"].shape == found["F"].shape == (2, 32, 16, 3)  # to look at: the colours


def test_noise_is_that_of_a_pair_and_only_there_in_training(network, variables):
    keys = jax.random.key_data(jax.random.split(jax.random.key(1), 2))
    wanted = (("mean_v", "V"), ("latent_v", "V"), ("latent_i", "I"))
    made = made_of(network, variables, wanted, **{NOISE: keys})
    noise = np.asarray(made["latent_v", "V"] - made["mean_v", "V"])
    assert noise.std() == pytest.approx(1, abs=0.1)
    turned = made_of(network, variables, wanted, **{NOISE: keys[::-1]})
    of_turned = np.asarray(turned["latent_v", "V"] - turned["mean_v", "V"])
    np.testing.assert_allclose(noise[0], of_turned[1], atol=1e-5)
    other = np.asarray(made["latent_i", "I"])
    assert not np.allclose(noise[0], noise[1])
    assert not np.allclose(noise, other - np.asarray(made_of(network, variables, (("mean_i", "I"),))["mean_i", "I"]))
    still = made_of(network, variables, wanted, train=False)
    np.testing.assert_array_equal(still["latent_v", "V"], still["mean_v", "V"])


def test_both_directions_share_the_last_block_of_encoders_and_the_first_of_decoders(variables):
    names = {name for name in variables["params"] if name.startswith(("code_", "generator_"))}
    assert names == {"code_mean_v", "code_mean_i", "code_together", "generator_F", "generator_B", "generator_together"}


def test_both_levels_learn_together_and_critics_from_their_verdicts_alone():
    (phase,) = phases(TINY, 10)
    pulls = dict(phase.pulls)
    assert pulls["main"] == ("ce", "tri")
    assert pulls["critics"] == ("tell",)
    assert pulls["translators"] == ("ce", "tri", "fool", "rebuilt", "cycle", "kl_v", "kl_i")


def test_noise_is_added_to_a_code_that_stands_before_it():
    with pytest.raises(BdfError, match=r"network\.codes\.latent_v\.code"):
        vary(TINY, {"network.codes.latent_v.code": "latent_i"})
