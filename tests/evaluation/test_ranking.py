"""The counting rank: any scores, any blocks, any number of devices."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import protocol_definitions as definitions
import pytest

from bdf_jax.evaluation import ranking
from bdf_jax.evaluation.protocols import Protocol, protocols_for

FLOATS = np.asarray([-np.inf, -3e38, -1.5, -1e-45, -0.0, 0.0, 1e-45, 2e-38, 0.1, 0.10000001, 1, 3e38], np.float32)


def test_keys_have_the_order_of_the_scores():
    nobody = ranking.Ignoring((), False)
    labels_G2 = np.zeros((len(FLOATS), 2), np.int32)
    keys = np.asarray(ranking.keys_of_scores(FLOATS[:, None], labels_G2[:1], labels_G2, nobody))[:-1, 0]
    for i, a in enumerate(FLOATS):
        for j, b in enumerate(FLOATS):
            # XLA flushes subnormal numbers to zero on some devices, so only those may tie without being equal.
            tiny = {i, j} <= {3, 4, 5, 6}
            assert (keys[i] < keys[j]) == (a < b) or tiny
            assert (keys[i] == keys[j]) == (a == b) or tiny
    assert keys.min() > ranking.HIDDEN
    assert keys[4] == keys[5]


@pytest.mark.parametrize("cmc", ["unique", "raw"])
@pytest.mark.parametrize("seed", range(2))
def test_random_scores_with_ties_and_lopsided_galleries(cmc, seed):
    rng = np.random.default_rng(seed)
    index = definitions.small_sysu(seed, ids=9, absent=0.5)
    visible = np.flatnonzero(index.modalities == 0).astype(np.int32)
    query = np.flatnonzero(index.modalities == 1).astype(np.int32)
    galleries = tuple(rng.permutation(visible)[: rng.integers(len(visible) // 2, len(visible))] for _ in range(2))
    protocol = Protocol("d", "all", "g", "x", None, (0, 1), query, galleries, cmc, ((3, 2), (6, 1)), False)
    for trial, rows in enumerate(galleries):
        scores_QG = rng.integers(-2, 3, (len(query), len(rows))).astype(np.float32)
        one = Protocol("d", "all", "g", "x", None, (trial,), query, (rows,), cmc, protocol.ignored_cameras, False)
        measured = ranking.rank_scores(scores_QG, index, one)
        for q, row in enumerate(query):
            pid, cam = int(index.pids[row]), int(index.cams[row])
            left = [g for g in range(len(rows)) if (cam, int(index.cams[rows[g]])) not in protocol.ignored_cameras]
            pids = [int(index.pids[rows[g]]) for g in left]
            expected = definitions.query_metrics([scores_QG[q, g] for g in left], [p == pid for p in pids], pids, pid)
            assert measured.valid_TQ[0, q] == (expected is not None)
            if expected:
                assert measured.ap_TQ[0, q] == pytest.approx(expected["ap"], abs=1e-6)
                assert measured.inp_TQ[0, q] == pytest.approx(expected["inp"], abs=1e-6)
                assert measured.rank_TQ[0, q] == expected[cmc]


def test_blocks_do_not_change_anything():
    index = definitions.small_sysu(seed=3, ids=12)
    features_ND = definitions.coarse_features(index, seed=4)
    protocols = protocols_for("sysu_mm01", index, galleries=["agw"], shots=[10])
    whole = ranking.rank_all(features_ND, index, protocols)
    for block in (1, 37):
        for a, b in zip(whole, ranking.rank_all(features_ND, index, protocols, block=block), strict=True):
            for field in ("rank_TQ", "valid_TQ"):
                np.testing.assert_array_equal(getattr(a, field), getattr(b, field))
            for field in ("ap_TQ", "inp_TQ"):  # sums of a few float32 numbers, in any order
                np.testing.assert_allclose(getattr(a, field), getattr(b, field), rtol=1e-6)


def test_identities_may_be_of_any_length():
    """They differ in their upper 32 bits alone; LLCM's protocol compares identities, not only matches."""
    index = definitions.small_llcm(seed=3, ids=12)
    features_ND = definitions.coarse_features(index, seed=4)
    long = dataclasses.replace(index, pids=index.pids.astype(np.int64) << 32)
    for a, b in zip(
        ranking.rank_all(features_ND, index, protocols_for("llcm", index)),
        ranking.rank_all(features_ND, long, protocols_for("llcm", long)),
        strict=True,
    ):
        for field in ("rank_TQ", "valid_TQ", "ap_TQ", "inp_TQ"):
            np.testing.assert_array_equal(getattr(a, field), getattr(b, field))


def test_equal_features_have_equal_scores_wherever_they_stand():
    rng = np.random.default_rng(0)
    for images, queries, dimensions in ((301, 77, 65), (1021, 130, 2048), (13, 5, 512)):
        gallery_GD = np.tile(rng.standard_normal(dimensions).astype(np.float32), (images, 1))
        other = rng.random(images) < 0.3
        gallery_GD[other] = rng.standard_normal((other.sum(), dimensions))
        queries_QD = rng.standard_normal((queries, dimensions)).astype(np.float32)
        labels = np.zeros((queries, 2), np.int32), np.zeros((images, 2), np.int32)
        keys = jax.jit(ranking.score_keys, static_argnums=4)
        keys_GQ = np.asarray(keys(queries_QD, gallery_GD, *labels, ranking.Ignoring((), False)))[:-1]
        assert (keys_GQ[~other] == keys_GQ[~other][:1]).all()


SEVERAL_DEVICES = """
import jax, numpy as np, protocol_definitions as definitions
from bdf_jax.evaluation import ranking, retrieval
from bdf_jax.evaluation.protocols import protocols_for
assert jax.local_device_count() == DEVICES
index = definitions.small_sysu(seed=3, ids=12)
features_ND = definitions.coarse_features(index, seed=4)
protocols = protocols_for("sysu_mm01", index, galleries=["agw"], shots=[10])
measured = ranking.rank_all(features_ND, index, protocols, block=5)
out = [getattr(m, f) for m in measured for f in ("ap_TQ", "inp_TQ", "rank_TQ", "valid_TQ")]
out += retrieval.top_k(features_ND[:20], features_ND, 9, block=10)
np.savez("OUT", *out)
"""


def test_eight_devices_agree_with_one(tmp_path):
    """In processes of their own, because the number of devices is fixed when JAX starts."""
    results = []
    for devices in (1, 8):
        out = tmp_path / f"{devices}.npz"
        paths = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(devices),
        }
        script = SEVERAL_DEVICES.replace("DEVICES", str(devices)).replace("OUT", str(out))
        subprocess.run([sys.executable, "-c", script], check=True, timeout=120, env=environment)
        with np.load(out) as stored:
            results.append([stored[key] for key in stored])
    for one, eight in zip(*results, strict=True):
        np.testing.assert_allclose(one, eight, rtol=1e-6)  # ranks and rows exactly, sums of float32 almost
