"""MMN: its middle images, four triplets, and the distance behind a fixed projection in plain loops."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from bdf_jax.config import DataConfig, vary
from bdf_jax.errors import BdfError
from bdf_jax.evaluation.features import make_embed
from bdf_jax.losses.projection import ProjectedDistance, projected_distance
from bdf_jax.losses.terms import Scope
from bdf_jax.method import experiment
from bdf_jax.models import Network, initial_variables
from bdf_jax.pixels import normalise
from bdf_jax.training.optimiser import matches

RECIPE = experiment("mmn", "sysu_mm01", data=DataConfig())
TINY = small.tiny_method("mmn")
VIEWS = ("V", "I", "Vm", "Im")


def shapes_of(outputs):
    return {name: outputs[name] for name in ("map", "embedding")}


def normal(*shape, seed=0, scale=1.0):
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def scope(pooled_NMSD, P):
    outputs = {"views": VIEWS, "pooled": jnp.asarray(pooled_NMSD)}
    shape = (P, len(pooled_NMSD) // P)
    return Scope(outputs, jnp.zeros(len(pooled_NMSD), int), shape=shape, bases=(0, 1, 0, 1), gather=lambda x: x,
                 critic=None)  # fmt: skip


def middle(image_NHWC, encoder, decoder):
    """In loops over pixels, and by the statistics of the images given."""
    N, H, W, _ = image_NHWC.shape
    codes = np.zeros((N, H, W))
    (w1, b1), (w2, b2), (w3, b3) = (
        (np.asarray(dense["kernel"], np.float64), np.asarray(dense["bias"], np.float64))
        for dense in (encoder["conv1"], encoder["conv2"], decoder)
    )
    for n, i, j in np.ndindex(N, H, W):
        hidden = max(0.0, sum(image_NHWC[n, i, j, c] * w1[c, 0] for c in range(3)) + b1[0])
        codes[n, i, j] = max(0.0, hidden * w2[0, 0] + b2[0])
    codes = (codes - codes.mean()) / math.sqrt(codes.var() + 1e-5)
    codes = codes * float(encoder["bn"]["scale"][0]) + float(encoder["bn"]["bias"][0])
    return np.stack([np.maximum(codes * w3[0, c] + b3[c], 0) for c in range(3)], -1)


@pytest.mark.parametrize("trained", [False, True], ids=["as it starts", "of any parameters"])
def test_middle_images_are_their_definition_in_loops(trained):
    network = Network.of(TINY, 5)
    variables = initial_variables(network, 0, (32, 16))
    params = variables["params"]
    if trained:
        params = jax.tree.map(lambda x: x + normal(*x.shape, scale=0.2), params)
    images = {"V": normal(2, 32, 16, 3), "I": normal(2, 32, 16, 3, seed=1)}
    found, _ = network.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
    assert found["views"] == VIEWS
    decoder = params["generator_middle_decoder"]
    for base, view in (("V", "Vm"), ("I", "Im")):
        expected = middle(images[base], params[f"generator_{view}"], decoder)
        assert (expected == 0).any()
        np.testing.assert_allclose(found["pixels"][view], expected, rtol=1e-3, atol=1e-4)


def test_all_weights_of_the_makers_start_at_a_third_and_offsets_at_0():
    params = initial_variables(Network.of(TINY, 5), 0, (32, 16))["params"]
    makers = {name: tree for name, tree in params.items() if name.startswith("generator")}
    assert set(makers) == {"generator_Vm", "generator_Im", "generator_middle_decoder"}
    count = {"kernel": 0, "bias": 0, "scale": 0}
    for path, leaf in jax.tree_util.tree_leaves_with_path(makers):
        kind = path[-1].key
        count[kind] += leaf.size
        np.testing.assert_array_equal(leaf, np.float32({"kernel": 0.333, "bias": 0, "scale": 1}[kind]))
    assert sum(count.values()) == 18 + 4  # of which 4 are scales and offsets of normalisation


def test_it_has_the_published_number_of_parameters_and_the_projection_is_none_of_them():
    network = Network.of(RECIPE, 395)
    images = {base: jnp.zeros((1, 384, 192, 3)) for base in "VI"}
    variables = jax.eval_shape(lambda x: network.init(jax.random.key(0), x, train=True), images)
    params = variables["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 26_769_814
    outputs = jax.eval_shape(lambda v, x: shapes_of(network.apply(v, x, train=False)), variables, images)
    assert outputs["map"].shape == (1, 4, 24, 12, 2048)
    assert outputs["embedding"].shape == (1, 4, 4, 2048)
    slow = {name for name in params if any(matches(name, pattern) for pattern in RECIPE.optimiser.scales)}
    assert set(params) - slow == {f"{part}{stripe}" for part in ("bnneck", "classifier") for stripe in range(4)}


def hard_triplet(x_NMSD, views, P, s, margin=0.3):
    K = len(x_NMSD) // P
    images = [(n // K, x_NMSD[n, VIEWS.index(view), s]) for n in range(P * K) for view in views]
    hinges = []
    for p, a in images:
        far = max(np.linalg.norm(a - b) for q, b in images if q == p)
        near = min(np.linalg.norm(a - b) for q, b in images if q != p)
        hinges.append(max(0.0, margin + far - near))
    return np.mean(hinges)


def test_its_triplet_is_a_mean_over_four_pools_and_over_stripes():
    x = normal(6, 4, 2, 5)
    loss = RECIPE.losses["tri"]
    terms = loss(scope(x, 3))
    assert (loss.reduce, loss.weight, len(terms)) == ("mean", 1.0, 4)
    pools = (("V", "I"), ("V", "Im"), ("Vm", "I"), ("Vm", "Im"))
    expected = np.mean([hard_triplet(x.astype(np.float64), pool, 3, s) for pool in pools for s in range(2)])
    np.testing.assert_allclose(sum(terms.values()) / 4, expected, rtol=1e-5)


def projection(D, width, seed):
    keys = jax.random.split(jax.random.key(seed), 3)
    shapes, inputs = ((D, width), (width, width), (width,)), (D, width, width)
    return [
        np.asarray(jax.random.uniform(key, shape, minval=-1 / math.sqrt(n), maxval=1 / math.sqrt(n)), np.float64)
        for key, shape, n in zip(keys, shapes, inputs, strict=True)
    ]


def test_the_distance_behind_the_projection_is_its_definition_in_loops():
    B, D, width, seed = 4, 6, 8, 3
    a, b = normal(B, D), normal(B, D, seed=1)
    W1, W2, b2 = projection(D, width, seed)
    rows = [x / math.sqrt((x**2).sum()) for x in np.concatenate([a, b]).astype(np.float64)]

    def normalised(rows):
        columns = []
        for d in range(len(rows[0])):
            column = np.array([row[d] for row in rows])
            columns.append((column - column.mean()) / math.sqrt(((column - column.mean()) ** 2).mean() + 1e-5))
        return list(np.stack(columns, 1))

    hidden = [np.maximum(row, 0) for row in normalised([row @ W1 for row in rows])]
    q = [row / math.sqrt((row**2).sum()) for row in normalised([row @ W2 + b2 for row in hidden])]
    expected = np.mean([math.sqrt(((q[i] - q[B + i]) ** 2).sum()) for i in range(B)])
    np.testing.assert_allclose(projected_distance(a, b, width=width, seed=seed), expected, rtol=1e-4)


def test_stripes_share_a_projection_that_no_step_changes():
    x = normal(4, 4, 3, 6)
    assert RECIPE.losses["dcl"] == ProjectedDistance("Vm", "Im", width=256, seed=0, weight=0.2)
    (found,) = RECIPE.losses["dcl"](scope(x, 2)).values()
    each = [projected_distance(x[:, 2, s], x[:, 3, s]) for s in range(3)]
    np.testing.assert_allclose(found, np.mean(each), rtol=1e-5)
    other = projected_distance(x[:, 2, 0], x[:, 3, 0], seed=1)
    assert abs(float(other - each[0])) > 1e-4


@pytest.mark.parametrize("name", ["tri", "dcl"])
def test_gradients_are_finite_where_all_features_are_equal(name):
    gradient = jax.grad(lambda x: sum(RECIPE.losses[name](scope(x, 2)).values()))(jnp.ones((4, 4, 2, 5)))
    assert bool(jnp.isfinite(gradient).all())


def test_one_product_is_the_sum_of_four_matrices():
    network = Network.of(TINY, 5)
    variables = initial_variables(network, 0, (32, 16))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 16, 3), dtype=np.uint8)
    embed = make_embed(network, TINY.retrieve)
    found = np.asarray(embed(variables, pixels[1], 1)) @ np.asarray(embed(variables, pixels[0], 0)).T
    vectors = []
    for modality, base in enumerate("VI"):
        outputs = network.apply(
            variables, {base: normalise(jnp.asarray(pixels[modality]))}, train=False, views=network.views_of(modality)
        )
        joined = np.concatenate(np.moveaxis(np.asarray(outputs["embedding"]), 2, 0), -1)  # (N, 2, D) of all stripes
        vectors.append(joined / np.linalg.norm(joined, axis=-1, keepdims=True))
    gallery, queries = vectors
    four = [queries[:, q] @ gallery[:, g].T for q in (0, 1) for g in (0, 1)]
    np.testing.assert_allclose(found, sum(four), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("field", "value"), [("first", "X"), ("second", "X"), ("width", 0), ("seed", -1)])
def test_what_does_not_fit_is_refused_by_name(field, value):
    with pytest.raises(BdfError, match=rf"losses.dcl.{field}"):
        vary(TINY, {f"losses.dcl.{field}": value})
