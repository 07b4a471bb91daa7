"""Which prepared records belong to a tree: a key that another tree does not have.

Names, identities, cameras, sizes and modification times of all images go into it, as one `stat` an image tells them.
Times may say nothing: in archives made reproducible, in stores such as Nix's and on some mounts every file has the
same, and two variants of a tree of BMP files are then equal in all of that. So contents go into it as well: of every
image whose time many others share, in place of the time; and of `SAMPLED` images in any case, for variants that were
given each other's times. A tree with times of its own costs the reading of that sample, whatever its size; one without
is read whole.
"""

from __future__ import annotations

import collections
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bdf_jax.data.images import cores
from bdf_jax.errors import BdfError
from bdf_jax.names import as_bytes, printable

if TYPE_CHECKING:
    from bdf_jax.data.trees.tree import ImageFile

SAMPLED = 1024  # images whose contents are always looked at: ten megabytes of SYSU-MM01
SHARED = 1 / 20  # of all images: a time that more of them have than this was not given by writing them
CHUNK = 16  # images that a thread reads at a time: handing one over costs as much as reading it


def tree_key(dataset: str, root: Path, parts: Mapping[str, Sequence[ImageFile]]) -> str:
    """16 hex digits that change when an image is added, removed, renamed or written again, or moves to another part.

    Args:
      dataset: name in `data.dataset`.
      root: of the tree.
      parts: part of the records -> its images, sorted by name.

    Raises:
      BdfError: an image that cannot be read any more.
    """
    files = [file for images in parts.values() for file in images]
    silent = _without_time(files)
    read = set(np.unique(np.linspace(0, len(files) - 1, min(SAMPLED, len(files))).round().astype(int)).tolist())
    read |= {i for i, file in enumerate(files) if file.mtime in silent}
    digests = _digests(root, {i: files[i].name for i in sorted(read)})
    key = hashlib.sha256(dataset.encode())
    names = (part for part, images in parts.items() for _ in images)
    for i, (part, file) in enumerate(zip(names, files, strict=True)):
        time = "" if file.mtime in silent else file.mtime
        line = (part, file.name, file.pid, file.cam, file.size, time, digests.get(i, ""))
        key.update(as_bytes("\0".join(map(str, line)) + "\n"))
    return key.hexdigest()[:16]


def _without_time(files: Sequence[ImageFile]) -> set[int]:
    """Modification times that so many images share that they say nothing about any of them."""
    most = max(1, SHARED * len(files))
    return {time for time, count in collections.Counter(file.mtime for file in files).items() if count > most}


def _digests(root: Path, names: Mapping[int, str]) -> dict[int, str]:
    """Hex digest of each of these files, several at once: on a network it is the waiting that takes long."""

    def digests(chunk: Sequence[str]) -> list[str]:
        return [_digest(root / name) for name in chunk]

    listed = list(names.values())
    chunks = [listed[i : i + CHUNK] for i in range(0, len(listed), CHUNK)]
    with ThreadPoolExecutor(max(16, cores())) as pool:
        return dict(zip(names, itertools.chain.from_iterable(pool.map(digests, chunks)), strict=True))


def _digest(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BdfError(
            f"{printable(str(path))}: cannot be read: {error.strerror or error}; where the tree changed meanwhile, run "
            "again"
        ) from error
