"""The losses of methods against their definitions in plain loops."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdf_jax.losses import ranking_terms, weighted_terms
from bdf_jax.losses.adversarial import reversed_gradient
from bdf_jax.losses.terms import Identity, Loss, Modality, Scope, Triplet, WeightedTriplet

P, K, S, D, C = 4, 3, 2, 5, 7
VIEWS = ("V", "I", "X")


def features(seed=0, scale=1.0, views=VIEWS, stripes=S):
    return scale * np.random.default_rng(seed).normal(size=(P, K, len(views), stripes, D)).astype(np.float32)


def scope(features_PKMSD, logits_NMSC=None, critic=None):
    N = P * K
    outputs = {
        "views": VIEWS[: features_PKMSD.shape[2]],
        "pooled": jnp.asarray(features_PKMSD).reshape(N, *features_PKMSD.shape[2:]),
        "logits": {"classifier": logits_NMSC},
    }
    labels = jnp.repeat(jnp.arange(P), K)
    return Scope(
        outputs, labels, shape=(P, K), bases=(0, 1, 0)[: features_PKMSD.shape[2]], gather=lambda x: x, critic=critic
    )


def images_of(features_PKMD, views):
    """(identity, view, shot, feature) of every image of some views."""
    return [(p, m, k, features_PKMD[p, k, m]) for m in views for p in range(P) for k in range(K)]


def distance(a, b, metric="euclidean"):
    a, b = a.astype(np.float64), b.astype(np.float64)
    if metric != "euclidean":
        a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    return 1 - a @ b if metric == "cosine" else math.sqrt(max(((a - b) ** 2).sum(), 1e-12))


def hard_triplet(features_PKMD, anchors, candidates, margin, metric="euclidean"):
    hinges = []
    for p, m, k, anchor in images_of(features_PKMD, anchors):
        pool = images_of(features_PKMD, candidates)
        positives = [distance(anchor, x, metric) for q, n, j, x in pool if q == p and (n, j) != (m, k)]
        negatives = [distance(anchor, x, metric) for q, _, _, x in pool if q != p]
        hinges.append(max(0.0, margin + max(positives) - min(negatives)))
    return np.mean(hinges)


@pytest.mark.parametrize("metric", ["euclidean", "sphere", "cosine"])
@pytest.mark.parametrize(("edge", "anchors", "candidates"), [
    ("V+I>V+I", (0, 1), (0, 1)), ("V>V+I+X", (0,), (0, 1, 2)), ("I+X>V", (1, 2), (0,)), ("X>X", (2,), (2,)),
])  # fmt: skip
def test_the_hard_triplet_of_a_pool(edge, anchors, candidates, metric):
    x = features()
    (found,) = Triplet(edge, margin=0.7, metric=metric)(scope(x)).values()
    expected = np.mean([hard_triplet(x[:, :, :, s], anchors, candidates, 0.7, metric) for s in range(S)])
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_pool_of_one_view_is_the_edge_of_that_view():
    x = features(stripes=1)[:, :, :, 0]
    np.testing.assert_array_equal(
        ranking_terms(x, [((0,), (0,)), ((1,), (2,))], level="sample", margin=0.3),
        ranking_terms(x, [(0, 0), (1, 2)], level="sample", margin=0.3),
    )


def test_the_centres_of_a_pool():
    """HcTri's: one anchor an identity and view; its positives are the same identity's other centres."""
    x = features(3)
    (found,) = Triplet("V+I>V+I", level="center", margin=0.3)(scope(x)).values()
    per_stripe = []
    for s in range(S):
        centres = [(p, m, x[p, :, m, s].mean(0)) for m in (0, 1) for p in range(P)]
        hinges = []
        for p, m, c in centres:
            positive = max(distance(c, o) for q, n, o in centres if q == p and n != m)
            negative = min(distance(c, o) for q, _, o in centres if q != p)
            hinges.append(max(0.0, 0.3 + positive - negative))
        per_stripe.append(np.mean(hinges))
    np.testing.assert_allclose(found, np.mean(per_stripe), rtol=1e-4)


def test_negatives_of_rows_and_columns():
    """XIV's CMG: mean of [margin + D_pp - min(min_q D_pq, min_q D_qp)]_+, the same for both orders of its views."""
    x = features(5)
    terms = Triplet("I>V V>I", level="center", negatives="both", margin=0.5)(scope(x))
    per_stripe = []
    for s in range(S):
        v, i = (x[:, :, m, s].mean(1) for m in (0, 1))
        D_PP = np.array([[distance(a, b) for b in v] for a in i])
        others = [[q for q in range(P) if q != p] for p in range(P)]
        negatives = [min(min(D_PP[p, q] for q in others[p]), min(D_PP[q, p] for q in others[p])) for p in range(P)]
        per_stripe.append(np.mean([max(0.0, 0.5 + D_PP[p, p] - negatives[p]) for p in range(P)]))
    for found in terms.values():
        np.testing.assert_allclose(found, np.mean(per_stripe), rtol=1e-4)
    assert list(terms) == ["I>V", "V>I"]


def weighted(features_PKMD, views, form, legacy):
    losses = []
    for p, _, _, anchor in images_of(features_PKMD, views):
        pool = images_of(features_PKMD, views)
        means = []
        for sign, chosen in ((1, [x for q, *_, x in pool if q == p]), (-1, [x for q, *_, x in pool if q != p])):
            d = np.array([distance(anchor, x) for x in chosen])
            if legacy:  # the masked entries are 0, and so is the maximum that the code takes off for the negatives
                shift = max(d.max(), 0.0) if sign > 0 else 0.0
                powers = np.exp(sign * d - shift)
                weights = powers / (powers.sum() + 1e-6)
            else:
                weights = np.exp(sign * d - (sign * d).max())
                weights /= weights.sum()
            means.append((weights * d).sum())
        gap = means[0] - means[1]
        if form == "squared":
            gap = (1 if gap > 0 else -1) * min(gap**2, 88.0)
        losses.append(np.logaddexp(0, gap))
    return np.mean(losses)


@pytest.mark.parametrize("form", ["softplus", "squared"])
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("scale", [0.5, 3.0, 8.0])
def test_the_weighted_triplet(form, legacy, scale):
    x = features(7, scale)
    (found,) = WeightedTriplet("V+I>V+I", form=form, legacy=legacy)(scope(x)).values()
    expected = np.mean([weighted(x[:, :, :, s], (0, 1), form, legacy) for s in range(S)])
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_legacy_weights_lose_far_negatives_and_a_softmax_does_not():
    near, far = (features(1, scale, stripes=1)[:, :, :, 0] for scale in (0.5, 20.0))
    pool = [((0, 1), (0, 1))]
    np.testing.assert_allclose(weighted_terms(near, pool), weighted_terms(near, pool, legacy=True), rtol=1e-4)
    assert weighted_terms(far, pool, legacy=True)[0] > 5 + weighted_terms(far, pool)[0]


@pytest.mark.parametrize("loss", [
    Triplet("V+I>V+I"), Triplet("V<>I", level="center"), Triplet("V>I", level="center", negatives="both"),
    Triplet("V>I", metric="cosine"), Triplet("V>I", metric="sphere"), WeightedTriplet("V+I>V+I"),
    WeightedTriplet("V+I>V+I", form="squared"),
], ids=str)  # fmt: skip
def test_equal_features_have_finite_gradients(loss):
    for value in (0.0, 1.0):
        x = jnp.full((P, K, 2, 1, D), value)
        gradient = jax.grad(lambda x, loss=loss: sum(loss(scope(x)).values()))(x)
        assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize("loss", [
    Triplet("V+I>V+I"), Triplet("I>V I>X", level="center", negatives="both"), WeightedTriplet("V+I+X>V+I+X"),
    WeightedTriplet("V+I>V+I", form="squared"), Triplet("V>I", metric="cosine"),
], ids=str)  # fmt: skip
def test_jit_gives_what_is_computed_without(loss):
    def value_and_norm(x):
        value, gradient = jax.value_and_grad(lambda x: sum(loss(scope(x)).values()))(x)
        return value, jnp.square(gradient).sum()

    x = jnp.asarray(features(9))
    with jax.disable_jit():
        expected = value_and_norm(x)
    np.testing.assert_allclose(jax.jit(value_and_norm)(x), expected, rtol=1e-4)


def test_identity_is_the_mean_of_stripes_of_a_smoothed_cross_entropy():
    logits = np.random.default_rng(2).normal(size=(P * K, 3, S, C)).astype(np.float32)
    terms = Identity(smoothing=0.2)(scope(features(), jnp.asarray(logits)))
    assert list(terms) == list(VIEWS)
    for m, view in enumerate(VIEWS):
        losses = []
        for n in range(P * K):
            for s in range(S):
                log_p = logits[n, m, s] - np.log(np.exp(logits[n, m, s].astype(np.float64)).sum())
                target = np.full(C, 0.2 / C)
                target[n // K] += 0.8
                losses.append(-(target * log_p).sum())
        np.testing.assert_allclose(terms[view], np.mean(losses), rtol=1e-5)


def test_a_reversed_gradient_is_turned_and_scaled():
    value, gradient = jax.value_and_grad(lambda x: (reversed_gradient(x, 0.05) ** 2).sum())(jnp.array([1.0, -2.0]))
    assert value == 5
    np.testing.assert_allclose(gradient, [-0.05 * 2, 0.05 * 4])


def test_the_critic_descends_its_cross_entropy_and_the_features_climb_it():
    x = features(4, stripes=1)
    W = np.random.default_rng(0).normal(size=(D, 2)).astype(np.float32)

    def value(x, W, reverse):
        return Modality(reverse=reverse)(scope(x, critic=lambda name, a: a @ W))[""]

    losses = []
    for n in range(P * K):
        for m, base in enumerate((0, 1, 0)):
            logits = (x.reshape(P * K, 3, D)[n, m] @ W).astype(np.float64)
            losses.append(np.log(np.exp(logits).sum()) - logits[base])
    np.testing.assert_allclose(value(x, W, 0.05), np.mean(losses), rtol=1e-5)

    plain = jax.grad(functools.partial(value, reverse=-1.0), (0, 1))(jnp.asarray(x), jnp.asarray(W))
    found = jax.grad(functools.partial(value, reverse=0.05), (0, 1))(jnp.asarray(x), jnp.asarray(W))
    np.testing.assert_allclose(found[0], -0.05 * plain[0], rtol=1e-5)
    np.testing.assert_allclose(found[1], plain[1], rtol=1e-5)


def test_every_kind_says_that_it_is_a_loss():
    assert {"Identity", "Triplet", "WeightedTriplet", "Modality"} <= set(Loss.kinds)
