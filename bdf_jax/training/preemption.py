"""SIGTERM, the usual notice of preemption, while nothing is trained that would have to be saved."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

from bdf_jax.errors import BdfError


class Preempted(BdfError):
    """SIGTERM came: everything that was trained is saved, and the same command continues."""

    exit_code = 75  # EX_TEMPFAIL: try again


class _Terminated(BaseException):
    """Not an `Exception`, like KeyboardInterrupt: no library may take it for a failure of its own."""


@contextlib.contextmanager
def preemptible() -> Iterator[None]:
    """A block that SIGTERM leaves at once; where it trains, the loop takes the signal over and saves first.

    For programs: it must be entered in the main thread.

    Raises:
      Preempted: SIGTERM came.
    """

    def terminate(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # leaving is under way; a second notice must not disturb it
        raise _Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except _Terminated:
        raise Preempted(
            "SIGTERM while nothing was being trained: the checkpoints are as they were; the same command continues"
        ) from None
    finally:
        signal.signal(signal.SIGTERM, before)
