"""Batches of pixels in memory that processes share, so that a decoded image is copied once on its way.

A decoding process fills a slot in place, the consumer copies it out; only the number of the slot goes through a queue.
Handing every batch over in shared memory of its own costs a copy more, the allocation and mapping of fresh pages in
two processes, and their release; docs/performance.md has the rates of both.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import time
from typing import IO, Any

import numpy as np

from bdf_jax.errors import BdfError

HEADER_BYTES = mmap.ALLOCATIONGRANULARITY  # the count of batches taken, and the slots aligned to pages
POLL_SECONDS = 0.001
CLOSED = 2**62


class Ring:
    """`slots` arrays used in turn: batch `number` lies in slot `number % slots`.

    Whoever fills a slot waits until the batch that lay there was taken. Batches must be taken in the order of their
    numbers, and `slots` must be at least the number of processes that fill; then nobody waits for ever. Pickles as the
    path of the memory. On Linux it has no name in any folder, so nothing is left behind however the processes end.

    Args:
      shape: of the uint8 array in a slot.
      slots: how many.
      first: number of the first batch.

    Raises:
      BdfError: where it is unpickled, the memory cannot be opened.
    """

    def __init__(self, shape: tuple[int, ...], slots: int, first: int):
        self._shape, self._slots = shape, slots
        self._file = _memory()
        self._file.truncate(HEADER_BYTES + slots * int(np.prod(shape)))
        name = self._file.name  # of memory without one, the number of the descriptor
        self._path = name if isinstance(name, str) else f"/proc/{os.getpid()}/fd/{name}"
        self._map()
        self._taken[0] = first

    def slot(self, number: int) -> np.ndarray:
        """Where batch `number` is to be written; returns as soon as its slot is free."""
        while number >= self._taken[0] + self._slots:
            time.sleep(POLL_SECONDS)
        return self._arrays[number % self._slots]

    def take(self, number: int) -> np.ndarray:
        """A copy of batch `number`, whose slot is free from then on."""
        batch = self._arrays[number % self._slots].copy()
        self._taken[0] = number + 1
        return batch

    def close(self) -> None:
        """Lets everyone who waits for a slot go on, and frees the memory once they have ended."""
        self._taken[0] = CLOSED
        self._file.close()

    def _map(self) -> None:
        memory = mmap.mmap(self._file.fileno(), 0)
        self._taken = np.frombuffer(memory, np.int64, 1)
        self._arrays = np.frombuffer(memory, np.uint8, offset=HEADER_BYTES).reshape(self._slots, *self._shape)

    def __getstate__(self) -> dict[str, Any]:
        return {"_shape": self._shape, "_slots": self._slots, "_path": self._path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        try:
            self._file = open(self._path, "r+b")  # noqa: SIM115  open for as long as batches are filled
        except OSError as error:
            raise BdfError(
                f"a decoding process cannot share memory with the process that started it: {error}; "
                "--config.data.workers=0 decodes in threads of one process"
            ) from error
        self._map()


def _memory() -> IO[bytes]:
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("bdf_jax batches"), "r+b")
    return tempfile.NamedTemporaryFile()  # type: ignore[return-value]
