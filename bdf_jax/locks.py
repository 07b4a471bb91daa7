"""One lock for everything that one process at a time may do with a folder."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def locked(path: Path, busy: Callable[[], None], impossible: Callable[[OSError], None]) -> Iterator[None]:
    """Holds an exclusive lock on a file for as long as the block runs.

    The system lets go of it when the process ends, however it ends: no stale lock, no clock.

    Args:
      path: of the file, made where it is missing.
      busy: called where another process holds it, before waiting; it may raise instead.
      impossible: called where the file system has no locks; the block then runs without one.

    Raises:
      OSError: the file cannot be opened.
    """
    with open(path, "a") as file:
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                busy()
                fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            impossible(error)
        yield
