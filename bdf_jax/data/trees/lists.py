"""The lists of a published tree: identities, and lines "path label"."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bdf_jax.data.images import SUFFIXES
from bdf_jax.data.trees.tree import ImageFile, Layout, identity, listing, some
from bdf_jax.errors import BdfError


def read_text(layout: Layout, root: Path, name: str, errors: str = "strict") -> str:
    """A list that belongs to the tree.

    Args:
      layout: of the tree.
      root: of the tree.
      name: of the list, relative to the root.
      errors: "surrogateescape" where the list names files, whose names may be any bytes.

    Raises:
      BdfError: it is missing or is not text.
    """
    path = root / name
    if not path.is_file():
        found = listing(path.parent) if path.parent.is_dir() else f"no folder {path.parent.name}/"
        raise BdfError(
            f"{layout.title} tree {root}: {name} is missing; found {found}. It is part of the published archive: "
            f"unpack it again. {layout.source}"
        )
    try:
        return path.read_text(encoding="utf-8-sig", errors=errors)
    except UnicodeDecodeError as error:
        raise BdfError(f"{path}: expected a text file, found other bytes ({error.reason}); unpack it again") from error


def read_ids(layout: Layout, root: Path, name: str) -> list[int]:
    """Identities of a file of comma-separated integers (one line as published; several are fine), sorted.

    Raises:
      BdfError: missing, empty, or something else than such integers.
    """
    text = read_text(layout, root, name)
    words = [word for line in text.splitlines() for word in line.replace(",", " ").split()]
    wrong = [word for word in words if not _number(word)]
    if wrong or not words:
        found = f"{wrong[0][:40]!r} among {len(words)} entries" if wrong else "an empty file"
        raise BdfError(
            f"{root / name}: expected comma-separated identities such as 1,2,4,5; found {found}. "
            "Restore the file from the published archive."
        )
    return sorted({identity(word, str(root / name)) for word in words})


class Line(NamedTuple):
    """A line "path label" of an index file.

    Attributes:
      name: path relative to the root, of three parts.
      pid: identity, from the folder.
      label: what the list calls that identity, digits without leading zeros.
      source: the index file, relative to the root.
      number: of the line, from 1.
    """

    name: str
    pid: int
    label: str
    source: str
    number: int


def read_lines(layout: Layout, root: Path, name: str, folder: str) -> list[Line]:
    """The lines "path label" of an index file; identities come from the path.

    Raises:
      BdfError: missing, empty or malformed, or a path outside `folder`/<identity>/.
    """
    rows = []
    for number, line in enumerate(read_text(layout, root, name, "surrogateescape").split("\n"), start=1):
        if not line.strip():
            continue
        path, _, label = line.strip().rpartition(" ")
        parts = path.strip().split("/")
        if len(parts) != 3 or parts[0] != folder or not _number(parts[1]) or not _number(label):
            raise BdfError(
                f"{root / name}, line {number}: expected '{folder}/<identity>/<image> <label>', found {line[:80]!r}. "
                "Restore the file from the published archive."
            )
        pid = identity(parts[1], f"{root / name}, line {number}")
        rows.append(Line("/".join(parts), pid, label.lstrip("0") or "0", name, number))
    if not rows:
        raise BdfError(
            f"{root / name}: expected lines 'path label', found none. Restore it from the published archive."
        )
    return rows


def require_listed(layout: Layout, root: Path, rows: Sequence[Line], files: Mapping[str, ImageFile]) -> None:
    """Every image of a list is in the tree.

    Args:
      layout: of the tree.
      root: of the tree.
      rows: of one list.
      files: of the tree by their names.

    Raises:
      BdfError: naming those that are not, and what is there in place of the first.
    """
    absent = sorted({row.name for row in rows if row.name not in files})
    if absent:
        raise BdfError(
            f"{layout.title} tree {root}: {rows[0].source} lists {len(rows)} images, of which {len(absent)} are "
            f"missing: {some(absent)}. {_instead(root, absent[0], files)}"
        )


def require_labels(layout: Layout, root: Path, rows: Sequence[Line]) -> None:
    """Labels and folders mean the same people: one label to a folder and one folder to a label.

    Images are paired by their folders. A set in this layout whose thermal folders are numbered otherwise than the
    visible ones says who is who in its labels alone, and its folders would pair one person with another.

    Args:
      layout: of the tree.
      root: of the tree.
      rows: of all the lists that are trained on, or tested on, together.

    Raises:
      BdfError: naming two lines that contradict each other.
    """
    for what, pairs in (
        ("two identities share a label", [(row.label, row.pid) for row in rows]),
        ("an identity has two labels", [(row.pid, row.label) for row in rows]),
    ):
        clash = _first_clash(rows, pairs)
        if clash:
            first, second = (
                f"{row.source}, line {row.number} ({row.name[:120]!r} with label {row.label[:20]})" for row in clash
            )
            raise BdfError(
                f"{layout.title} tree {root}: {what}: {first} and {second}. Identities are taken from the folders, so "
                "folders and labels must agree one to one over the visible and the infrared list. Number the folders "
                "so that a person has the same number in both, or mend the labels."
            )


def _first_clash(rows: Sequence[Line], pairs: Sequence[tuple[Any, Any]]) -> tuple[Line, Line] | None:
    """The first row whose pair (key, value) gives a key another value than a row before, after that row."""
    first: dict[Any, int] = {}
    for i, (key, value) in enumerate(pairs):
        before = first.setdefault(key, i)
        if pairs[before][1] != value:
            return rows[before], rows[i]
    return None


def _instead(root: Path, name: str, files: Iterable[str]) -> str:
    """What to do about a listed image that was not found."""
    if (root / name).is_file():
        return (
            f"There is a file {name}, but images have names in {' '.join(SUFFIXES)}: rename the files, and the lists."
        )
    stem = os.path.splitext(name.lower())[0]
    other = next((found for found in files if os.path.splitext(found.lower())[0] == stem), None)
    if other is not None:
        return f"There is {other}: lists must name the files as they are called."
    return "The tree is incomplete: unpack the archive again."


def _number(text: str) -> bool:
    return text.isascii() and text.isdigit()
