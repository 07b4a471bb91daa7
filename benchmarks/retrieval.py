"""Exact top-k in galleries of 10^4 to 10^6 features on disk: time and memory.

  python benchmarks/retrieval.py [--sizes=10000,100000,1000000] [--dtypes=float32,float16] [--json=OUT]

The galleries are written to a temporary folder (float32: 2 GB for a million 512-d features) and read as
`numpy.memmap`. The memory is the most that this process held during the search, without file pages but with Python and
JAX themselves: it must not grow with the gallery. Some queries are searched again in plain NumPy; exit code 1 on
disagreement.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

sys.path.insert(0, str(Path(__file__).parents[1]))  # from a checkout that is not installed

from benchmarks import command

SIZES = flags.DEFINE_list("sizes", ["10000", "100000", "1000000"], "Gallery sizes.")
DTYPES = flags.DEFINE_list("dtypes", ["float32", "float16"], "How the gallery is stored.")
DIMENSIONS = flags.DEFINE_integer("dimensions", 512, "Length of a feature.")
QUERIES = flags.DEFINE_integer("queries", 256, "Queries searched at once.")
K = flags.DEFINE_integer("k", 20, "Results of a query.")
BLOCK = flags.DEFINE_integer("block", 8192, "Gallery rows of a device at a time.")
FOLDER = flags.DEFINE_string("folder", "", "Where the galleries are written; default: a temporary folder.")
JSON = flags.DEFINE_string("json", "", "Write the table to this file.")

CHECKED = 8  # queries that plain NumPy searches too


def main(_: Sequence[str]) -> int:
    """Measures, prints the table, and fails on disagreement."""
    import jax

    from bdf_jax.evaluation.table import write_json
    from benchmarks.tables import show

    queries_QD = _features(np.random.default_rng(1), QUERIES.value)
    rows = []
    with tempfile.TemporaryDirectory(dir=FOLDER.value or None) as folder:
        for dtype in DTYPES.value:
            for size in map(int, SIZES.value):
                rows.append(_measured(Path(folder) / "gallery", size, np.dtype(dtype), queries_QD))
    show(f"{jax.devices()[0].device_kind} x {jax.local_device_count()}, JAX {jax.__version__}", rows)
    if JSON.value:
        write_json(JSON.value, rows)
    return 0 if all(row["agrees"] for row in rows) else 1


def _features(rng: np.random.Generator, count: int) -> np.ndarray:
    features_ND = rng.standard_normal((count, DIMENSIONS.value), dtype=np.float32)
    return features_ND / np.linalg.norm(features_ND, axis=1, keepdims=True)


def _measured(path: Path, size: int, dtype: np.dtype, queries_QD: np.ndarray) -> dict[str, Any]:
    from bdf_jax.evaluation import top_k

    rng = np.random.default_rng(0)
    shape = size, DIMENSIONS.value
    stored = np.memmap(path, dtype, "w+", shape=shape)
    for start in range(0, size, 10_000):
        stored[start : start + 10_000] = _features(rng, min(10_000, size - start))
    stored.flush()
    del stored
    gallery_GD = np.memmap(path, dtype, "r", shape=shape)
    warm = min(size, BLOCK.value)
    top_k(queries_QD, gallery_GD[:warm], min(K.value, warm), block=BLOCK.value)  # compiles
    with _peak_memory() as peak:
        start = time.perf_counter()
        scores_QK, rows_QK = top_k(queries_QD, gallery_GD, K.value, block=BLOCK.value)
        seconds = time.perf_counter() - start
    checked = min(CHECKED, len(queries_QD))
    expected_CK = _plain(queries_QD[:checked], gallery_GD)
    found_CK = np.einsum("cd,ckd->ck", queries_QD[:checked], gallery_GD[rows_QK[:checked]].astype(np.float32))
    return {
        "gallery": size,
        "dtype": dtype.name,
        "gallery_MiB": size * DIMENSIONS.value * dtype.itemsize / 2**20,
        "queries": len(queries_QD),
        "k": K.value,
        "seconds": seconds,
        "us_per_gallery_row": 1e6 * seconds / size,
        "GFLOP_per_s": 2e-9 * len(queries_QD) * size * DIMENSIONS.value / seconds,
        "memory_MiB": peak[0],
        "all_scores_would_be_MiB": len(queries_QD) * size * 4 / 2**20,
        "agrees": bool(
            np.allclose(scores_QK[:checked], expected_CK, atol=1e-5) and np.allclose(found_CK, expected_CK, atol=1e-5)
        ),
    }


def _plain(queries_CD: np.ndarray, gallery_GD: np.ndarray) -> np.ndarray:
    parts = [
        queries_CD @ gallery_GD[start : start + 50_000].astype(np.float32).T
        for start in range(0, len(gallery_GD), 50_000)
    ]
    return -np.sort(-np.concatenate(parts, axis=1), axis=1)[:, : K.value]


@contextlib.contextmanager
def _peak_memory() -> Iterator[list[float]]:
    """The most MiB that are not file pages, looked up a hundred times a second; -1 where the system does not tell."""
    status = Path("/proc/self/status")
    peak = [-1.0]
    if not status.exists():
        yield peak
        return

    def now() -> float:
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        return int(fields["RssAnon"].split()[0]) / 1024

    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            peak[0] = max(peak[0], now())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        peak[0] = max(peak[0], now())
        done.set()
        thread.join()


if __name__ == "__main__":
    command.main(main)
