"""Time of the complete protocols at the data sets' real sizes, beside the plain per-query definitions.

  python benchmarks/evaluation.py [--dimensions=2048] [--queries=128] [--repeats=5] [--json=OUT]

SYSU-MM01: 3,803 queries, 6,775 gallery images, both modes, 1 and 10 shots, both gallery families, ten trials each: 80
evaluations. RegDB: both directions of one trial, 2,060 x 2,060. The floor is the one matrix product that no
implementation can avoid. The plain NumPy loops run on `--queries` of the queries and their time is scaled to all of
them; on those queries both implementations must agree to 1e-6. Exit code 1 when they do not.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

sys.path.insert(0, str(Path(__file__).parents[1]))  # from a checkout that is not installed

from benchmarks import command

DIMENSIONS = flags.DEFINE_integer("dimensions", 2048, "Length of a feature.")
QUERIES = flags.DEFINE_integer("queries", 128, "Queries of each data set that the plain loops rank.")
REPEATS = flags.DEFINE_integer("repeats", 5, "Runs after compilation; the table shows median and best.")
JSON = flags.DEFINE_string("json", "", "Write the table to this file.")


def main(_: Sequence[str]) -> int:
    """Measures, prints the table, and fails on disagreement."""
    import jax

    from bdf_jax.evaluation.table import write_json
    from benchmarks.tables import show

    rows = [_measured(name, *make()) for name, make in (("SYSU-MM01, complete", _sysu), ("RegDB, one trial", _regdb))]
    show(f"{jax.devices()[0].device_kind}, JAX {jax.__version__}, {DIMENSIONS.value} dimensions", rows)
    if JSON.value:
        write_json(JSON.value, rows)
    return 0 if all(row["largest_difference"] <= 1e-6 for row in rows) else 1


def _sysu() -> tuple[Any, Any]:
    from bdf_jax.data.index import ImageIndex
    from bdf_jax.datasets import gallery
    from bdf_jax.evaluation.protocols import protocols_for

    names, pids = gallery.published_images()
    cams = np.asarray([int(name[3]) for name in names], np.int32)
    index = ImageIndex(names, pids.astype(np.int32), cams, np.isin(cams, (3, 6)).astype(np.int8))
    return index, protocols_for("sysu_mm01", index, picks=gallery.shipped_picks())


def _regdb() -> tuple[Any, Any]:
    from bdf_jax.data.index import ImageIndex
    from bdf_jax.evaluation.protocols import protocols_for

    modalities, pids, numbers = (part.ravel() for part in np.indices((2, 206, 10)))
    names = [f"{('Visible', 'Thermal')[m]}/{pid}/{k}.bmp" for m, pid, k in zip(modalities, pids, numbers, strict=True)]
    index = ImageIndex(
        np.asarray(names), pids.astype(np.int32), (modalities + 1).astype(np.int32), modalities.astype(np.int8)
    )
    return index, protocols_for("regdb", index, trial=1)


def _measured(name: str, index: Any, protocols: Any) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp

    from bdf_jax.evaluation import ranking, statistics

    rng = np.random.default_rng(0)
    centres = rng.standard_normal((index.pids.max() + 1, DIMENSIONS.value))
    features_ND = (centres[index.pids] + 4 * rng.standard_normal((len(index), DIMENSIONS.value))).astype(np.float32)
    features_ND /= np.linalg.norm(features_ND, axis=1, keepdims=True)

    def complete() -> list[np.ndarray]:
        return [statistics.per_trial([m]) for m in ranking.rank_all(features_ND, index, protocols)]

    start = time.perf_counter()
    complete()
    first = time.perf_counter() - start
    median, best = _times(complete)

    product = jax.jit(lambda a, b: jnp.matmul(a, b.T, precision="highest"))
    sides = [(features_ND[p.query_rows], features_ND[_union([p])]) for p in _one_per_direction(protocols)]
    _, floor = _times(lambda: [product(*side).block_until_ready() for side in sides])

    fewer = [dataclasses.replace(p, query_rows=_sample(p.query_rows)) for p in protocols]
    start = time.perf_counter()
    plain = [_plain(features_ND, index, p, _union([q for q in fewer if q.direction == p.direction])) for p in fewer]
    plain_time = (time.perf_counter() - start) * len(protocols[0].query_rows) / len(fewer[0].query_rows)
    # One block of queries: then both sides rank the same float32 scores, to the last bit.
    fast = ranking.rank_all(features_ND, index, fewer)
    difference = max(
        np.abs(statistics.per_trial([m]).mean(axis=0) / 100 - p).max() for m, p in zip(fast, plain, strict=True)
    )
    return {
        "protocol": name,
        "evaluations": sum(len(p.gallery_rows) for p in protocols),
        "first_run_s": first,
        "median_s": median,
        "best_s": best,
        "floor_s": floor,
        "ratio_to_floor": best / floor,
        "plain_numpy_s": plain_time,
        "plain_queries": QUERIES.value,
        "times_faster": plain_time / best,
        "largest_difference": float(difference),
    }


def _times(function: Callable[[], object]) -> tuple[float, float]:
    times = []
    for _ in range(REPEATS.value):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return float(np.median(times)), min(times)


def _one_per_direction(protocols: Any) -> list[Any]:
    return list({p.direction: p for p in protocols}.values())


def _union(protocols: Any) -> np.ndarray:
    return np.unique(np.concatenate([rows for p in protocols for rows in p.gallery_rows]))


def _sample(rows: np.ndarray) -> np.ndarray:
    return np.sort(np.random.default_rng(0).permutation(rows)[: QUERIES.value])


def _plain(features_ND: np.ndarray, index: Any, protocol: Any, union: np.ndarray) -> np.ndarray:
    """The definitions, query by query in NumPy, as the field's code has them: (6,) means in 0..1."""
    from jax import lax
    from jax import numpy as jnp

    scores_UQ = np.asarray(
        jnp.matmul(features_ND[union], features_ND[protocol.query_rows].T, precision=lax.Precision.HIGHEST)
    )
    column_of = {row: column for column, row in enumerate(union.tolist())}
    trials = []
    for rows in protocol.gallery_rows:
        columns = [column_of[row] for row in rows.tolist()]
        pids_G, cams_G = index.pids[rows], index.cams[rows]
        queries = []
        for q, query in enumerate(protocol.query_rows):
            pid, cam = index.pids[query], index.cams[query]
            keep_G = np.ones(len(rows), bool)
            for query_cam, gallery_cam in protocol.ignored_cameras:
                if cam == query_cam:
                    keep_G &= cams_G != gallery_cam
            if protocol.ignores_own_camera:
                keep_G &= (pids_G != pid) | (cams_G != cam)
            ranked_G = pids_G[keep_G][np.argsort(-scores_UQ[columns, q][keep_G], kind="stable")]
            match_G = ranked_G == pid
            if not match_G.any():
                continue
            places = np.flatnonzero(match_G)
            ahead = ranked_G[: places[0]]
            rank = len(np.unique(ahead)) if protocol.cmc == "unique" else len(ahead)
            precision = np.arange(1, len(places) + 1) / (places + 1)
            queries.append([rank < 1, rank < 5, rank < 10, rank < 20, precision.mean(), precision[-1]])
        trials.append(np.mean(queries, axis=0))
    return np.mean(trials, axis=0)


if __name__ == "__main__":
    command.main(main)
