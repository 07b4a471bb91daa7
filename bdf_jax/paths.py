"""Paths as users give them: of this machine or in a bucket, and nothing that only looks like one."""

from __future__ import annotations

import functools
import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from bdf_jax.errors import BdfError
from bdf_jax.names import legible, printable
from bdf_jax.streams import tell

if TYPE_CHECKING:
    from bdf_jax.config import DataConfig

# Of at least two letters, as one is a drive; a single slash, as a Path makes one of two.
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")

BUCKETS = ("gs", "s3")  # schemes of the object storage that work folders may lie in
TAKEN = "gs:// and s3:// are, for the --workdir of train and evaluate, --model, --report, plot and bdf_jax.load"

# In the name of a folder of checkpoints, or of one above: what their storage cannot read, and what saving takes for a
# pattern, without a word.
UNREADABLE = "\\"
UNWRITABLE = "*?[" + UNREADABLE
CACHE = "~/.cache/"  # of the defaults


def bucket_address(path: str | os.PathLike[str], what: str = "") -> str:
    """`gs://bucket/folder` or `s3://bucket/folder`, in one way of writing it; empty where the path is none of these.

    Args:
      path: as it was given.
      what: the flag or field that it was given to, for the message; may be empty.

    Raises:
      BdfError: it has such a scheme and names no place in a bucket.
    """
    if not isinstance(path, (str, os.PathLike)):
        return ""
    text = os.fsdecode(path)
    scheme = SCHEME.match(text)
    if not scheme or scheme[1].lower() not in BUCKETS:
        return ""
    parts = text[scheme.end() :].strip("/").split("/")
    if legible(text) != text or not text.isprintable() or len(parts) < 2 or any(p in ("", ".", "..") for p in parts):
        start = scheme[1].lower()
        raise BdfError(
            f"{what}{'=' * bool(what)}{printable(text)}: expected {start}://BUCKET/FOLDER, with plain names between "
            "the slashes"
        )
    return f"{scheme[1].lower()}://{'/'.join(parts)}"


def check_place(what: str, path: str) -> None:
    """Refuses what is neither a path of this machine nor a place in a bucket; one that is empty says nothing."""
    if path and not bucket_address(path, what):
        local_path(path, what)


def local_path(path: str | os.PathLike[str], what: str = "", expected: str = "a path", *, utf8: bool = False) -> Path:
    """The path with its `~` expanded.

    Args:
      path: as it was given.
      what: the flag or field that it was given to, for the message; may be empty.
      expected: what it is the path of, for the message.
      utf8: whether libraries that know no other names write or read there: checkpoints and records.

    Raises:
      BdfError: a bucket, a web address or anything else with a scheme, which would silently become a folder "gs:" of
        the current one; a `~` without a home (what would go into the home's cache goes elsewhere, and that is said); no
        path at all; with `utf8`, a name of other bytes.
    """
    start = f"{what}=" if what else ""
    if not isinstance(path, (str, os.PathLike)):
        raise BdfError(f"{what}{': ' * bool(what)}expected {expected}, found {type(path).__name__}")
    text = os.fsdecode(path)
    scheme = SCHEME.match(text)
    if scheme:
        found = scheme[1].lower()
        here = " here" * (found in BUCKETS)
        advice = "leave the scheme out" if found == "file" else "copy it to this machine, or mount it as a folder"
        raise BdfError(
            f"{start}{text}: expected a path on this machine, found a {found}:// address, which is not supported{here} "
            f"({TAKEN}); {advice} (for a folder that is really called {scheme[1]}: write its absolute path)"
        )
    if utf8 and legible(os.path.abspath(text)) != os.path.abspath(text):
        raise BdfError(
            f"{start}{text}: the name is not UTF-8, and checkpoints and records cannot be kept under such a name; "
            "choose another folder, or rename it"
        )
    expanded = os.path.expanduser(text)
    if text.startswith(CACHE) and not _usable(expanded):
        return _other_cache(text.removeprefix(CACHE), start + text)
    if expanded == text and text.startswith("~") and ("/" in text or text == "~"):
        raise BdfError(f"{start}{text}: the home of {text.partition('/')[0]} is not known here; write the whole path")
    return Path(expanded)


def _usable(path: str) -> bool:
    """Whether there is something at this path or it can be made; a user without a home has "~", "" or "/" as one."""
    there = path
    while os.path.isabs(path) and not os.path.exists(there):
        there = os.path.dirname(there)
    return os.path.isabs(path) and (there == path or os.access(there, os.W_OK | os.X_OK))


@functools.cache
def _other_cache(rest: str, asked: str) -> Path:
    """A folder for what else goes into the home's cache, and a line that says so: once."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    try:
        place = named if os.path.isabs(named) else os.path.join(tempfile.gettempdir(), f"cache-of-{os.geteuid()}")
        os.makedirs(place, mode=0o700, exist_ok=True)
        if place != named and (os.path.islink(place) or os.stat(place).st_uid != os.geteuid()):
            raise PermissionError(None, "belongs to another user", place)
    except OSError as error:
        found = f"{error.filename or 'a folder of temporary files'}: {error.strerror or error}"
        raise BdfError(
            f"{asked}: this user has no home in which something can be kept, nor another place ({found}); name a "
            "folder, or set XDG_CACHE_HOME or TMPDIR"
        ) from error
    path = Path(place, rest)
    tell(f"{asked}: this user has no home in which something can be kept, so it is {path}\n")
    return path


def check_name(folder: Path, characters: str, what: str = "") -> None:
    """Refuses a folder of checkpoints by the characters of its whole path, its parents' included.

    Raises:
      BdfError: one of `characters` is in it.
    """
    found = [character for character in characters if character in str(folder)]
    if found:
        raise BdfError(
            f"{what}{'=' * bool(what)}{folder}: checkpoints cannot be kept in a folder with {' '.join(found)} in its "
            "path, as their storage takes it for something else; give the folder another name, or name a link to it "
            "that has another one"
        )


def check_local(what: str, paths: Iterable[str], *, utf8: bool = False) -> None:
    """Refuses what `local_path` refuses, before the work that comes first; one that is empty says nothing."""
    for path in filter(None, paths):
        local_path(path, what, utf8=utf8)


def check_data_places(config: DataConfig) -> None:
    """Refuses what `local_path` refuses, of a configuration's places."""
    check_local("data.root", [config.root])
    check_local("data.dir", [config.dir], utf8=True)
