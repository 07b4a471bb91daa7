"""Similarities as dot products, and as the greatest and least of four, against loops."""

import numpy as np
import pytest

from bdf_jax.data.index import ImageIndex
from bdf_jax.errors import BdfError
from bdf_jax.evaluation import top_k
from bdf_jax.evaluation.harness import measure
from bdf_jax.evaluation.protocols import protocols_for
from bdf_jax.evaluation.rankable import check_scores, concerns
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
    with pytest.raises(BdfError, match="similarity: expected cosine, dot, euclidean, max4, min4, found 'l2'"):
        as_products(FEATURES, "l2")


@pytest.mark.parametrize(("similarity", "extreme"), [("max4", max), ("min4", min)])
def test_two_views_of_an_image_are_compared_by_the_extreme_of_four_cosines(similarity, extreme):
    rng = np.random.default_rng(1)
    modalities = np.arange(24) % 2
    index = ImageIndex(
        pids=np.arange(24) // 4 + 1,
        cams=modalities,
        modalities=modalities,
        names=np.array([f"{i:02}.png" for i in range(24)]),
    )
    features_ND = rng.normal(size=(24, 6)).astype(np.float32) * rng.uniform(0.1, 9, (24, 1)).astype(np.float32)
    protocol = protocols_for("regdb", index, directions=("visible_to_thermal",), trial=1)[0]
    (found,) = measure(features_ND, index, [protocol], similarity=similarity)
    for place, q in enumerate(protocol.query_rows):
        scores = [
            extreme(compared(a, b, "cosine") for a in np.split(features_ND[q], 2) for b in np.split(features_ND[g], 2))
            for g in protocol.gallery_rows[0]
        ]
        order = protocol.gallery_rows[0][np.argsort(-np.array(scores), kind="stable")]
        hits = index.pids[order] == index.pids[q]
        precisions = [hits[: i + 1].mean() for i in range(len(order)) if hits[i]]
        assert found.ap_TQ[0, place] == pytest.approx(np.mean(precisions))
    assert concerns(features_ND, index, similarity) == ([], [])
    features_ND[5, 3:] = 0  # one view of it was never written
    with pytest.raises(BdfError, match=r"1 of 24 images are all zero.*05\.png"):
        check_scores(features_ND, index.names, similarity)
    with pytest.raises(BdfError, match="an even length; found 5"):
        measure(features_ND[:, :5], index, [protocol], similarity=similarity)
