"""Files that a command writes: refused before the work where they cannot be, and never half there."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from bdf_jax.errors import BdfError
from bdf_jax.names import legible
from bdf_jax.paths import local_path

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def check_output(path: str | os.PathLike[str], what: str) -> Path:
    """Makes sure that a file can be written before hours are spent on what shall be in it.

    Args:
      path: of the file; its folder is made where it is missing.
      what: what an error calls it, such as "--out".

    Raises:
      BdfError: a folder, or a place that cannot be written to.
    """
    failure = f"{what}={path}: cannot be written"
    file = _file(path, failure)
    partial = _partial(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(b"")
        partial.unlink()
    except OSError as error:
        raise BdfError(f"{failure}: {error.strerror or error}") from error
    return file


@contextlib.contextmanager
def replaced(path: str | os.PathLike[str], failure: str = "") -> Iterator[IO[bytes]]:
    """A file to write into that takes the place of `path` when it is whole; until then the old one stays.

    Args:
      path: of the file; its folder is made where it is missing.
      failure: how an error begins, before the reason; default: that `path` cannot be written.

    Raises:
      BdfError: the file cannot be written.
    """
    failure = failure or f"{path}: cannot be written"
    file = _file(path, failure)
    partial = _partial(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        partial.replace(file)
    except OSError as error:
        raise BdfError(f"{failure}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], value: Any, failure: str = "") -> None:
    """Writes a value as JSON; arguments and errors as in `replaced`, and ValueError for NaN and infinities.

    Names that no encoding takes are escaped.
    """
    with replaced(path, failure) as out:
        out.write((json.dumps(legible(value), indent=2, allow_nan=False) + "\n").encode())


def write_text(path: str | os.PathLike[str], text: Any) -> None:
    """Writes a text file in UTF-8; names that are not UTF-8 are escaped."""
    with replaced(path) as out:
        out.write(legible(str(text)).encode())


def print_whole(table: Table, console: Console | None = None) -> None:
    """Prints a table as wide as it needs: a line that the terminal breaks can still be read, one that is cut cannot."""
    from rich.console import Console

    console = console or Console()
    needed = width_of(table, console)
    (console if needed <= console.width else Console(file=console.file, width=needed)).print(table)


def width_of(table: Table, console: Console) -> int:
    """Columns that a table needs."""
    return console.measure(table, options=console.options.update_width(1000)).maximum


def _file(path: str | os.PathLike[str], failure: str) -> Path:
    file = local_path(path, expected="the path of a file to write")
    if file.is_dir() or not file.name:
        raise BdfError(f"{failure}: expected the name of a file to write, found a folder")
    return file


def _partial(file: Path) -> Path:
    # The process's number: two commands that write the same file do not write into each other's.
    return file.with_name(f"{file.name[:200]}.{os.getpid()}.partial")
