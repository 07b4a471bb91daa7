"""How sure a number is: standard deviation over trials, bootstrap over queries, paired comparison.

The bootstrap (Efron, 1979) draws queries with replacement and reports percentiles; a comparison uses the same draws for
both sides, so that what makes a query hard for both cancels. Queries of one identity are alike, so the intervals say
nothing about other identities.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from bdf_jax.errors import BdfError
from bdf_jax.evaluation.ranking import Measured

METRICS = ("R1", "R5", "R10", "R20", "mAP", "mINP")
SAMPLES = 1000  # bootstrap draws
LEVEL = 0.95  # coverage of the intervals


def per_trial(splits: Sequence[Measured]) -> np.ndarray:
    """(T, 6) percent: every metric of every trial, the mean over its valid queries.

    Args:
      splits: one entry where trials share the queries; one for each test split otherwise (RegDB).

    Raises:
      BdfError: a trial in which no query has a match.
    """
    trials = []
    for measured in splits:
        valid_T = measured.valid_TQ.sum(axis=1)
        if not valid_T.all():
            raise no_match()
        trials.append(np.stack([value_TQ.sum(axis=1) / valid_T for value_TQ in _values(measured)], axis=1))
    return 100 * np.concatenate(trials)


def no_match() -> BdfError:
    """The error for a trial of which nothing can be said."""
    return BdfError("no query has a match in the gallery: queries and gallery share no identity that is not ignored")


def bootstrap(splits: Sequence[Measured], *, samples: int = SAMPLES, seed: int = 0) -> np.ndarray:
    """(samples, 6) percent: every metric, mean over trials, for queries drawn with replacement.

    The same seed and numbers of queries give the same draws: differences of two such arrays are paired.
    """
    drawn = []
    for number, measured in enumerate(splits):
        trials, queries = measured.valid_TQ.shape
        values_QC = np.concatenate([*_values(measured), measured.valid_TQ]).T.astype(np.float32)
        sums = [weights_BQ @ values_QC for weights_BQ in _draws(queries, samples, (seed, number))]
        sums_B7T = np.concatenate(sums).reshape(samples, len(METRICS) + 1, trials)
        drawn.append(sums_B7T[:, :-1] / np.maximum(sums_B7T[:, -1:], 1))
    return 100 * np.concatenate(drawn, axis=2).mean(axis=2, dtype=float)


def interval(samples_BK: np.ndarray, level: float = LEVEL) -> np.ndarray:
    """(K, 2): the percentile interval of every column."""
    tail = 50 * (1 - level)
    return np.percentile(samples_BK, [tail, 100 - tail], axis=0).T


def compare(splits: Sequence[Measured], others: Sequence[Measured], *, seed: int = 0) -> list[dict[str, object]]:
    """`compare_runs` of one run on each side."""
    return compare_runs([splits], [others], seed=seed)


def compare_runs(
    runs: Sequence[Sequence[Measured]], others: Sequence[Sequence[Measured]], *, seed: int = 0
) -> list[dict[str, object]]:
    """The difference of each metric, mean over runs, first minus second, with its paired bootstrap interval, in points.

    All must come from the same queries in the same order. The interval is over queries: of other seeds of training it
    says nothing.

    Args:
      runs: of each run (a seed of training) what `measure` gave, as in `per_trial`.
      others: likewise; their number may differ.
      seed: of the draws.

    Returns:
      for each metric: `metric`, `difference`, `ci` [low, high] and `clear`, whether the interval leaves out 0.
    """
    sides = [(mean_of(side), mean_bootstrap(side, seed=seed)) for side in (runs, others)]
    return differences(*sides[0], *sides[1])


def differences(
    mean_K: np.ndarray, samples_BK: np.ndarray, other_K: np.ndarray, others_BK: np.ndarray
) -> list[dict[str, object]]:
    """What `compare_runs` returns, from what `mean_of` and `mean_bootstrap` gave for both sides."""
    difference_K, interval_K2 = mean_K - other_K, interval(samples_BK - others_BK)
    return [
        {
            "metric": name,
            "difference": float(value),
            "ci": [float(low), float(high)],
            "clear": bool(low > 0 or high < 0),
        }
        for name, value, (low, high) in zip(METRICS, difference_K, interval_K2, strict=True)
    ]


def mean_of(runs: Sequence[Sequence[Measured]]) -> np.ndarray:
    """(6,) percent: every metric, mean over trials and then over runs."""
    return np.mean([per_trial(splits).mean(axis=0) for splits in runs], axis=0)


def mean_bootstrap(runs: Sequence[Sequence[Measured]], *, seed: int = 0) -> np.ndarray:
    """(samples, 6) percent: `bootstrap` with the same draws for every run, mean over runs."""
    return np.mean([bootstrap(splits, seed=seed) for splits in runs], axis=0)


def _values(measured: Measured) -> Iterator[np.ndarray]:
    valid_TQ = measured.valid_TQ
    for rank in (1, 5, 10, 20):
        yield valid_TQ & (measured.rank_TQ < rank)
    yield np.where(valid_TQ, measured.ap_TQ, 0)
    yield np.where(valid_TQ, measured.inp_TQ, 0)


def _draws(queries: int, samples: int, seed: tuple[int, int]) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(seed)
    block = max(1, 2**22 // queries)  # bounds the memory for any number of queries
    for start in range(0, samples, block):
        size = min(block, samples - start)
        chosen_BQ = generator.integers(queries, size=(size, queries)) + queries * np.arange(size)[:, None]
        yield np.bincount(chosen_BQ.ravel(), minlength=size * queries).reshape(size, queries).astype(np.float32)
