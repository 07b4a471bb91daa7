"""Exact top-k against a full sort."""

import numpy as np
import pytest

from bdf_jax.errors import BdfError
from bdf_jax.evaluation.retrieval import top_k


def by_sorting(queries_QD, gallery_GD, k):
    scores_QG = queries_QD.astype(np.float32) @ gallery_GD.astype(np.float32).T
    rows_QK = np.argsort(-scores_QG, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores_QG, rows_QK, axis=1), rows_QK


@pytest.mark.parametrize("block", [1, 7, 64, 1000])
@pytest.mark.parametrize("k", [1, 10, 200])
def test_ties_go_to_the_lower_row_whatever_the_block(block, k):
    rng = np.random.default_rng(0)
    queries_QD = rng.integers(-2, 3, (9, 8)).astype(np.float32)
    gallery_GD = rng.integers(-2, 3, (200, 8)).astype(np.float32)  # exact products, many ties
    scores_QK, rows_QK = top_k(queries_QD, gallery_GD, k, block=block)
    expected = by_sorting(queries_QD, gallery_GD, k)
    np.testing.assert_array_equal(rows_QK, expected[1])
    np.testing.assert_array_equal(scores_QK, expected[0])


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_gallery_on_disk(tmp_path, dtype):
    rng = np.random.default_rng(1)
    gallery_GD = rng.standard_normal((500, 16)).astype(dtype)
    stored = np.memmap(tmp_path / "gallery", dtype, "w+", shape=gallery_GD.shape)
    stored[:] = gallery_GD
    stored.flush()
    queries_QD = rng.standard_normal((1030, 16)).astype(np.float32)  # more than one block of queries
    on_disk = np.memmap(tmp_path / "gallery", dtype, "r", shape=gallery_GD.shape)
    scores_QK, rows_QK = top_k(queries_QD, on_disk, 5, block=64)
    expected = by_sorting(queries_QD, gallery_GD, 5)
    assert (rows_QK == expected[1]).mean() > 0.999  # sums in another order may swap two nearly equal scores
    np.testing.assert_allclose(scores_QK, expected[0], rtol=1e-5, atol=1e-5)


def test_cosine_similarity():
    rng = np.random.default_rng(2)
    queries_QD, gallery_GD = rng.standard_normal((4, 8)), rng.standard_normal((50, 8)).astype(np.float32)
    unit = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in (queries_QD, gallery_GD)]
    scores_QK, rows_QK = top_k(queries_QD, gallery_GD, 3, normalise=True, block=16)
    expected = by_sorting(*unit, 3)
    np.testing.assert_array_equal(rows_QK, expected[1])
    np.testing.assert_allclose(scores_QK, expected[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((np.zeros((2, 3)), np.zeros((5, 4), np.float32), 1), r"\(2, 3\) and \(5, 4\)"),
        ((np.zeros((2, 3)), np.zeros((5, 3), np.float32), 6), "1 to the gallery's 5 rows, found 6"),
        ((np.zeros((2, 3)), np.zeros((5, 3)), 1), "float32 or float16, found float64"),
        ((np.zeros((0, 3)), np.zeros((5, 3), np.float32), 1), "at least one query"),
        ((np.full((2, 3), np.nan), np.zeros((5, 3), np.float32), 1), "2 of 2 queries"),
    ],
)
def test_what_cannot_be_searched(arguments, said):
    with pytest.raises(BdfError, match=said):
        top_k(*arguments)
