"""The data sets of the field: one module each, with the layout of its tree, its reader, published facts and protocol.

Another one is a `Benchmark` in `BENCHMARKS`: of a module here, or an entry that a program of yours adds.

A tree is walked at every start, with one `stat` an image; no image is opened. `Tree.key` opens some or all of them and
says which prepared records belong to it.
"""

from __future__ import annotations

import difflib
import importlib
import os
from collections.abc import Sequence
from pathlib import Path

from bdf_jax.data.trees.tree import Tree, resolve_root
from bdf_jax.datasets import llcm, regdb, sysu_mm01
from bdf_jax.datasets.benchmark import Benchmark
from bdf_jax.errors import BdfError

BENCHMARKS: dict[str, Benchmark] = {
    module.BENCHMARK.layout.dataset: module.BENCHMARK for module in (sysu_mm01, regdb, llcm)
}

__all__ = ["BENCHMARKS", "Benchmark", "find", "read_tree", "tree_root"]


def find(dataset: str, what: str = "dataset") -> Benchmark:
    """What is known of a data set.

    Args:
      dataset: a key of `BENCHMARKS`, or MODULE:NAME of a `Benchmark` in a file of one's own.
      what: what an error calls it.

    Raises:
      BdfError: it is not known (with the nearest name), or its module cannot be imported.
    """
    module, colon, name = dataset.partition(":")
    if colon:
        try:
            own = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise BdfError(
                f"{what}={dataset}: cannot be imported here ({error}); is {module}.py on the path?"
            ) from error
        if not isinstance(own, Benchmark):
            raise BdfError(f"{what}={dataset}: expected a bdf_jax.datasets.Benchmark, found {type(own).__name__}")
        dataset = own.layout.dataset
        BENCHMARKS[dataset] = own
    if dataset not in BENCHMARKS:
        near = difflib.get_close_matches(dataset, BENCHMARKS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise BdfError(f"{what}: expected one of {', '.join(BENCHMARKS)}; found {dataset!r}{hint}")
    return BENCHMARKS[dataset]


def tree_root(dataset: str, root: str | os.PathLike[str]) -> Path:
    """The absolute folder of a published tree, found without walking it.

    Raises:
      BdfError: there is no such folder, or it is not laid out as this data set; says where the tree seems to be.
    """
    return resolve_root(find(dataset).layout, root, [known.layout for known in BENCHMARKS.values()])


def read_tree(dataset: str, root: str | os.PathLike[str], *, trials: Sequence[int] | None = None) -> Tree:
    """Walks a published tree and checks that it is whole.

    Args:
      dataset: a key of `BENCHMARKS`.
      root: its folder; "~", a relative path and a trailing slash are fine.
      trials: RegDB only: the trials whose splits are read; None: every trial that has index files.

    Raises:
      BdfError: no such folder, not this data set's layout, a folder, list or image missing, a malformed list, an
        identity to train on without images of one modality.
    """
    benchmark = find(dataset, "data.dataset")
    folder = tree_root(dataset, root)
    try:
        return benchmark.read(folder) if trials is None else benchmark.read(folder, trials=trials)
    except OSError as error:
        raise BdfError(f"{benchmark.layout.title} tree {folder}: cannot be read: {error}") from error
