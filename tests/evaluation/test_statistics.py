"""Spread, intervals and comparisons, against their definitions."""

import numpy as np
import pytest

from bdf_jax.errors import BdfError
from bdf_jax.evaluation import statistics
from bdf_jax.evaluation.ranking import Measured


def some_measured(seed=0, trials=3, queries=40, shift=0.0):
    rng = np.random.default_rng(seed)
    return Measured(
        np.clip(rng.random((trials, queries)) + shift, 0, 1),
        rng.random((trials, queries)),
        rng.integers(0, 30, (trials, queries)),
        np.tile(rng.random(queries) < 0.9, (trials, 1)),
    )


def by_loops(measured, rows):
    """Mean over trials of the mean over the valid ones of the given queries."""
    trials = []
    for t in range(len(measured.ap_TQ)):
        valid = [q for q in rows if measured.valid_TQ[t, q]]
        cmc = [np.mean([measured.rank_TQ[t, q] < r for q in valid]) for r in (1, 5, 10, 20)]
        trials.append([*cmc, *(np.mean([values[t, q] for q in valid]) for values in (measured.ap_TQ, measured.inp_TQ))])
    return 100 * np.mean(trials, axis=0)


def test_mean_over_valid_queries_then_over_trials():
    measured = some_measured()
    np.testing.assert_allclose(statistics.per_trial([measured]).mean(axis=0), by_loops(measured, range(40)))


def test_bootstrap_redraws_queries():
    measured = some_measured()
    draws = np.random.default_rng((0, 0)).integers(40, size=(statistics.SAMPLES, 40))
    samples_BK = statistics.bootstrap([measured])
    for b in (0, 7, 999):
        np.testing.assert_allclose(samples_BK[b], by_loops(measured, draws[b]), rtol=1e-5)
    low, high = statistics.interval(samples_BK)[4]
    ordered = np.sort(samples_BK[:, 4])
    assert (low, high) == pytest.approx((ordered[25], ordered[974]), abs=0.1)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    covered = 0
    for seed in range(200):
        low, high = statistics.interval(statistics.bootstrap([some_measured(seed)], samples=200))[4]
        covered += low <= 50 <= high  # the mean of a uniform AP
    assert 0.88 < covered / 200 < 0.99


def test_comparison_is_paired():
    measured, other = some_measured(), some_measured(shift=0.01)
    same = statistics.compare([measured], [measured])
    assert all(d["difference"] == 0 and d["ci"] == [0, 0] and not d["clear"] for d in same)
    by_name = {d["metric"]: d for d in statistics.compare([other], [measured])}
    low, high = by_name["mAP"]["ci"]
    # One point of mAP on 40 queries: far within either interval, clear when paired.
    own_low, own_high = statistics.interval(statistics.bootstrap([measured]))[4]
    assert 0 < low < by_name["mAP"]["difference"] < high < 1.01
    assert own_high - own_low > 10
    assert by_name["mAP"]["clear"]
    assert not by_name["R1"]["clear"]


def test_splits_are_averaged_trial_by_trial():
    splits = [some_measured(seed, trials=1, queries=10 + seed) for seed in range(4)]
    expected = np.mean([by_loops(m, range(m.ap_TQ.shape[1])) for m in splits], axis=0)
    np.testing.assert_allclose(statistics.per_trial(splits).mean(axis=0), expected)
    assert statistics.bootstrap(splits, samples=10).shape == (10, 6)


def test_no_valid_query():
    measured = some_measured()
    with pytest.raises(BdfError, match="no query has a match"):
        statistics.per_trial([Measured(measured.ap_TQ, measured.inp_TQ, measured.rank_TQ, measured.valid_TQ & False)])
