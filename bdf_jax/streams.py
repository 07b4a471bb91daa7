"""Standard output and standard error that never end a command: without a reader, on a full disk, closed, in ASCII.

What is printed tells of the work and is not the work. A pager that is closed, a log on a full disk or a stream that was
never there must not stop a training, and no letter is worth a traceback.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
from typing import Any, cast

ESCAPED = "backslashreplace"  # what an encoding lacks is written as its number


def settle() -> None:
    """Replaces the process's own standard streams by ones that take everything; does nothing the second time.

    Streams that somebody else has put in their place, a notebook or a test, are left alone.
    """
    _open_what_is_closed()
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8", errors=ESCAPED))  # noqa: SIM115  open to the end
        elif stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper):
            setattr(sys, name, _Stream(stream, number))


def lost_output() -> OSError | None:
    """Why something that was printed on standard output is lost, as on a full disk; None where nothing is.

    A reader that went away, as that of `... | head -3` or a terminal, wanted no more and has lost nothing.
    """
    stream = sys.stdout
    if not isinstance(stream, _Stream):
        return None
    stream.flush()
    failure = stream.sink.failure
    return None if failure is None or failure.errno == errno.EPIPE or stream.sink.terminal else failure


def tell(message: str, number: int = 2) -> None:
    """Writes at once and raises nothing: for a signal handler, or a thread, that ends the process next."""
    with contextlib.suppress(OSError):
        os.write(number, message.encode(errors=ESCAPED))


def _open_what_is_closed() -> None:
    """A closed 0, 1 or 2 would be the number of the next file that is opened, and native code writes its logs there."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one
            os.set_inheritable(opened, True)


class _Sink(io.RawIOBase):
    """A descriptor to write to; after a failure nothing more is written, and nobody hears of it.

    Attributes:
      failure: the first.
      terminal: whether it was one.
    """

    def __init__(self, number: int):
        self._number, self.terminal = number, os.isatty(number)
        self.failure: OSError | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._number

    def isatty(self) -> bool:
        return os.isatty(self._number)

    def write(self, data: Any, /) -> int:
        """Takes all of it."""
        left = memoryview(data).cast("B")
        size = len(left)
        while left and self.failure is None:
            try:
                left = left[os.write(self._number, left) :]
            except BlockingIOError:  # whoever shares a terminal or pipe may have made it so
                select.select([], [self._number], [])
            except OSError as error:
                self.failure = error
        return size


class _Stream(io.TextIOWrapper):
    """In place of `before`, with its encoding and its habits."""

    def __init__(self, before: io.TextIOWrapper, number: int):
        with contextlib.suppress(OSError):  # it will fail here as well
            before.flush()
        self.sink = _Sink(number)
        super().__init__(
            cast(io.BufferedWriter, self.sink) if before.write_through else io.BufferedWriter(self.sink),
            encoding=before.encoding,
            errors=ESCAPED,
            line_buffering=before.line_buffering,
            write_through=before.write_through,
        )
