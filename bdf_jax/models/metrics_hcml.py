"""HCML's metric: a matrix for each base within, one positive semidefinite matrix between, learned in turns."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from bdf_jax.errors import BdfError, at_least
from bdf_jax.models.metrics import Maps, Metric, linear

STEP, SHRINK = 0.1, 0.95  # of the matrices of the bases: STEP * SHRINK ** iteration
LIPSCHITZ, GROWTH = 2.0**-8, 2.0  # of the matrix between: 1 / its first step, and by what that grows


@dataclasses.dataclass(frozen=True)
class HCML(Metric):
    """Hierarchical cross-modality metric learning.

        F(V, T, M) = sum over i, j of w_ij log(1 + exp(y_ij (D_ij - mu)))
                     + within * mean log(1 + exp(|V'(x - xbar)|^2)) + within * mean log(1 + exp(|T'(z - zbar)|^2))
        D_ij = (V' xbar_i - T' zbar_j)' M (V' xbar_i - T' zbar_j)

    xbar_i and zbar_j are the means of an identity's visible and infrared images; y is 1 for one identity and -1 for
    two, w is 1 over the number of such pairs, mu the mean of the first D. M = P P' takes accelerated proximal gradient
    steps onto the positive semidefinite matrices with line search, V and T plain gradient steps that shrink. An image
    is mapped by V P or T P, and distances are Euclidean.

    Source: Ye et al., "Hierarchical Discriminative Learning for Visible Thermal Person Re-Identification", AAAI 2018;
    for M, Liao and Li, "Efficient PSD Constrained Asymmetric Metric Learning for Person Re-identification", ICCV 2015.

    Attributes:
      within: weight of what draws an identity's images to their mean.
      iterations: at most.
      tolerance: relative change of F at which they end.
    """

    within: float = 0.2
    iterations: int = 300
    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        at_least("network.metric.within", self.within, 0)
        at_least("network.metric.iterations", self.iterations, 1)

    def fit(self, features_ND: np.ndarray, pids_N: np.ndarray, modalities_N: np.ndarray) -> Maps:
        """See `Metric.fit`."""
        features_ND = np.asarray(features_ND, np.float64)
        mean_D = features_ND.mean(0)
        basis_Dr = principal(features_ND - mean_D, self.features)
        reduced_Nr = (features_ND - mean_D) @ basis_Dr
        # To a mean squared length of 1: steps and weights are those of such features.
        scale = 1 / max(np.sqrt(np.square(reduced_Nr).sum(1).mean()), 1e-12)
        problem = Problem.of(scale * reduced_Nr, pids_N, modalities_N, self.within)
        visible_rr, infrared_rr, between_rr, _ = solve(problem, self.iterations, self.tolerance)
        root_rr = root(between_rr)
        matrices = [scale * basis_Dr @ own_rr @ root_rr for own_rr in (visible_rr, infrared_rr)]
        missing = self.features - basis_Dr.shape[1]
        visible_Dd, infrared_Dd = (np.pad(matrix, ((0, 0), (0, missing))) for matrix in matrices)
        return linear(visible_Dd, infrared_Dd, np.stack([mean_D, mean_D]))


def principal(centred_ND: np.ndarray, features: int) -> np.ndarray:
    """(D, r) principal directions of centred features, r <= `features` of them that are not empty."""
    values_D, vectors_DD = np.linalg.eigh(centred_ND.T @ centred_ND)
    order = np.argsort(values_D)[::-1][:features]
    full = values_D[order] > 1e-9 * max(values_D.max(), 1e-300)
    return vectors_DD[:, order[full]] if full.any() else vectors_DD[:, order[:1]]


class Problem(NamedTuple):
    """What is minimised over V, T and M.

    Attributes:
      means_2Cr: of each of C identities in both bases.
      apart_2: each image's difference from its mean, (N, r) in either base.
      signs_CC: y.
      weights_CC: w.
      within: weight.
      mu: where distances are near and far.
    """

    means_2Cr: np.ndarray
    apart_2: tuple[np.ndarray, np.ndarray]
    signs_CC: np.ndarray
    weights_CC: np.ndarray
    within: float
    mu: float

    @classmethod
    def of(cls, features_Nr: np.ndarray, pids_N: np.ndarray, modalities_N: np.ndarray, within: float) -> Problem:
        """Of the identities that have images in both bases; raises BdfError where they are fewer than two."""
        rows = [np.flatnonzero(modalities_N == base) for base in (0, 1)]
        people = np.intersect1d(pids_N[rows[0]], pids_N[rows[1]])
        if len(people) < 2:
            raise BdfError(
                "network.metric: HCML needs at least 2 identities with images in both bases, found " + str(len(people))
            )
        means, apart = [], []
        for own in rows:
            kept = own[np.isin(pids_N[own], people)]
            belongs = np.searchsorted(people, pids_N[kept])
            sums = np.zeros((len(people), features_Nr.shape[1]))
            np.add.at(sums, belongs, features_Nr[kept])
            means.append(sums / np.bincount(belongs, minlength=len(people))[:, None])
            apart.append(features_Nr[kept] - means[-1][belongs])
        same = np.eye(len(people), dtype=bool)
        signs = np.where(same, 1.0, -1.0)
        weights = np.where(same, 1 / same.sum(), 1 / (~same).sum())
        identity = np.eye(features_Nr.shape[1])
        mu = float(squared_distances(means[0], means[1], identity).mean())
        return cls(np.stack(means), (apart[0], apart[1]), signs, weights, within, mu)

    def crossed(self, distance_CC: np.ndarray) -> tuple[float, np.ndarray]:
        """The first sum of F at these distances, and its derivative by each of them."""
        margin_CC = self.signs_CC * (distance_CC - self.mu)
        value = float((self.weights_CC * np.logaddexp(0, margin_CC)).sum())
        return value, self.weights_CC * self.signs_CC * sigmoid(margin_CC)

    def inner(self, base: int, own_rr: np.ndarray) -> tuple[float, np.ndarray]:
        """The other sum of F for a base, without its weight, and its gradient by V or T."""
        apart = self.apart_2[base]
        mapped = apart @ own_rr
        squared = np.square(mapped).sum(1)
        gradient = 2 / len(apart) * apart.T @ (sigmoid(squared)[:, None] * mapped)
        return float(np.logaddexp(0, squared).mean()), gradient

    def value_and_gradients(
        self, visible_rr: np.ndarray, infrared_rr: np.ndarray, between_rr: np.ndarray
    ) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
        """F and its gradients by V, T and M."""
        a, b = self.means_2Cr[0] @ visible_rr, self.means_2Cr[1] @ infrared_rr
        value, pull_CC = self.crossed(squared_distances(a, b, between_rr))
        rows, columns = pull_CC.sum(1)[:, None], pull_CC.sum(0)[:, None]
        by_a = 2 * (rows * a - pull_CC @ b) @ between_rr
        by_b = 2 * (columns * b - pull_CC.T @ a) @ between_rr
        mixed = a.T @ pull_CC @ b
        by_between = a.T @ (rows * a) + b.T @ (columns * b) - mixed - mixed.T
        gradients = []
        for base, (own_rr, by_means) in enumerate(((visible_rr, by_a), (infrared_rr, by_b))):
            inner, by_own = self.inner(base, own_rr)
            value += self.within * inner
            gradients.append(self.means_2Cr[base].T @ by_means + self.within * by_own)
        return value, gradients[0], gradients[1], by_between


def solve(
    problem: Problem, iterations: int, tolerance: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[float]]:
    """V, T, M and F before the first and after every iteration."""
    r = problem.means_2Cr.shape[2]
    visible, infrared, between, before = (np.eye(r) for _ in range(4))
    speed, lipschitz = 0.0, LIPSCHITZ
    values = [problem.value_and_gradients(visible, infrared, between)[0]]
    for iteration in range(1, iterations + 1):
        last, speed = speed, (1 + np.sqrt(1 + 4 * speed**2)) / 2
        ahead = between + (last - 1) / speed * (between - before)
        before = between
        between, lipschitz = _proximal(problem, visible, infrared, ahead, lipschitz)
        _, by_visible, by_infrared, _ = problem.value_and_gradients(visible, infrared, between)
        step = STEP * SHRINK**iteration
        visible, infrared = visible - step * by_visible, infrared - step * by_infrared
        values.append(problem.value_and_gradients(visible, infrared, between)[0])
        if abs(values[-1] - values[-2]) < tolerance * abs(values[-2]):
            break
    return visible, infrared, between, values


def _proximal(
    problem: Problem, visible: np.ndarray, infrared: np.ndarray, ahead: np.ndarray, lipschitz: float
) -> tuple[np.ndarray, float]:
    """The next M from `ahead`, with the first step, 1 / lipschitz, that keeps below the quadratic bound."""
    a, b = problem.means_2Cr[0] @ visible, problem.means_2Cr[1] @ infrared
    start, pull_CC = problem.crossed(squared_distances(a, b, ahead))
    mixed = a.T @ pull_CC @ b
    gradient = a.T @ (pull_CC.sum(1)[:, None] * a) + b.T @ (pull_CC.sum(0)[:, None] * b) - mixed - mixed.T
    while True:
        found = semidefinite(ahead - gradient / lipschitz)
        moved = found - ahead
        bound = start + (moved * gradient).sum() + lipschitz / 2 * np.square(moved).sum()
        value, _ = problem.crossed(squared_distances(a, b, found))
        if value <= bound + 1e-12 * abs(bound):
            return found, lipschitz
        lipschitz *= GROWTH


def squared_distances(a_Cr: np.ndarray, b_Cr: np.ndarray, between_rr: np.ndarray) -> np.ndarray:
    """(C, C) (a_i - b_j)' M (a_i - b_j)."""
    a_mapped, b_mapped = a_Cr @ between_rr, b_Cr @ between_rr
    return (a_mapped * a_Cr).sum(1)[:, None] - a_mapped @ b_Cr.T - (b_mapped @ a_Cr.T).T + (b_mapped * b_Cr).sum(1)


def semidefinite(matrix_rr: np.ndarray) -> np.ndarray:
    """The nearest symmetric matrix without negative eigenvalues."""
    half_rr = root(matrix_rr)
    return half_rr @ half_rr.T


def root(matrix_rr: np.ndarray) -> np.ndarray:
    """P with P P' the nearest such matrix."""
    values_r, vectors_rr = np.linalg.eigh((matrix_rr + matrix_rr.T) / 2)
    return vectors_rr * np.sqrt(np.maximum(values_r, 0))


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)) without overflow."""
    return np.exp(-np.logaddexp(0, -x))
