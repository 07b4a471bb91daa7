"""The losses against their definitions in plain loops, and what follows from the definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdf_jax import losses
from bdf_jax.losses import PAIRS, did_loss, mdl_edges, mdl_loss, mml_loss, ranking_loss, ranking_terms

pytestmark = pytest.mark.smoke

P, K, M, D = 5, 3, 4, 7


@pytest.fixture
def features():
    return np.random.default_rng(0).normal(size=(P, K, M, D)).astype(np.float32)


def edge_by_loops(f_PKMD, m, n, level, margin):
    """Mean over anchors in m of [margin + hardest positive - hardest negative]_+, positives and negatives in n."""
    f = f_PKMD.astype(np.float64)
    if level == "center":
        f = f.mean(axis=1, keepdims=True)
    identities, shots = f.shape[:2]
    total = 0.0
    for p in range(identities):
        for k in range(shots):
            positives, negatives = [], []
            for q in range(identities):
                for j in range(shots):
                    if m == n and (p, k) == (q, j) and shots > 1:
                        continue
                    distance = np.sqrt(((f[p, k, m] - f[q, j, n]) ** 2).sum())
                    (positives if p == q else negatives).append(distance)
            total += max(0.0, margin + max(positives) - min(negatives))
    return total / (identities * shots)


@pytest.mark.parametrize("level", ["sample", "center"])
@pytest.mark.parametrize("edge", [(0, 0), (0, 1), (1, 0), (2, 3), (3, 3)])
def test_an_edge_is_its_definition_in_loops(features, edge, level):
    expected = edge_by_loops(features, *edge, level, 0.4)
    np.testing.assert_allclose(ranking_terms(features, [edge], level=level, margin=0.4), [expected], rtol=1e-5)


def test_mml_of_the_bases_is_two_independent_batch_hard_triplet_losses(features):
    expected = sum(edge_by_loops(features[:, :, [m]], 0, 0, "sample", 0.3) for m in (0, 1))
    np.testing.assert_allclose(mml_loss(features, modes=(0, 1), margin=0.3), expected, rtol=1e-5)
    np.testing.assert_allclose(mml_loss(features, modes=(0, 1), margin=0.3, reduce="mean"), expected / 2, rtol=1e-5)


@pytest.mark.parametrize("pairs", list(PAIRS))
@pytest.mark.parametrize("level", ["sample", "center"])
def test_mdl_sums_both_directions_of_its_pairs(features, pairs, level):
    edges = [e for m, n in PAIRS[pairs] for e in ((m, n), (n, m))]
    expected = sum(edge_by_loops(features, m, n, level, 0.5) for m, n in edges)
    np.testing.assert_allclose(mdl_loss(features, pairs=pairs, level=level), expected, rtol=1e-5)


def test_pair_sets_have_the_edges_of_the_method():
    assert {name: len(mdl_edges(name)) for name in PAIRS} == {
        "bridge": 8, "bi": 2, "no_dd": 6, "base_derivative": 6, "all": 12,
    }  # fmt: skip
    assert all({m % 2, n % 2} == {0, 1} for m, n in PAIRS["bridge"])  # every pair crosses the gap


def test_swapping_the_modalities_of_a_pair_changes_nothing(features):
    one, other = mdl_loss(features, pairs=[(0, 3), (1, 2)]), mdl_loss(features, pairs=[(3, 0), (2, 1)])
    np.testing.assert_allclose(one, other, rtol=1e-6)


def test_center_level_is_sample_level_where_an_identity_has_one_image(features):
    single = features[:, :1]
    np.testing.assert_allclose(mdl_loss(single, level="center"), mdl_loss(single, level="sample"), rtol=1e-6)


@pytest.mark.parametrize("scale", [0.0, 1.0, 1000.0])
def test_equal_features_give_exactly_the_margin_and_finite_gradients(scale):
    same = np.broadcast_to(scale * np.random.default_rng(1).normal(size=D), (P, K, M, D)).astype(np.float32)
    edges = [(0, 0), *mdl_edges("all")]
    for level in ("sample", "center"):
        np.testing.assert_array_equal(ranking_terms(same, edges, level=level, margin=0.5), np.float32(0.5))
        gradient = jax.grad(lambda f, level=level: ranking_loss(f, edges, level=level, margin=0.5))(jnp.asarray(same))
        assert np.isfinite(gradient).all()


def test_well_separated_identities_cost_nothing():
    corners = np.broadcast_to(10 * np.eye(P, D)[:, None, None], (P, K, M, D)).astype(np.float32)
    assert mml_loss(corners) == 0
    assert mdl_loss(corners, pairs="all") == 0


def test_features_of_the_anchors_own_modality_do_not_matter_across_modalities(features):
    """Anchor (0, 0) of V keeps its term of V -> I when all other visible features move."""

    def term_of_first_anchor(f):
        others = jnp.concatenate([f[:, :, 1]])
        anchor = f[0, 0, 0]
        alone = jnp.stack([jnp.broadcast_to(anchor, others.shape), others], axis=2)  # every anchor is that one
        return ranking_terms(alone, [(0, 1)], level="sample", margin=5.0)

    moved = features.copy()
    moved[1:, :, 0] += 3
    moved[0, 1:, 0] -= 2
    np.testing.assert_array_equal(term_of_first_anchor(features), term_of_first_anchor(moved))
    # And through the gradient: the loss of V -> I, all hinges open, moves anchor (0, 0) the same way in both.
    gradient = jax.grad(lambda f: ranking_loss(f, [(0, 1)], level="sample", margin=100.0))
    np.testing.assert_allclose(gradient(features)[0, 0, 0], gradient(moved)[0, 0, 0], rtol=1e-5, atol=1e-7)


def test_the_order_of_identities_does_not_matter(features):
    logits = np.random.default_rng(2).normal(size=(P, K, M, 11)).astype(np.float32)
    labels = np.arange(P)
    order = np.random.default_rng(3).permutation(P)
    for loss in (mml_loss, mdl_loss):
        np.testing.assert_allclose(loss(features), loss(features[order]), rtol=1e-6)
    np.testing.assert_allclose(did_loss(logits, labels), did_loss(logits[order], labels[order]), rtol=1e-6)


def test_gradient_is_that_of_the_hardest_pairs(features):
    """By finite differences of the loops, in float64."""
    edges = [(0, 0), (0, 1), (1, 2)]
    gradient = np.asarray(jax.grad(lambda f: ranking_loss(f, edges, level="sample", margin=0.4))(features))
    rng = np.random.default_rng(4)
    for _ in range(5):
        direction = rng.normal(size=features.shape)
        step = 1e-5
        ends = [
            sum(edge_by_loops(features + s * step * direction, m, n, "sample", 0.4) for m, n in edges) for s in (1, -1)
        ]
        np.testing.assert_allclose((gradient * direction).sum(), (ends[0] - ends[1]) / (2 * step), rtol=1e-3)


def test_close_features_far_from_the_origin_keep_their_distance():
    """The Gram form would lose them: |a|^2 is 1e8 there, and the differences are 1."""
    rng = np.random.default_rng(5)
    far = (1e4 + rng.integers(-2, 3, size=(P, K, M, D))).astype(np.float32)
    exact = edge_by_loops(far, 0, 1, "center", 0.5)
    np.testing.assert_allclose(ranking_terms(far, [(0, 1)], level="center", margin=0.5), [exact], atol=2e-3)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_did_is_smoothed_cross_entropy_summed_over_modalities(smoothing):
    rng = np.random.default_rng(6)
    C = 11
    logits, labels = rng.normal(size=(P, K, M, C)).astype(np.float32), rng.permutation(C)[:P]
    expected = np.zeros(M)
    for p in range(P):
        for k in range(K):
            for m in range(M):
                x = logits[p, k, m].astype(np.float64)
                log_probability = x - np.log(np.exp(x).sum())
                target = np.full(C, smoothing / C)
                target[labels[p]] += 1 - smoothing
                expected[m] -= (target * log_probability).sum() / (P * K)
    found = did_loss(logits, labels, label_smoothing=smoothing)
    np.testing.assert_allclose(found, expected.sum(), rtol=1e-5)
    modes = did_loss(logits, labels, modes=(1, 2), label_smoothing=smoothing, reduce="mean")
    np.testing.assert_allclose(modes, expected[1:3].mean(), rtol=1e-5)


def test_losses_compile_and_accept_bfloat16(features):
    low = jnp.asarray(features, jnp.bfloat16)
    for loss in (mml_loss, mdl_loss):
        compiled = jax.jit(loss)(low)
        assert compiled.dtype == jnp.float32
        np.testing.assert_allclose(compiled, loss(low.astype(jnp.float32)), rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: mdl_loss(f, pairs="brigde"), "expected one of bridge"),
        (lambda f: mdl_loss(f[:, :, :2], pairs="bridge"), "modalities 0 to 1"),
        (lambda f: mdl_loss(f, level="centre"), "expected 'sample' or 'center'"),
        (lambda f: mml_loss(f, reduce="max"), "expected 'sum' or 'mean'"),
        (lambda f: mml_loss(f, modes=()), "at least one"),
        (lambda f: mml_loss(f[:1]), "at least 2 identities"),
        (lambda f: mml_loss(f[0]), "axes P, K, M, D"),
        (lambda f: did_loss(f, np.arange(P), modes=(0, 4)), "modalities 0 to 3"),
    ],
)
def test_wrong_arguments_are_named(features, call, message):
    with pytest.raises(ValueError, match=message):
        call(features)


def test_modalities_are_in_the_order_of_the_features():
    assert losses.MODALITIES == ("V", "I", "Dv", "Di")
    assert (losses.V, losses.I, losses.DV, losses.DI) == (0, 1, 2, 3)
