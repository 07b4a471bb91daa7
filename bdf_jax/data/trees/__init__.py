"""Published trees on disk -> what is in them, checked before anything is read.

A tree is walked at every start, with one `stat` an image; no image is opened. `Tree.key` opens some or all of them and
says which prepared records belong to it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from bdf_jax.data.trees import llcm, regdb, sysu_mm01
from bdf_jax.data.trees.tree import Layout, Tree, merge, resolve_root
from bdf_jax.errors import BdfError

LAYOUTS: dict[str, Layout] = {layout.dataset: layout for layout in (sysu_mm01.LAYOUT, regdb.LAYOUT, llcm.LAYOUT)}
_READERS: dict[str, Callable[..., Tree]] = {
    "sysu_mm01": sysu_mm01.read,
    "regdb": regdb.read,
    "llcm": llcm.read,
}

__all__ = ["LAYOUTS", "Layout", "Tree", "merge", "read_tree", "tree_root"]


def tree_root(dataset: str, root: str | os.PathLike[str]) -> Path:
    """The absolute folder of a published tree, found without walking it.

    Raises:
      BdfError: there is no such folder, or it is not laid out as this data set; says where the tree seems to be.
    """
    return resolve_root(LAYOUTS[dataset], root, tuple(LAYOUTS.values()))


def read_tree(dataset: str, root: str | os.PathLike[str], *, trials: Sequence[int] | None = None) -> Tree:
    """Walks a published tree and checks that it is whole.

    Args:
      dataset: "sysu_mm01", "regdb" or "llcm".
      root: its folder; "~", a relative path and a trailing slash are fine.
      trials: RegDB only: the trials whose splits are read; None: every trial that has index files.

    Raises:
      BdfError: no such folder, not this data set's layout, a folder, list or image missing, a malformed list, an
        identity to train on without images of one modality.
    """
    if dataset not in LAYOUTS:
        raise BdfError(f"data.dataset: expected one of {', '.join(LAYOUTS)}, found {dataset!r}")
    folder = tree_root(dataset, root)
    try:
        return _READERS[dataset](folder) if trials is None else _READERS[dataset](folder, trials=trials)
    except OSError as error:
        raise BdfError(f"{LAYOUTS[dataset].title} tree {folder}: cannot be read: {error}") from error
