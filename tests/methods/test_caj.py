"""CAJ: a visible image drawn once more in one colour, its triplet, and its loss between scores."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from bdf_jax.augment import augmented_views, step_key
from bdf_jax.config import DataConfig, vary
from bdf_jax.errors import BdfError
from bdf_jax.losses.agreement import Follow
from bdf_jax.losses.ranking import weighted_terms
from bdf_jax.losses.terms import Scope
from bdf_jax.method import experiment
from bdf_jax.models import Network
from bdf_jax.pixels import LUMA, normalise
from bdf_jax.training.stages import phases

RECIPE = experiment("caj", "sysu_mm01", data=DataConfig())
FILL = np.float32([0.4914, 0.4822, 0.4465])


def normal(*shape, seed=0, scale=1.0):
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


@pytest.fixture(scope="module")
def drawn():
    """What enters the network of 200 pairs of the same two images, and those images."""
    pair = np.random.default_rng(0).integers(0, 256, (1, 2, 24, 12, 3), dtype=np.uint8)
    config = vary(RECIPE, {"augment.pad": 2})
    found = augmented_views(pair.repeat(200, 0), step_key(0, 0), config)
    return {name: np.asarray(x) for name, x in found.items()}, pair


def test_three_views_enter_and_the_second_visible_one_goes_with_the_first():
    network = Network.of(RECIPE, 395)
    assert network.inputs == ("V", "I", "Va")
    assert network.views_of(0) == ("V", "Va")
    shapes = jax.eval_shape(
        lambda x: network.init(jax.random.key(0), x, train=True), dict.fromkeys("VI", jnp.zeros((1, 64, 32, 3)))
    )["params"]
    assert {name for name in shapes if name.startswith("stem")} == {"stem_visible", "stem_infrared"}
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 24_359_311  # AGW's: no view has parameters


def test_the_second_visible_image_is_one_colour_of_the_first(drawn):
    views, _ = drawn
    assert (views["Va"] == views["Va"][..., :1]).all()
    assert not (views["V"] == views["V"][..., :1]).all((1, 2, 3)).any()


def test_each_of_three_colours_is_taken_for_a_third_of_the_images():
    pair = np.stack([np.full((1, 16, 8, 3), [250, 120, 10], np.uint8)] * 2, 1)
    config = vary(RECIPE, {"augment.pad": 0, "augment.erase": 0.0})
    found = np.asarray(augmented_views(pair.repeat(300, 0), step_key(0, 0), config)["Va"])[:, 0, 0, 0]
    colours = np.asarray(normalise(pair[0, 0, 0, 0]))
    shares = [np.isclose(found, colour, atol=1e-5).mean() for colour in colours]
    assert sum(shares) == pytest.approx(1)
    assert all(0.24 < share < 0.43 for share in shares)


def test_infrared_images_are_a_colour_grey_or_themselves():
    pair = np.stack([np.full((1, 16, 8, 3), [250, 120, 10], np.uint8)] * 2, 1)
    config = vary(RECIPE, {"augment.pad": 0, "augment.erase": 0.0})
    found = np.asarray(augmented_views(pair.repeat(400, 0), step_key(0, 0), config)["I"])[:, 0, 0]
    image = np.asarray(normalise(pair[0, 1, 0, 0]))
    kinds = [np.full(3, c) for c in image] + [np.full(3, sum(image[c] * LUMA[c] for c in range(3))), image]
    shares = [np.isclose(found, kind, atol=1e-5).all(1).mean() for kind in kinds]
    np.testing.assert_allclose(shares, [0.25, 0.25, 0.25, 0.125, 0.125], atol=0.08)
    assert sum(shares) == pytest.approx(1)


def test_it_has_erasing_of_its_own_with_its_own_fill(drawn):
    views, _ = drawn
    boxes = {
        "V": np.isclose(views["V"], FILL, atol=1e-6).all(-1),
        "Va": np.isclose(views["Va"][..., :1], FILL, atol=1e-6).any(-1),
    }
    shares = {name: box.mean((1, 2)) for name, box in boxes.items()}
    erased = {name: share > 0.02 for name, share in shares.items()}
    assert all(0.35 < found.mean() < 0.65 for found in erased.values())
    both = erased["V"] & erased["Va"]
    assert 0.12 < both.mean() < 0.4  # independent: a quarter
    assert not any((a == b).all() for a, b in zip(boxes["V"][both], boxes["Va"][both], strict=True))


def adaptive(features_PKMD):
    """In float64, over all images of all views."""
    P, K, M, _ = features_PKMD.shape
    images = [(p, features_PKMD[p, k, m].astype(np.float64)) for p in range(P) for k in range(K) for m in range(M)]
    losses = []
    for p, a in images:
        sums = {}
        for same in (True, False):
            d = [math.sqrt(max(((a - b) ** 2).sum(), 1e-12)) for q, b in images if (q == p) == same]
            weights = [math.exp(x if same else -x) for x in d]
            sums[same] = sum(w * x for w, x in zip(weights, d, strict=True)) / sum(weights)
        gap = sums[True] - sums[False]
        losses.append(math.log1p(math.exp(math.copysign(min(gap**2, 88.0), gap))))
    return np.mean(losses)


@pytest.mark.parametrize("scale", [0.3, 1.0, 20.0])
def test_the_adaptive_triplet_over_all_three_views(scale):
    x = normal(3, 2, 3, 5, scale=scale)
    adp = RECIPE.losses["adp"]
    assert (adp.edges, adp.form, adp.legacy, adp.weight) == ("V+Va+I>V+Va+I", "squared", False, 1.0)
    (found,) = weighted_terms(x, [((0, 2, 1), (0, 2, 1))], form="squared")
    np.testing.assert_allclose(found, adaptive(x), rtol=1e-3)


def test_where_all_features_are_equal_it_is_the_logarithm_of_2_with_a_finite_gradient():
    value, gradient = jax.value_and_grad(lambda x: weighted_terms(x, [((0, 1), (0, 1))], form="squared")[0])(
        jnp.ones((2, 2, 2, 4))
    )
    np.testing.assert_allclose(value, math.log(2), rtol=1e-6)
    assert bool(jnp.isfinite(gradient).all())


def test_features_that_lie_far_apart_still_learn_and_in_the_authors_weights_do_not():
    x = 25 / math.sqrt(2) * np.eye(12, dtype=np.float32).reshape(3, 2, 2, 12)  # every two images 25 apart

    x += normal(*x.shape, scale=0.1)
    pool = [((0, 1), (0, 1))]

    def norm(legacy):
        gradient = jax.grad(lambda x: weighted_terms(x, pool, form="squared", legacy=legacy)[0])(x)
        return float(jnp.abs(gradient).max())

    assert norm(True) == 0
    assert norm(False) > 1e-4


def test_visible_scores_follow_infrared_ones_in_loops_and_not_the_other_way():
    logits, T = normal(4, 3, 1, 5), 3.0  # views V, I, Va
    rows = []
    for n in range(4):
        to, of = (
            [math.exp(x / T) / sum(math.exp(y / T) for y in row) for x in row]
            for row in (logits[n, 1, 0].astype(np.float64), logits[n, 0, 0].astype(np.float64))
        )
        rows.append(sum(p * (math.log(p) - math.log(q)) for p, q in zip(to, of, strict=True)))

    def loss(logits):
        outputs = {"views": ("V", "I", "Va"), "logits": {"classifier": logits}}
        scope = Scope(outputs, jnp.zeros(4, int), shape=(2, 2), bases=(0, 1, 0), gather=lambda x: x, critic=None)
        (value,) = Follow("V", "I")(scope).values()
        return value

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(logits))
    np.testing.assert_allclose(value, T**2 * np.mean(rows), rtol=1e-4)
    reached = np.abs(gradient).max((0, 2, 3)) > 0
    np.testing.assert_array_equal(reached, [True, False, False])


def test_the_loss_between_scores_is_a_setting_that_is_off():
    config = small.tiny_method("caj")
    ((group, trained),) = phases(config, 10)[0].pulls
    assert (group, trained) == ("main", ("ce", "adp"))
    assert phases(vary(config, {"losses.kl.weight": 1.0}), 10)[0].pulls[0][1] == ("ce", "adp", "kl")
    for path, value in {"losses.kl.to": "X", "losses.kl.head": "other", "losses.kl.temperature": 0.0}.items():
        with pytest.raises(BdfError, match=path):
            vary(config, {path: value})
