"""The signals that ask a program to stop, and to save first."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

# The notice of preemption, and of a terminal that is gone: a lost connection, a window that was closed.
STOPPING = (signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def stopping(handler: Callable[[int, Any], Any]) -> Iterator[None]:
    """A block, in the main thread, in which these signals call `handler`; one that `nohup` ignores stays ignored."""
    handled = [number for number in STOPPING if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in handled}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, signal.SIG_DFL if previous is None else previous)
