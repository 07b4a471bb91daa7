"""What is read from a bucket, copied to this machine for as long as it is needed."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from bdf_jax.buckets.naming import named
from bdf_jax.buckets.store import open_store


class Copy:
    """A part of a place in a bucket, on this machine.

    Attributes:
      folder: where it lies; its last names are those of the address.
    """

    def __init__(self, address: str, folder: Path):
        self.folder = folder
        self._store = open_store(address)
        self._names = self._store.list()
        self._folder = folder

    def fetch(self, wanted: Callable[[str], bool]) -> None:
        """Copies the objects whose names, relative to the address, are wanted."""
        self._store.fetch([name for name in self._names if wanted(name)], self._folder)

    def outline(self) -> None:
        """Makes the folders and empty files that lie directly at the address, so that a look finds them."""
        for name in self._names:
            top, _, rest = name.partition("/")
            if rest:
                (self.folder / top).mkdir(exist_ok=True)
            else:
                (self.folder / top).touch()

    @property
    def names(self) -> Iterable[str]:
        """Of all objects."""
        return self._names


@contextlib.contextmanager
def copied(address: str) -> Iterator[Copy]:
    """A copy with nothing in it yet, which is gone after the block; errors in the block name the address.

    Raises:
      Trouble: the storage refuses, or cannot be reached.
    """
    with tempfile.TemporaryDirectory(prefix="bdf-jax-") as temporary:
        folder = Path(temporary, *address.partition("://")[2].split("/"))
        with named(folder, address):
            copy = Copy(address, folder)
            if copy.names:  # else there is no such folder, as whoever looks for it will say
                folder.mkdir(parents=True)
            yield copy
