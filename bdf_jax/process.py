"""What every command does around its work: memory, compiled programs, and how it ends."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Callable

from bdf_jax import streams
from bdf_jax.compilation_cache import use_compilation_cache
from bdf_jax.errors import BdfError
from bdf_jax.trouble import IN_EMBEDDING, IN_TRAINING, is_memory, trouble_of

INTERRUPTED = 130  # as a shell reports Ctrl-C
UNPRINTED = 1
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # malloc.h of glibc


def run_command(command: Callable[[], int | None]) -> int:
    """Runs a command and says on standard error, without a traceback, what stopped it.

    A reader of its output that goes away (`... | head`) does not stop it.

    Returns:
      What `command` returns (None: 0); the error's own code after a BdfError (1, or 75 when preempted with everything
      saved); 1 after trouble of the machine (permission, a disk, memory); 130 when interrupted; 1 when it came to its
      end and standard output could not take what it printed.
    """
    streams.settle()
    try:
        keep_freed_memory()
        use_compilation_cache()
        code = command() or 0
    except BdfError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as error:
        print("interrupted" + (f": {error}" if str(error) else ""), file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        found = trouble_of(error) or (error.strerror if isinstance(error, OSError) else "")
        if not found:
            raise  # an error of ours
        of_a_file = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
        remedy = f"; in training {IN_TRAINING}; in evaluation {IN_EMBEDDING}" if is_memory(error) else ""
        print(f"error: {of_a_file}{found}{remedy}", file=sys.stderr)
        return BdfError.exit_code
    lost = streams.lost_output()
    if lost is None:
        return code
    print(
        f"error: standard output: {lost.strerror}: what was printed is lost from there on; the command itself came to "
        "its end, and every file that it writes is whole",
        file=sys.stderr,
    )
    return code or UNPRINTED


def keep_freed_memory() -> bool:
    """Lets a process that computes on the CPU keep what a step has freed for the next one; call it before JAX starts.

    A step's temporary memory, hundreds of MiB, otherwise goes back to the system after every step and comes again page
    by page, zeroed: a seventh of a training step of ResNet-50 (docs/performance.md). Threads must share one heap for
    that, so it is done only where the network itself runs on the CPU, and not where the user tunes malloc.

    Returns:
      Whether it was done: glibc, no accelerator in sight, none of malloc's own variables set.
    """
    if not _computes_on_the_cpu() or any(name in os.environ for name in ("GLIBC_TUNABLES", "MALLOC_ARENA_MAX")):
        return False
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018 - other libraries' mallopt has other numbers
        settings = ((M_ARENA_MAX, 1), (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1))  # -1: never
        return all(libc.mallopt(name, value) for name, value in settings)
    except (OSError, AttributeError, TypeError):  # no glibc
        return False


def _computes_on_the_cpu() -> bool:
    """Without starting JAX's backends: the platform asked for, or no plugin for another one installed."""
    asked = os.environ.get("JAX_PLATFORMS", "")
    if asked:
        return asked == "cpu"
    return not importlib.metadata.entry_points(group="jax_plugins") and importlib.util.find_spec("libtpu") is None
