"""XQDA: a metric from how differences of the same person and of two people are distributed."""

from __future__ import annotations

import dataclasses

import numpy as np

from bdf_jax.errors import BdfError, at_least
from bdf_jax.models.metrics import Maps, Metric, linear


@dataclasses.dataclass(frozen=True)
class XQDA(Metric):
    """The quadratic discriminant of cross-modality differences, in the subspace where the two kinds differ the most.

        d(x, z) = (x - z)' W (inv(W' S W) - inv(W' B W)) W' (x - z)

    S and B are the second moments of the differences between a visible and an infrared image of one and of two people,
    W the generalised eigenvectors of (B, S) with values above 1. With W' S W = 1 the matrix between is diagonal,
    1 - 1 / value, so that d is a squared Euclidean distance after one map, the same for both bases.

    Source: Liao et al., "Person Re-Identification by Local Maximal Occurrence Representation and Metric Learning",
    CVPR 2015, sections 4 and 5.

    Attributes:
      ridge: added to the diagonal of S, in units of its mean.
    """

    ridge: float = 0.01

    def __post_init__(self) -> None:
        at_least("network.metric.ridge", self.ridge, 0)

    def fit(self, features_ND: np.ndarray, pids_N: np.ndarray, modalities_N: np.ndarray) -> Maps:
        """See `Metric.fit`."""
        features_ND = np.asarray(features_ND, np.float64)
        same_DD, other_DD = moments(features_ND, pids_N, modalities_N)
        D = len(same_DD)
        same_DD = same_DD + (self.ridge * np.trace(same_DD) / D + 1e-12) * np.eye(D)
        lower_DD = np.linalg.cholesky(same_DD)
        half_DD = np.linalg.solve(lower_DD, other_DD)
        values_D, turned_DD = np.linalg.eigh(np.linalg.solve(lower_DD, half_DD.T))
        chosen = np.argsort(values_D)[::-1][: self.features]
        weights_d = np.sqrt(np.maximum(1 - 1 / np.maximum(values_D[chosen], 1e-12), 0))
        map_Dd = np.linalg.solve(lower_DD.T, turned_DD[:, chosen]) * weights_d
        map_Dd = np.pad(map_Dd, ((0, 0), (0, self.features - map_Dd.shape[1])))
        return linear(map_Dd, map_Dd, np.zeros((2, D)))


def moments(features_ND: np.ndarray, pids_N: np.ndarray, modalities_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(D, D) second moments of the differences x - z of all pairs of one person, and of all pairs of two.

    Raises:
      BdfError: no pair of either kind.
    """
    visible, infrared = features_ND[modalities_N == 0], features_ND[modalities_N == 1]
    people = np.unique(pids_N)
    of_visible, of_infrared = (
        np.equal.outer(people, pids_N[modalities_N == base]).astype(np.float64) for base in (0, 1)
    )
    count_v, count_i = of_visible.sum(1), of_infrared.sum(1)
    same_pairs = float(count_v @ count_i)
    all_pairs = float(len(visible) * len(infrared))
    if not 0 < same_pairs < all_pairs:
        raise BdfError(
            "network.metric: an XQDA needs visible and infrared images of the same and of different people; found "
            f"{len(visible)} visible and {len(infrared)} infrared images, {same_pairs:.0f} pairs of one person"
        )
    sum_v, sum_i = of_visible @ visible, of_infrared @ infrared
    crossed = sum_v.T @ sum_i
    same = (visible.T * (count_i @ of_visible)) @ visible + (infrared.T * (count_v @ of_infrared)) @ infrared
    same -= crossed + crossed.T
    crossed = np.outer(visible.sum(0), infrared.sum(0))
    every = len(infrared) * visible.T @ visible + len(visible) * infrared.T @ infrared - crossed - crossed.T
    return same / same_pairs, (every - same) / (all_pairs - same_pairs)
