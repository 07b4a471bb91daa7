"""DEEN: its blocks and losses in plain loops, its size, and that one vector holds the sum of six similarities."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from bdf_jax.augment import augment, step_key
from bdf_jax.config import AugmentConfig, DataConfig, vary
from bdf_jax.errors import BdfError
from bdf_jax.evaluation.features import make_embed
from bdf_jax.losses.branches import CentrePairs, Orthogonal, centre_pairs
from bdf_jax.losses.terms import Scope
from bdf_jax.method import experiment
from bdf_jax.models import Network, initial_variables
from bdf_jax.models.blocks_deen import DEE, MFA
from bdf_jax.pixels import LUMA, normalise
from bdf_jax.training.optimiser import matches

VIEWS = ("V", "I", "V1", "V2", "I1", "I2")
BATCH = {"data.identities": 2, "data.images": 2, "augment.pad": 2, "augment.erase": 0.0}
TINY = small.tiny_method("deen", replaces=BATCH)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def block(kind, x, before, seed=1):
    """Its module, and variables in which nothing is 0 or 1."""
    module = kind.module("block")
    variables = module.init(jax.random.key(0), x, before, train=False)
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda leaf: leaf + 0.2 * rng.normal(size=leaf.shape).astype(np.float32), variables["params"])
    return module, {**variables, "params": params}


def linear(params, name, vector):
    return vector @ np.asarray(params[name]["kernel"]) + np.asarray(params[name]["bias"])


def normalised(params, name, vector):
    """By the running statistics of an untrained network."""
    return vector / math.sqrt(1 + 1e-5) * np.asarray(params[name]["scale"]) + np.asarray(params[name]["bias"])


def channels_aggregated(params, high, low):
    """(H, W, h) of one image: for every two channels, how alike they are; of maps whose side may be halved."""
    H, W, _ = high.shape
    h, _, l = low.shape  # noqa: E741
    step = 2 if h > H else 1
    energy = np.zeros((l, l))
    for y in range(H):
        for x in range(W):
            theta = linear(params, "channel_theta", high[y, x])
            phi = linear(params, "channel_phi", low[step * y, step * x])
            for i in range(l):
                for j in range(l):
                    energy[i, j] += theta[i] * phi[j] / l
    out = np.zeros_like(high)
    for y in range(H):
        for x in range(W):
            told = energy @ linear(params, "channel_g", low[step * y, step * x])
            out[y, x] = high[y, x] + normalised(params, "channel_bn", linear(params, "channel_W", told))
    return out


def tokens(image, params, name, halves):
    """Vectors of one image: of a position, or of two that are half a map apart, channel by channel."""
    found = [linear(params, name, pixel) for row in image for pixel in row]
    if not halves:
        return found
    T = len(found) // 2
    return [np.array([value for c in range(len(found[0])) for value in (found[t][c], found[t + T][c])])
            for t in range(T)]  # fmt: skip


def positions_aggregated(params, high, z, low, position):
    H, W, _ = high.shape
    halves = position == "author"
    theta = tokens(z, params, "position_theta", halves)
    phi, g = (tokens(low, params, f"position_{name}", halves) for name in ("phi", "g"))
    told = []
    for a in theta:
        energy = np.array([a @ b for b in phi])
        weights = energy / len(phi) if halves else np.exp(energy) / np.exp(energy).sum()
        told.append(sum(weight * value for weight, value in zip(weights, g, strict=True)))
    if halves:
        told = [y[0::2] for y in told] + [y[1::2] for y in told]
    out = np.zeros_like(high)
    for n in range(H * W):
        y = normalised(params, "position_bn", linear(params, "position_W", told[n]))
        out[n // W, n % W] = z[n // W, n % W] + y
    return out


@pytest.mark.parametrize("position", ["author", "paper"])
@pytest.mark.parametrize("sizes", [((4, 2), (4, 2)), ((4, 2), (8, 4)), ((4, 2), (7, 4))], ids=str)
def test_aggregation_is_its_definition_in_loops(position, sizes):
    (H, W), (h, w) = sizes
    x, before = normal(1, 2, H, W, 6), normal(1, 2, h, w, 4, seed=2)
    module, variables = block(MFA(after=2, position=position), x, before)
    found, params = module.apply(variables, x, before, train=False), variables["params"]
    for m in range(2):
        z = channels_aggregated(params, x[0, m], before[0, m])
        expected = positions_aggregated(params, x[0, m], z, before[0, m], position)
        np.testing.assert_allclose(found[0, m], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("position", ["author", "paper"])
def test_aggregation_starts_as_the_identity(position):
    x, before = normal(2, 2, 4, 2, 6), normal(2, 2, 8, 4, 4)
    module = MFA(after=2, position=position).module("block")
    variables = module.init(jax.random.key(0), x, before, train=True)
    for train in (False, True):
        found, _ = module.apply(variables, x, before, train=train, mutable=["batch_stats"])
        np.testing.assert_array_equal(found, x)


def test_an_odd_map_has_no_halves_to_pair():
    with pytest.raises(BdfError, match=r"network.blocks.mfa1: position 'author'.*one of 5x3 has 15 positions, an odd"):
        MFA(after=2).module("mfa1").init(jax.random.key(0), normal(1, 1, 5, 3, 6), normal(1, 1, 5, 3, 4), train=False)
    paper = MFA(after=2, position="paper").module("mfa1")
    paper.init(jax.random.key(0), normal(1, 1, 5, 3, 6), normal(1, 1, 5, 3, 4), train=False)


def test_an_odd_map_is_refused_before_training_starts():
    odd = vary(TINY, {"data.image_size": (18, 18)})  # 9 x 9 behind the stem
    with pytest.raises(BdfError, match=r"network.blocks.mfa1.*9x9.*data.image_size"):
        initial_variables(Network.of(odd, 5), 0, odd.data.image_size)


def test_expansion_is_its_definition_in_loops():
    H, W, C = 4, 3, 8
    x = normal(1, 1, H, W, C)
    module, variables = block(DEE(after=4), x, x)
    same, branches = module.apply(variables, x, x, train=False)
    np.testing.assert_array_equal(same, x)
    assert len(branches) == 2
    params = variables["params"]
    for b, branch in enumerate(branches):
        for i in range(H):
            for j in range(W):
                inside = np.zeros(C // 4)
                for d in (1, 2, 3):
                    kernel = np.asarray(params[f"branch{b}_conv{d}"])
                    for p in range(3):
                        for q in range(3):
                            y, z = i + d * (p - 1), j + d * (q - 1)
                            if 0 <= y < H and 0 <= z < W:
                                inside += x[0, 0, y, z] @ kernel[p, q] / 3
                expected = linear(params, f"branch{b}_W", np.maximum(inside, 0))
                np.testing.assert_allclose(branch[0, 0, i, j], expected, rtol=1e-4, atol=1e-5)


def far(a, b):
    return math.sqrt(((a - b) ** 2).sum())


def test_centre_pairs_are_their_definition_in_loops():
    P, D, margin = 4, 5, 0.9
    base, made = normal(2, P, D), normal(2, P, D, seed=1)
    ways = []
    for own, other in ((0, 1), (1, 0)):
        hinges = []
        for p in range(P):
            near = far(base[other, p], made[own, p])
            rivals = [min(far(c[own, p], c[own, q]) for q in range(P) if q != p) for c in (made, base)]
            first = max(0.0, margin + near - far(base[own, p], made[own, p]))
            hinges.append(first + sum(max(0.0, margin + near - rival) for rival in rivals) / 2)
        ways.append(np.mean(hinges))
    np.testing.assert_allclose(centre_pairs(base, made, margin=margin), np.mean(ways), rtol=1e-5)


def test_the_distance_to_its_own_base_passes_no_gradient():
    """With rivals far away, only d(I, V') and d(V, I') are left to learn from: V' moves straight to I."""
    base = np.stack([[[0.0, 0.0], [100.0, 0.0]], [[0.0, 1.0], [100.0, 1.0]]]).astype(np.float32)
    made = base[::-1] + np.float32([0.3, 0.0])
    made = np.stack([made[0] + np.float32([0.0, 0.2]), made[1]])
    gradient = jax.grad(lambda made: centre_pairs(base, made, margin=5.0))(jnp.asarray(made))
    towards = base[1, 0] - made[0, 0]
    cosine = -gradient[0, 0] @ towards / np.linalg.norm(gradient[0, 0]) / np.linalg.norm(towards)
    np.testing.assert_allclose(cosine, 1.0, rtol=1e-5)


def scope(features_NMSD, P=2):
    return Scope(
        {"views": VIEWS, "pooled": jnp.asarray(features_NMSD)},
        jnp.zeros(len(features_NMSD), int),
        shape=(P, len(features_NMSD) // P),
        bases=(0, 1, 0, 0, 1, 1),
        gather=lambda x: x,
        critic=lambda name, x: x,
    )


def test_centre_pairs_of_views_are_those_of_their_centres_in_each_stripe():
    x = normal(4, 6, 2, 5)
    (found,) = CentrePairs(("V2", "I2"), margin=0.9)(scope(x)).values()
    each = []
    for s in range(2):
        centre = {name: np.stack([x[:2, m, s].mean(0), x[2:, m, s].mean(0)]) for m, name in enumerate(VIEWS)}
        base, made = (np.stack([centre[name] for name in names]) for names in (("V", "I"), ("V2", "I2")))
        each.append(centre_pairs(base, made, margin=0.9))
    np.testing.assert_allclose(found, np.mean(each), rtol=1e-5)


def test_orthogonality_is_a_sum_over_images_over_three_times_their_number():
    x = normal(4, 6, 1, 5)
    (found,) = Orthogonal(("V1", "I1"), ("V2", "I2"))(scope(x)).values()
    total = sum(x[n, first, 0] @ x[n, second, 0] for n in range(4) for first, second in ((2, 3), (4, 5)))
    np.testing.assert_allclose(found, total / (3 * 8), rtol=1e-4)


@pytest.mark.parametrize("loss", [CentrePairs(("V1", "I1")), Orthogonal(("V1", "I1"), ("V2", "I2"))], ids=str)
def test_gradients_are_finite_where_all_features_are_equal(loss):
    gradient = jax.grad(lambda x: sum(loss(scope(x)).values()))(jnp.ones((4, 6, 1, 5)))
    assert bool(jnp.isfinite(gradient).all())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"losses.cpm1": CentrePairs(("V1", "I3"))}, "losses.cpm1.made: .*I3"),
        ({"losses.ort": Orthogonal(("V1", "I1"), ("V3", "I2"))}, "losses.ort.second: .*V3"),
        ({"network.blocks.dee": None}, "views.V1.by.block"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changes, message):
    with pytest.raises(BdfError, match=message):
        vary(TINY, changes)


@pytest.mark.parametrize(
    ("place", "classes", "count"),
    [("sysu_mm01", 395, 42_037_792), ("llcm", 395, 42_037_792), ("regdb", 206, 13_094_176)],
)
def test_it_has_the_published_number_of_parameters(place, classes, count):
    config = experiment("deen", place, data=DataConfig())
    network = Network.of(config, classes)
    images = {base: jnp.zeros((1, 64, 32, 3)) for base in "VI"}
    shapes = jax.eval_shape(lambda x: network.init(jax.random.key(0), x, train=True), images)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count
    fast = {"bnneck", "classifier"}  # what learns at the whole rate; everything else at a tenth
    slow = {name for name in shapes if any(matches(name, pattern) for pattern in config.optimiser.scales)}
    assert set(shapes) - slow == fast
    assert set(config.optimiser.scales.values()) == {0.1}


def test_the_base_images_know_nothing_of_the_branches():
    network = Network.of(TINY, 5)
    variables = initial_variables(network, 0, (32, 16))
    images = {"V": normal(2, 32, 16, 3), "I": normal(2, 32, 16, 3, seed=1)}
    found = network.apply(variables, images, train=False)
    assert found["views"] == VIEWS
    assert network.derived(0) == network.derived(1) == ()  # there is no picture of them
    plain = Network.of(dataclasses.replace(TINY, views=type(TINY.views)()), 5)
    alone = plain.apply(variables, images, train=False)
    np.testing.assert_allclose(found["pooled"][:, :2], alone["pooled"], rtol=1e-5, atol=1e-6)
    assert float(jnp.abs(found["pooled"][:, 2] - found["pooled"][:, 3]).max()) > 0


def test_one_vector_holds_the_sum_of_six_similarities():
    network = Network.of(TINY, 5)
    variables = initial_variables(network, 0, (32, 16))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 16, 3), dtype=np.uint8)
    embed = make_embed(network, TINY.retrieve)
    found = np.asarray(embed(variables, pixels[0], 0)) @ np.asarray(embed(variables, pixels[1], 1)).T
    total = np.zeros((3, 3))
    outputs = [
        network.apply(variables, {base: normalise(jnp.asarray(x))}, train=False, views=network.views_of(b))
        for b, (base, x) in enumerate(zip("VI", pixels, strict=True))
    ]
    for feature in ("pooled", "embedding"):
        for m in range(3):
            for i in range(3):
                for j in range(3):
                    a, b = np.asarray(outputs[0][feature][i, m, 0]), np.asarray(outputs[1][feature][j, m, 0])
                    total[i, j] += a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    np.testing.assert_allclose(found, total / 6, rtol=1e-4, atol=1e-5)


def test_half_of_the_images_are_made_grey_before_they_are_normalised():
    config = experiment("deen", "sysu_mm01", data=DataConfig()).augment
    assert config.channels_of == "pixels"
    plain = AugmentConfig(flip=0.0, pad=0, erase=0.0, visible_channels=config.visible_channels, channels_of="pixels")
    images = np.random.default_rng(0).integers(0, 256, (200, 1, 4, 4, 3), dtype=np.uint8)
    found = np.asarray(augment(images, step_key(0, 0), plain))
    grey = normalise(np.repeat((images.astype(np.float32) @ LUMA)[..., None], 3, -1))
    changed = np.array([np.allclose(found[i], grey[i], atol=1e-4) for i in range(200)])
    np.testing.assert_allclose(found[~changed], normalise(images)[~changed], atol=1e-4)
    assert 0.35 < changed.mean() < 0.65
