"""Exact top-k in galleries of 10^4 to 10^6 features on disk: time and memory.

  python benchmarks/retrieval.py [--sizes=10000,100000,1000000] [--dtypes=float32,float16] [--json=OUT]

The galleries are written to a temporary folder (float32: 2 GB for a million 512-d features) and read as
`numpy.memmap`. The memory is the most that this process held during the search, without file pages but with Python and
JAX themselves: it must not grow with the gallery. Some queries are searched again in plain NumPy; exit code 1 on
disagreement.

float32 galleries are searched in memory, too, all queries at once and one alone: beside FAISS's flat index, where
`faiss-cpu` is installed (in turns, medians, ratios above 1 where FAISS takes longer), and as `Gallery.search` does it,
the embedding of the query included. `GB_per_s` is how fast the gallery passes by.
"""

from __future__ import annotations

import contextlib
import os
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

REPEATS = flags.DEFINE_integer("repeats", 5, "Turns of each search in memory; the median counts.")

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
    beside = []
    for size in map(int, SIZES.value if "float32" in DTYPES.value else ()):
        gallery_GD = _features(np.random.default_rng(0), size)
        beside += [_beside(gallery_GD, queries_QD[:count]) for count in sorted({1, len(queries_QD)})]
        beside.append(_as_called(gallery_GD))
    title = f"{jax.devices()[0].device_kind} x {jax.local_device_count()}, JAX {jax.__version__}"
    for part in filter(None, (rows, beside)):
        show(title, part)
    rows += beside
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
        "search": "on disk",
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


def _beside(gallery_GD: np.ndarray, queries_QD: np.ndarray) -> dict[str, Any]:
    """Searches in memory, in turns with FAISS where it is installed."""
    from bdf_jax.evaluation import top_k

    k = min(K.value, len(gallery_GD))
    searches = {"ours": lambda: top_k(queries_QD, gallery_GD, k, block=BLOCK.value)}
    with contextlib.suppress(ImportError):
        import faiss

        index = faiss.IndexFlatIP(gallery_GD.shape[1])
        index.add(gallery_GD)
        faiss.omp_set_num_threads(len(os.sched_getaffinity(0)))
        searches["faiss"] = lambda: index.search(queries_QD, k)
    found = {name: search()[0] for name, search in searches.items()}  # compiles, and warms the caches
    seconds = {name: [] for name in searches}
    for _ in range(REPEATS.value):
        for name, search in searches.items():
            start = time.perf_counter()
            search()
            seconds[name].append(time.perf_counter() - start)
    row: dict[str, Any] = {
        "search": "in memory",
        "gallery": len(gallery_GD),
        "queries": len(queries_QD),
        "seconds": float(np.median(seconds["ours"])),
        "GB_per_s": gallery_GD.nbytes / 1e9 / float(np.median(seconds["ours"])),
        "faiss_seconds": None,
        "faiss_to_ours": None,
        "agrees": bool(np.allclose(found["ours"][:CHECKED], _plain(queries_QD[:CHECKED], gallery_GD), atol=1e-5)),
    }
    if "faiss" in searches:
        row["faiss_seconds"] = float(np.median(seconds["faiss"]))
        row["faiss_to_ours"] = float(np.median(np.divide(seconds["faiss"], seconds["ours"])))
        row["agrees"] &= bool(np.allclose(found["ours"], found["faiss"], atol=1e-5))
    return row


def _as_called(gallery_GD: np.ndarray) -> dict[str, Any]:
    """One image a call by `Gallery.search`, with a small network that nobody trained."""
    from bdf_jax.api.gallery import Gallery
    from bdf_jax.api.model import Model
    from bdf_jax.checkpoints import Metadata
    from bdf_jax.config import DataConfig
    from bdf_jax.method import experiment
    from bdf_jax.models import Network, initial_variables
    from bdf_jax.models.heads import Project
    from bdf_jax.models.trunk import Tiny

    size, small = (32, 16), {"network.trunk": Tiny(), "network.neck": Project(gallery_GD.shape[1])}
    config = experiment("base_derivative", "demo", data=DataConfig(), replaces={**small, "data.image_size": size})
    model = Model(Metadata(config, "", 4), initial_variables(Network.of(config, 4), 0, size), 0, "")
    names = np.arange(len(gallery_GD)).astype(str)
    gallery = Gallery(model, gallery_GD, names, names, "visible")
    image = np.random.default_rng(2).integers(0, 256, (*size, 3), np.uint8)
    k = min(K.value, len(gallery))
    gallery.search(image, k)  # compiles
    seconds = []
    for _ in range(REPEATS.value):
        start = time.perf_counter()
        gallery.search(image, k)
        seconds.append(time.perf_counter() - start)
    called = float(np.median(seconds))
    known = {"gallery": len(gallery), "queries": 1, "seconds": called, "GB_per_s": gallery_GD.nbytes / 1e9 / called}
    return {"search": "Gallery.search", **known, "faiss_seconds": None, "faiss_to_ours": None, "agrees": True}


def _plain(queries_CD: np.ndarray, gallery_GD: np.ndarray) -> np.ndarray:
    parts = [
        queries_CD @ gallery_GD[start : start + 50_000].astype(np.float32).T
        for start in range(0, len(gallery_GD), 50_000)
    ]
    return -np.sort(-np.concatenate(parts, axis=1), axis=1)[:, : min(K.value, len(gallery_GD))]


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
