"""HcTri: its stripes, what each base has of its own, and its whole objective in plain loops."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdf_jax.config import DataConfig
from bdf_jax.losses.terms import Scope
from bdf_jax.method import experiment
from bdf_jax.models import Network
from bdf_jax.models.heads import Pool

P, K, S, D, C = 3, 2, 6, 4, 5
LABELS = np.array([4, 4, 0, 0, 2, 2])
PLACES = {"sysu_mm01": (0.0, 1), "regdb": (0.1, 2)}  # smoothing, weight of the centres of stripes


def shapes_of(outputs):
    return {name: outputs[name] for name in ("map", "embedding")}


def normal(*shape, seed=0, scale=1.0):
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def scope(embedding_NMSD, logits_NMSC):
    outputs = {"views": ("V", "I"), "embedding": jnp.asarray(embedding_NMSD), "logits": {"classifier": logits_NMSC}}
    return Scope(outputs, jnp.asarray(LABELS), shape=(P, K), bases=(0, 1), gather=lambda x: x, critic=None)


def objective(place, scope):
    total = 0.0
    for loss in experiment("hctri", place, data=DataConfig()).losses.values():
        terms = list(loss(scope).values())
        total += loss.weight * (sum(terms) / len(terms) if loss.reduce == "mean" else sum(terms))
    return total


def centre_triplet(features_NMD):
    centres = [(p, m, features_NMD[p * K : (p + 1) * K, m].mean(0)) for m in (0, 1) for p in range(P)]
    hinges = []
    for p, _, c in centres:
        far = max(np.linalg.norm(c - o) for q, _, o in centres if q == p)
        near = min(np.linalg.norm(c - o) for q, _, o in centres if q != p)
        hinges.append(max(0.0, 0.3 + far - near))
    return np.mean(hinges)


@pytest.mark.parametrize("place", PLACES)
def test_its_objective_is_its_definition_in_loops(place):
    smoothing, weight = PLACES[place]
    x, logits = normal(P * K, 2, S, D).astype(np.float64), normal(P * K, 2, S, C, seed=1).astype(np.float64)
    expected = 0.0
    for s in range(S):
        entropies = []
        for n in range(P * K):
            for m in range(2):
                total = math.log(sum(math.exp(v) for v in logits[n, m, s]))
                target = [smoothing / C + (1 - smoothing) * (c == LABELS[n]) for c in range(C)]
                entropies.append(sum(t * (total - v) for t, v in zip(target, logits[n, m, s], strict=True)))
        expected += np.mean(entropies) + weight * centre_triplet(x[:, :, s])
    expected += centre_triplet(np.concatenate([x[:, :, s] for s in range(S)], -1))
    np.testing.assert_allclose(objective(place, scope(x, jnp.asarray(logits, jnp.float32))), expected, rtol=1e-5)


def test_two_identities_by_hand():
    """Centres 0, 1 and 3, 10 on a line: hinges .3 + 1 - 3, .3 + 1 - 2, .3 + 7 - 2, .3 + 7 - 9, floored at 0, mean."""
    line = np.array([[0.0, 1.0], [3.0, 10.0]])  # identity, base
    features = np.repeat(line[:, None, :, None], K, 1) + np.array([-0.5, 0.5])[None, :, None, None]  # K = 2 around it
    whole = experiment("hctri", "sysu_mm01", data=DataConfig()).losses["whole"]
    outputs = {"views": ("V", "I"), "embedding": jnp.asarray(features.reshape(4, 2, 1, 1), jnp.float32)}
    two = Scope(outputs, jnp.zeros(4, int), shape=(2, K), bases=(0, 1), gather=lambda x: x, critic=None)
    np.testing.assert_allclose(whole(two)["V+I"], (0 + 0 + 5.3 + 0) / 4, rtol=1e-5)


@pytest.mark.parametrize("place", PLACES)
def test_gradients_are_finite_where_all_features_are_equal(place):
    gradient = jax.grad(lambda x: objective(place, scope(x, x[..., :1].repeat(C, -1))))(jnp.ones((P * K, 2, S, D)))
    assert bool(jnp.isfinite(gradient).all())


def test_the_tenth_power_of_weak_channels_is_no_0_to_a_root():
    """In float32, 0.0001^10 is 0, and the gradient of the tenth root of 0 infinite."""
    pool = Pool("gem", p=10.0, stripes=2, join=False)
    x = np.abs(normal(1, 2, 4, 3, 5))
    x[..., 0], x[..., 1], x[..., 2] = 0.0, 1e-4 * x[..., 1], 1e4 * x[..., 2]
    found = pool(None, jnp.asarray(x))
    for s in range(2):
        stripe = np.maximum(x[:, :, 2 * s : 2 * s + 2].astype(np.float64), 1e-6)
        np.testing.assert_allclose(found[s], (stripe**10).mean((2, 3)) ** 0.1, rtol=1e-5)
    gradient = jax.grad(lambda x: sum(stripe.sum() for stripe in pool(None, x)))(jnp.asarray(x))
    stripe = x[0, 0, :2, :, 1].astype(np.float64)
    expected = (stripe**10).mean() ** (-0.9) * stripe**9 / stripe.size
    np.testing.assert_allclose(gradient[0, 0, :2, :, 1], expected, rtol=1e-4, atol=1e-6)
    assert bool(jnp.isfinite(gradient).all())


def test_its_parts_and_the_published_number_of_parameters():
    config = experiment("hctri", "sysu_mm01", data=DataConfig())
    network = Network.of(config, 395)
    images = {base: jnp.zeros((1, 288, 144, 3)) for base in "VI"}
    variables = jax.eval_shape(lambda x: network.init(jax.random.key(0), x, train=True), images)
    params = variables["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 27_492_802
    trunk = {name for name in params if name.startswith(("stem", "layer"))}
    assert trunk == {f"{s}_{base}" for s in ("stem", "layer1") for base in ("visible", "infrared")} | {
        "layer2", "layer3", "layer4"
    }  # fmt: skip
    outputs = jax.eval_shape(lambda v, x: shapes_of(network.apply(v, x, train=False)), variables, images)
    assert outputs["map"].shape == (1, 2, 18, 9, 2048)  # six stripes of three rows
    assert outputs["embedding"].shape == (1, 2, 6, 256)


def test_what_regdb_has_of_its_own():
    config = experiment("hctri", "regdb", data=DataConfig())
    assert config.network.pool == Pool("gem", p=10.0, stripes=6, join=False)
    assert (config.data.identities, config.data.images) == (8, 4)
    plain = experiment("hctri", "sysu_mm01", data=DataConfig())
    assert (plain.network.pool.p, plain.data.identities, plain.data.images) == (3.0, 6, 8)
