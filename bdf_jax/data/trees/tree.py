"""What every published tree has in common: where it is, what was found in it, how its id lists are written."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from bdf_jax.data.images import SUFFIXES, named_like_an_image
from bdf_jax.data.index import INFRARED, VISIBLE, ImageIndex
from bdf_jax.data.trees.key import tree_key
from bdf_jax.errors import BdfError
from bdf_jax.names import printable
from bdf_jax.paths import local_path

DIGITS = 18  # of an identity: every such number has a place in 64 bits
INCOMPLETE = "The tree is incomplete: unpack the archive again"
DEMO = "Without the data set, `--config=configs/demo.py` runs on a synthetic world in the same layout."


Elsewhere = Literal["", "another data set", "another folder"]


class NotATree(BdfError):
    """A folder that is not laid out as a data set; `elsewhere` says what the message takes it for."""

    def __init__(self, message: str, elsewhere: Elsewhere = ""):
        super().__init__(message)
        self.elsewhere = elsewhere


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a published tree is recognised and what a user is told who has none.

    Attributes:
      dataset: name in `data.dataset`.
      title: name in prose.
      folders: entries of the root that must be there.
      expected: the layout in one line.
      source: who gives the data set away, and under which conditions.
      citation: the paper that it comes from.
    """

    dataset: str
    title: str
    folders: tuple[str, ...]
    expected: str
    source: str
    citation: str

    def fits(self, folder: Path) -> bool:
        """Whether the folder looks like this tree: at least half of the entries are there (some may be missing)."""
        return 2 * sum((folder / name).is_dir() for name in self.folders) >= len(self.folders)


@dataclasses.dataclass(frozen=True)
class ImageFile:
    """One image of a tree as the walk finds it; it orders by name."""

    name: str
    pid: int
    cam: int
    modality: int
    size: int
    mtime: int


@dataclasses.dataclass(frozen=True, eq=False)
class Tree:
    """A published tree.

    Attributes:
      dataset: "sysu_mm01", "regdb" or "llcm".
      root: absolute path.
      parts: part of the records -> its images, sorted by name. Every image is in one part at most.
      splits: "train", "val", "test" (RegDB: "train/3", "test/3") -> the images of that split, sorted by name.
      files: part of the records -> its images as the walk found them, likewise.
    """

    dataset: str
    root: str
    parts: dict[str, ImageIndex]
    splits: dict[str, ImageIndex]
    files: dict[str, list[ImageFile]]

    @functools.cached_property
    def key(self) -> str:
        """Which prepared records belong to it, see `tree_key`; reads some of the images."""
        return tree_key(self.dataset, Path(self.root), self.files)

    @property
    def total_bytes(self) -> int:
        """Of all images of the parts."""
        return sum(file.size for files in self.files.values() for file in files)


def build_tree(
    layout: Layout, root: Path, parts: dict[str, list[ImageFile]], splits: dict[str, list[ImageFile]]
) -> Tree:
    """A `Tree` from the files of its parts and splits, in any order."""
    parts = {part: sorted(files, key=_name) for part, files in parts.items()}
    return Tree(
        dataset=layout.dataset,
        root=str(root),
        parts={part: _index(files) for part, files in parts.items()},
        splits={split: _index(sorted(files, key=_name)) for split, files in splits.items()},
        files=parts,
    )


def merge(*indices: ImageIndex) -> ImageIndex:
    """One index of several, sorted by name."""
    joined = ImageIndex(
        *(
            np.concatenate([getattr(index, column) for index in indices])
            for column in ("names", "pids", "cams", "modalities")
        )
    )
    return joined.select(np.argsort(joined.names, kind="stable"))


def resolve_root(layout: Layout, root: str | os.PathLike[str], layouts: Sequence[Layout]) -> Path:
    """The absolute folder of a tree.

    Raises:
      BdfError: there is no such folder, or it is not laid out as this data set; says where the tree seems to be.
    """
    folder = Path(os.path.abspath(local_path(root, "data.root")))
    start = f"{layout.title} tree {folder}:"
    todo = f"Set --config.data.root to the folder that holds {layout.expected}. {layout.source} {DEMO}"
    if folder.is_file():
        raise BdfError(f"{start} expected a folder, found a file; unpack the archive and name the folder. {todo}")
    if not folder.is_dir():
        raise BdfError(f"{start} no such folder{_near(folder)}. {todo}")
    missing = [name for name in layout.folders if not (folder / name).is_dir()]
    if not missing:
        return folder
    hint, elsewhere = _suggest(layout, folder, layouts)
    raise NotATree(
        f"{start} expected {layout.expected}; missing {', '.join(missing)}; found {listing(folder)}. "
        f"{hint + ' ' if hint else ''}{todo}",
        elsewhere,
    )


def entries(folder: str | os.PathLike[str]) -> list[os.DirEntry[str]]:
    """What a folder holds, sorted by name."""
    with os.scandir(folder) as found:
        return sorted(found, key=lambda entry: entry.name)


def listing(folder: Path, limit: int = 12) -> str:
    """The entries of a folder in words."""
    names = [printable(entry.name) + "/" * entry.is_dir() for entry in entries(folder)]
    if not names:
        return "an empty folder"
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def some(things: Iterable[object], limit: int = 10) -> str:
    """The first of many things and how many there are."""
    shown = [printable(str(thing)) for thing in things]
    return ", ".join(shown[:limit]) + (f", ... ({len(shown)} in all)" if len(shown) > limit else "")


def identity(digits: str, where: str) -> int:
    """An identity from its digits.

    Raises:
      BdfError: more of them than a 64-bit number holds; names `where`.
    """
    if len(digits.lstrip("0")) > DIGITS:
        raise BdfError(
            f"{where}: an identity is a number of at most {DIGITS} digits, found {len(digits)} digits "
            f"({digits[:40]}{'...' * (len(digits) > 40)}). Number the people otherwise, in folders and lists alike."
        )
    return int(digits)


def walk_identities(
    root: Path, folder: str, cam: int, modality: int, pids: set[int] | None = None
) -> Iterator[ImageFile]:
    """Images of `folder`/<identity>/ in any order; of all identities or of `pids`.

    Raises:
      BdfError: a folder whose identity has too many digits, or two folders of one identity.
    """
    known: dict[int, str] = {}
    for entry in entries(root / folder):
        if not (entry.name.isascii() and entry.name.isdigit() and entry.is_dir()):
            continue
        if pids is not None and int(entry.name) not in pids:
            continue
        pid = identity(entry.name, f"folder {root / folder / entry.name}")
        for image in entries(entry.path):
            if not named_like_an_image(image.name):
                continue
            found = image.stat()
            if not stat.S_ISREG(found.st_mode):  # reading a named pipe would wait for ever
                continue
            if known.setdefault(pid, entry.name) != entry.name:
                raise BdfError(
                    f"{root / folder}: the folders {known[pid]} and {entry.name} are both of identity {pid}; expected "
                    "one folder for each person. Put their images together, or give one of them another number."
                )
            name = f"{folder}/{entry.name}/{image.name}"
            yield ImageFile(name, pid, cam, modality, found.st_size, found.st_mtime_ns)


def strangers(folder: Path) -> str:
    """Why nothing in the folders of identities counts as an image, where files are there all the same; else empty."""
    for entry in entries(folder):
        if entry.name.isdecimal() and entry.is_dir():
            for file in entries(entry.path):
                if not file.name.startswith(".") and not named_like_an_image(file.name) and file.is_file():
                    found = printable(f"{folder.name}/{entry.name}/{file.name}")
                    return f"There are files such as {found}, but images have names in {' '.join(SUFFIXES)}"
    return ""


def require_ids(layout: Layout, root: Path, pids: Iterable[int], files: list[ImageFile], source: str) -> None:
    """Every identity of a list has an image.

    Raises:
      BdfError: naming those that have none.
    """
    absent = sorted(set(pids) - {file.pid for file in files})
    if absent:
        raise BdfError(
            f"{layout.title} tree {root}: {source} lists {len(set(pids))} identities, of which {len(absent)} have no "
            f"image in the tree: {some(absent)}. The tree is incomplete: unpack it again, or mend the list."
        )


def require_both_modalities(layout: Layout, root: Path, files: list[ImageFile], source: str) -> None:
    """Every identity to train on has visible and infrared images, of which a pair is made.

    Raises:
      BdfError: naming the identities that lack one.
    """
    for modality, word in ((VISIBLE, "visible"), (INFRARED, "infrared")):
        lacking = sorted({f.pid for f in files} - {f.pid for f in files if f.modality == modality})
        if lacking:
            raise BdfError(
                f"{layout.title} tree {root}: {len(lacking)} of the identities to train on ({source}) have no {word} "
                f"image: {some(lacking)}. Every one needs at least one visible and one infrared image: unpack the "
                "tree again, or take these identities off the list."
            )


def require_disjoint(root: Path, lists: dict[str, Iterable[int]]) -> None:
    """No identity is in two of the lists (a model would be tested on people it was trained on).

    Raises:
      BdfError: naming the lists and the identities.
    """
    names = list(lists)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            both = sorted(set(lists[first]) & set(lists[second]))
            if both:
                raise BdfError(
                    f"{root}: {first} and {second} share {len(both)} identities: {some(both)}; expected none. "
                    "Restore both files from the published archive."
                )


def _name(file: ImageFile) -> str:
    return file.name


def _index(files: list[ImageFile]) -> ImageIndex:
    return ImageIndex(
        names=np.array([file.name for file in files], dtype=np.str_),
        pids=np.array([file.pid for file in files], dtype=np.int64),
        cams=np.array([file.cam for file in files], dtype=np.int32),
        modalities=np.array([file.modality for file in files], dtype=np.int8),
    )


def _near(folder: Path) -> str:
    parent = next(path for path in folder.parents if path.is_dir())
    names = [entry.name for entry in entries(parent) if entry.is_dir()]
    wanted = folder.relative_to(parent).parts[0]
    near = difflib.get_close_matches(wanted.lower(), {name.lower(): name for name in names}, n=1)
    match = next((name for name in names if near and name.lower() == near[0]), None)
    return f"; did you mean {parent / match}?" if match else f" (its nearest parent that exists is {parent})"


def _suggest(layout: Layout, folder: Path, layouts: Sequence[Layout]) -> tuple[str, Elsewhere]:
    for other in layouts:
        if other is not layout and all((folder / name).is_dir() for name in other.folders):
            return f"This looks like {other.title}: set --config.data.dataset={other.dataset}.", "another data set"
    if layout.fits(folder):  # the right place, but incomplete
        return "The tree is incomplete: unpack the archive again.", ""
    for parent in list(folder.parents)[:3]:
        if all((parent / name).is_dir() for name in layout.folders):
            return f"Did you mean {parent}?", "another folder"
    children = [Path(entry.path) for entry in entries(folder)[:100] if entry.is_dir()]
    below = [Path(entry.path) for child in children[:20] for entry in entries(child)[:100] if entry.is_dir()]
    for candidate in (*children, *below):
        if layout.fits(candidate):
            return f"Did you mean {candidate}?", "another folder"
    return "", ""
