"""Chance level and the features that nobody learned."""

import numpy as np
import protocol_definitions as definitions
import pytest

from bdf_jax.errors import BdfError
from bdf_jax.evaluation import baselines, harness
from bdf_jax.evaluation.protocols import protocols_for
from bdf_jax.evaluation.ranking import rank_scores
from bdf_jax.evaluation.statistics import METRICS, per_trial

CASES = {
    "sysu_mm01": (
        definitions.small_sysu(seed=1, ids=20),
        {"galleries": ["agw"], "modes": ["all"], "shots": [10], "trial": 0},
    ),
    "regdb": (definitions.small_regdb(ids=25), {"directions": ["thermal_to_visible"]}),
    "llcm": (definitions.small_llcm(seed=2, ids=30), {"directions": ["visible_to_infrared"], "trial": 0}),
}


@pytest.mark.parametrize("dataset", CASES)
def test_chance_is_the_mean_of_random_rankings(dataset):
    index, options = CASES[dataset]
    rng = np.random.default_rng(0)
    for protocol in protocols_for(dataset, index, **options):
        (row,) = baselines.chance_rows(index, [protocol])
        shape = len(protocol.query_rows), len(protocol.gallery_rows[0])
        drawn = np.concatenate(
            [per_trial([rank_scores(rng.random(shape).astype(np.float32), index, protocol)]) for _ in range(60)]
        )
        # Every query is ranked at random on its own, so the mean's standard error is honest.
        error = drawn.std(axis=0, ddof=1) / np.sqrt(len(drawn))
        found = np.asarray([row[metric] for metric in METRICS])
        assert (np.abs(found - drawn.mean(axis=0)) < 4 * error + 1e-9).all(), (found, drawn.mean(axis=0), error)
        (real,) = harness.evaluate(np.ones((len(index), 2)), index, [protocol])
        assert set(row) <= set(real)
        for key in ("trials", "queries", "queries_without_match", "gallery_size"):
            assert row[key] == real[key]


def test_chance_of_a_single_match():
    index = definitions.small_regdb(ids=10, images=1)
    row = baselines.chance_rows(index, protocols_for("regdb", index))[0]
    assert [row[m] for m in ("R1", "R5", "R10", "R20")] == pytest.approx([10, 50, 100, 100])
    assert row["mAP"] == pytest.approx(10 * sum(1 / k for k in range(1, 11)))
    assert row["mINP"] == pytest.approx(row["mAP"])


def test_no_match_at_all():
    index = definitions.sysu_index([("cam3/0001/0001.jpg", 1, 3), ("cam1/0002/0001.jpg", 2, 1)])
    protocols = protocols_for("sysu_mm01", index, galleries=["agw"], modes=["all"], shots=[1])
    with pytest.raises(BdfError, match="no query has a match"):
        baselines.chance_rows(index, protocols)


def test_features_without_learning():
    rng = np.random.default_rng(0)
    images_NHWC = rng.integers(0, 256, (3, 64, 32, 3), dtype=np.uint8)
    grey_NHW = images_NHWC @ np.asarray([0.299, 0.587, 0.114])
    halved_NHW = baselines.raw_pixel_features(images_NHWC).reshape(3, 32, 16)
    assert np.corrcoef(halved_NHW.ravel(), grey_NHW.reshape(3, 32, 2, 16, 2).mean((2, 4)).ravel())[0, 1] > 0.9
    dy_NHW, dx_NHW = np.gradient(grey_NHW, axis=(1, 2))
    expected = np.hypot(dy_NHW, dx_NHW).reshape(3, 32, 2, 16, 2).mean((2, 4)).reshape(3, 512)
    np.testing.assert_allclose(baselines.edge_features(images_NHWC), expected, rtol=1e-3)

    flat = np.full((1, 40, 20, 3), 90, np.uint8)
    np.testing.assert_allclose(baselines.raw_pixel_features(flat), 90, rtol=1e-5)
    np.testing.assert_allclose(baselines.edge_features(flat), 0, atol=1e-3)
