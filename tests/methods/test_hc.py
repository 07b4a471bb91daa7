"""HC: one centre for both bases in plain loops, a network for each of them, and stripes of length 1 at the test."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from bdf_jax.config import DataConfig, RetrieveConfig, vary
from bdf_jax.errors import BdfError
from bdf_jax.evaluation.features import make_embed
from bdf_jax.losses.centres import HeteroCentre, hetero_centre
from bdf_jax.losses.terms import Scope
from bdf_jax.method import experiment
from bdf_jax.models import Network, initial_variables
from bdf_jax.pixels import normalise

RECIPE = experiment("hc", "sysu_mm01", data=DataConfig())


def shapes_of(outputs):
    return {name: outputs[name] for name in ("map", "embedding")}


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def scope(embedding_NMSD, P):
    K = len(embedding_NMSD) // P
    outputs = {"views": ("V", "I"), "embedding": jnp.asarray(embedding_NMSD)}
    return Scope(outputs, jnp.zeros(P * K, int), shape=(P, K), bases=(0, 1), gather=lambda x: x, critic=None)


@pytest.mark.parametrize("threshold", [0.0, 0.8])
def test_the_loss_is_its_definition_in_loops(threshold):
    P, K, S, D = 4, 3, 2, 5
    x = normal(P * K, 2, S, D).astype(np.float64)
    total = 0.0
    for s in range(S):
        for p in range(P):
            centre = []
            for m in range(2):
                units = [x[p * K + k, m, s] / np.sqrt((x[p * K + k, m, s] ** 2).sum()) for k in range(K)]
                centre.append(sum(units) / K)
            total += max(0.0, ((centre[0] - centre[1]) ** 2).sum() - threshold)
    (found,) = HeteroCentre(threshold=threshold)(scope(x, P)).values()
    np.testing.assert_allclose(found, total, rtol=1e-5)


def test_it_is_a_sum_over_identities_and_stripes_with_half_the_weight():
    x = normal(4, 2, 1, 5)
    loss = RECIPE.losses["hc"]
    assert loss == HeteroCentre("V", "I", threshold=0.0, on="embedding", weight=0.5)
    (once,) = loss(scope(x, 2)).values()
    (identities,) = loss(scope(np.concatenate([x, x]), 4)).values()
    (stripes,) = loss(scope(x.repeat(3, 2), 2)).values()
    np.testing.assert_allclose([identities, stripes], [2 * once, 3 * once], rtol=1e-6)


def test_equal_centres_cost_nothing_and_gradients_stay_finite():
    same = normal(2, 3, 5)
    assert float(hetero_centre(same, same)) == 0
    for x in (jnp.ones((2, 3, 5)), jnp.zeros((2, 3, 5))):
        assert bool(jnp.isfinite(jax.grad(lambda x: hetero_centre(x, jnp.ones((2, 3, 5))))(x)).all())


def test_each_base_has_a_network_of_its_own():
    """Two ResNet-50s; in each of six stripes 2048 x 512 with offset, normalisation, and 512 x 395 with offset."""
    network = Network.of(RECIPE, 395)
    images = {base: jnp.zeros((1, 288, 144, 3)) for base in "VI"}
    variables = jax.eval_shape(lambda x: network.init(jax.random.key(0), x, train=True), images)
    params = variables["params"]
    expected = 2 * 23_508_032 + 6 * (2048 * 512 + 512 + 2 * 512 + 512 * 395 + 395)
    assert expected == 54_532_546
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected
    trunk = {name for name in params if name.startswith(("stem", "layer"))}
    assert len(trunk) == 10
    assert all(name.endswith(("_visible", "_infrared")) for name in trunk)
    outputs = jax.eval_shape(lambda v, x: shapes_of(network.apply(v, x, train=False)), variables, images)
    assert outputs["map"].shape == (1, 2, 18, 9, 2048)
    assert outputs["embedding"].shape == (1, 2, 6, 512)


def test_scores_see_the_embedding_through_a_leaky_rectifier():
    config = small.tiny_method("hc")
    network = Network.of(config, 5)
    variables = initial_variables(network, 0, (32, 16))
    found = network.apply(variables, dict.fromkeys("VI", normal(2, 32, 16, 3)), train=False)
    for s in range(2):
        head = variables["params"][f"classifier{s}"]
        x = np.asarray(found["embedding"][:, :, s])
        assert (x < 0).any()  # nothing cut off before
        expected = np.where(x > 0, x, 0.1 * x) @ head["kernel"] + head["bias"]
        np.testing.assert_allclose(found["logits"]["classifier"][:, :, s], expected, rtol=1e-4, atol=1e-5)


def test_stripes_have_length_1_each_before_they_are_one_vector():
    config = small.tiny_method("hc")
    network = Network.of(config, 5)
    variables = initial_variables(network, 0, (32, 16))
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 16, 3), dtype=np.uint8)
    assert config.retrieve == RetrieveConfig(feature="stripes")
    found = np.asarray(make_embed(network, config.retrieve)(variables, pixels, 1))
    outputs = network.apply(variables, {"I": normalise(jnp.asarray(pixels))}, train=False, views=("I",))
    for n in range(3):
        units = [x / np.linalg.norm(x) for x in np.asarray(outputs["embedding"][n, 0])]
        np.testing.assert_allclose(found[n], np.concatenate(units) / np.sqrt(2), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("field", "value"), [("first", "X"), ("second", "X"), ("threshold", -1.0)])
def test_what_does_not_fit_is_refused_by_name(field, value):
    with pytest.raises(BdfError, match=rf"losses.hc.{field}"):
        vary(RECIPE, {f"losses.hc.{field}": value})
