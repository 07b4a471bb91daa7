"""k-reciprocal re-ranking against its formulas, set by set and pair by pair."""

import numpy as np
import protocol_definitions as definitions
import pytest

from bdf_jax.evaluation import harness
from bdf_jax.evaluation.protocols import protocols_for
from bdf_jax.evaluation.rerank import rerank


def by_formula(queries_QD, gallery_GD, k1, k2, weight):
    everyone = np.concatenate([queries_QD, gallery_GD]).astype(float)
    count, queries = len(everyone), len(queries_QD)
    squared = np.array([[((a - b) ** 2).sum() for b in everyone] for a in everyone])
    d = squared / squared.max(axis=1, keepdims=True)
    ranked = [sorted(range(count), key=lambda g, p=p: (d[p, g], g)) for p in range(count)]

    def nearest(p, k):
        return set(ranked[p][: k + 1])  # p itself is the first

    def reciprocal(p, k):
        return {g for g in nearest(p, k) if p in nearest(g, k)}

    v = np.zeros((count, count))
    for p in range(count):
        own = reciprocal(p, k1)
        joined = set(own)
        for q in own:
            half = reciprocal(q, round(k1 / 2))
            if len(own & half) > 2 / 3 * len(half):
                joined |= half
        for g in joined:
            v[p, g] = np.exp(-d[p, g])
        v[p] /= v[p].sum()
    v = np.array([np.mean([v[g] for g in ranked[p][:k2]], axis=0) for p in range(count)])
    result = np.zeros((queries, count - queries))
    for q in range(queries):
        for g in range(queries, count):
            jaccard = 1 - np.minimum(v[q], v[g]).sum() / np.maximum(v[q], v[g]).sum()
            result[q, g - queries] = (1 - weight) * jaccard + weight * d[q, g]
    return result


@pytest.mark.parametrize(("k1", "k2"), [(20, 6), (5, 1), (8, 3)])
def test_formula(k1, k2):
    rng = np.random.default_rng(k1)
    centres = rng.standard_normal((8, 6))
    sides = [centres[np.arange(count) % 8] + 0.5 * rng.standard_normal((count, 6)) for count in (17, 30)]
    queries_QD, gallery_GD = ((s / np.linalg.norm(s, axis=1, keepdims=True)).astype(np.float32) for s in sides)
    similarity_QG = rerank(queries_QD, gallery_GD, k1=k1, k2=k2, weight=0.3)
    np.testing.assert_allclose(1 - similarity_QG, by_formula(queries_QD, gallery_GD, k1, k2, 0.3), atol=2e-5)


def test_off_unless_asked_and_printed_in_every_row():
    index = definitions.small_sysu(seed=1, ids=20)
    rng = np.random.default_rng(0)
    features_ND = rng.standard_normal((21, 8))[index.pids] + 0.8 * rng.standard_normal((len(index), 8))
    protocols = protocols_for("sysu_mm01", index, galleries=["agw"], modes=["all"], trial=2)
    plain = harness.evaluate(features_ND, index, protocols)
    reranked = harness.evaluate(features_ND, index, protocols, rerank=True)
    assert [row["rerank"] for row in plain + reranked] == [False, False, True, True]
    assert all(after["mAP"] > before["mAP"] for before, after in zip(plain, reranked, strict=True))


def test_fewer_images_than_neighbours():
    features_ND = np.eye(3, dtype=np.float32)
    assert rerank(features_ND[:1], features_ND[1:]).shape == (1, 2)
