"""Digests of the files of a folder, so that a bit that flips on a disk is seen: what `sha256sum -c` reads."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from bdf_jax.errors import BdfError
from bdf_jax.trouble import check_readable, refuse_trouble

NAME = "SHA256SUMS"
LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def write_digests(folder: Path, leave_out: Collection[str] = ()) -> None:
    """Writes the digest of every file below `folder` into its file `SHA256SUMS`.

    Args:
      folder: whose files are complete.
      leave_out: names of files that may change afterwards.

    Raises:
      OSError: the disk does not take it.
    """
    temporary = folder / f"{NAME}.tmp"
    left_out = {NAME, temporary.name, *leave_out}
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in left_out)
    lines = [f"{_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    temporary.write_text("".join(lines))
    temporary.replace(folder / NAME)


def check_digests(folder: Path) -> None:
    """Compares every file that `SHA256SUMS` lists; without one (an older checkpoint) there is nothing to compare.

    Raises:
      BdfError: a file is missing or has other bytes than were written; names it.
      Trouble: a file cannot be read, and may be whole.
    """
    listing = folder / NAME
    try:
        lines = listing.read_text().splitlines(keepends=True)
    except FileNotFoundError:
        check_readable(folder)
        return
    except (OSError, ValueError) as error:
        refuse_trouble(error, f"{NAME} cannot be read")
        raise BdfError(f"{NAME} cannot be read ({error})") from error
    if not lines:
        raise BdfError(f"{NAME} is empty")
    for line in lines:
        match = LINE.fullmatch(line.removesuffix("\n"))
        if match is None or not line.endswith("\n"):
            raise BdfError(f"{NAME} holds {line[:80]!r} where a digest and a name were written")
        try:
            found = _sha256(folder / match[2])
        except OSError as error:
            refuse_trouble(error, f"{match[2]} cannot be read")
            raise BdfError(f"{match[2]} cannot be read ({error.strerror})") from error
        if found != match[1]:
            raise BdfError(f"{match[2]} has other bytes than were written")


def digests_of(folder: Path) -> dict[str, str]:
    """Name -> digest of what `SHA256SUMS` lists; empty where there is none, or none that can be read."""
    try:
        lines = (folder / NAME).read_text().splitlines()
    except (OSError, ValueError):
        return {}
    return {match[2]: match[1] for line in lines if (match := LINE.fullmatch(line))}


def json_digest(values: Any) -> str:
    """Digest of JSON-ready values, the same before they are written and after they are read."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
