"""Three similarities as dot products, against loops."""

import numpy as np
import pytest

from bdf_jax.errors import BdfError
from bdf_jax.evaluation import top_k
from bdf_jax.evaluation.similarity import as_products, shown

FEATURES = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32) * [[3.0]] + np.float32(40)
FEATURES = FEATURES.astype(np.float32)


def compared(a, b, similarity):
    a, b = a.astype(np.float64), b.astype(np.float64)
    if similarity == "euclidean":
        return -np.sqrt(((a - b) ** 2).sum())
    return a @ b if similarity == "dot" else a @ b / np.linalg.norm(a) / np.linalg.norm(b)


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_dot_products_rank_and_tell_what_the_similarity_says(similarity):
    queries, gallery = as_products(FEATURES, similarity)
    scores = queries @ gallery.T
    expected = np.array([[compared(a, b, similarity) for b in FEATURES] for a in FEATURES])
    np.testing.assert_array_equal(np.argsort(-scores, axis=1), np.argsort(-expected, axis=1))
    np.testing.assert_allclose(shown(scores, queries, similarity), expected, rtol=1e-4, atol=1e-2)


def test_search_by_distance():
    scores, rows = top_k(FEATURES[:4], FEATURES, 3, block=2, euclidean=True)
    for q in range(4):
        by_loop = sorted(range(9), key=lambda g: -compared(FEATURES[q], FEATURES[g], "euclidean"))[:3]
        assert rows[q].tolist() == by_loop
        assert scores[q, 0] == pytest.approx(0, abs=0.05)
        np.testing.assert_allclose(
            scores[q, 1:], [compared(FEATURES[q], FEATURES[g], "euclidean") for g in by_loop[1:]], rtol=1e-3
        )


def test_another_name_is_refused():
    with pytest.raises(BdfError, match="similarity: expected cosine, dot, euclidean, found 'l2'"):
        as_products(FEATURES, "l2")
