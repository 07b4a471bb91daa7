"""Signals that end a program while nothing is trained; what would have to be saved first is the loop's affair."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

from bdf_jax import streams
from bdf_jax.errors import BdfError
from bdf_jax.signals import stopping

MESSAGE = "error: {} while nothing was being trained: the checkpoints are as they were; the same command continues\n"
AGAIN_SECONDS = 0.1  # after which a Ctrl-C that was swallowed comes again


class Preempted(BdfError):
    """SIGTERM or SIGHUP came: everything that was trained is saved, and the same command continues."""

    exit_code = 75  # EX_TEMPFAIL: try again


@contextlib.contextmanager
def preemptible() -> Iterator[None]:
    """A block of a program, in its main thread, that signals end with the exit code they stand for.

    SIGTERM, or SIGHUP where it is not ignored, ends the process at once with that of `Preempted`. There is nothing to
    save here, and an exception raised in the middle of a library may be swallowed: those in callbacks of JAX's are.
    Ctrl-C, which is such an exception, therefore comes again where it was swallowed.
    """
    hook = sys.unraisablehook

    def deliver_again(unraisable: Any) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            threading.Timer(AGAIN_SECONDS, os.kill, (os.getpid(), signal.SIGINT)).start()
        else:
            hook(unraisable)

    sys.unraisablehook = deliver_again
    try:
        with stopping(_exit):
            yield
    finally:
        sys.unraisablehook = hook


def _exit(number: int, _: object) -> None:
    # Not through sys.stderr, which the signal may have come in the middle of.
    streams.tell(MESSAGE.format(signal.Signals(number).name))
    os._exit(Preempted.exit_code)
