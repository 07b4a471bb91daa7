"""The one exception that a user is meant to read, and the exit codes of every command."""

from __future__ import annotations

import sys
from collections.abc import Callable

INTERRUPTED = 130  # as a shell reports Ctrl-C


class BdfError(Exception):
    """Something the user can mend: it names the thing, what was expected, what was found, what to do.

    The command line prints its message without a traceback and exits with a code other than 0; in a
    notebook it is an ordinary exception.
    """

    exit_code = 1


def exit_code_of(command: Callable[[], int | None]) -> int:
    """Runs a command and says on standard error, without a traceback, what stopped it.

    Returns:
      What `command` returns (None: 0); the error's own code after a BdfError (1, or 75 when preempted with everything
      saved), 130 when interrupted, 0 when the reader of its output has gone (`... | head`).
    """
    try:
        return command() or 0
    except BdfError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return 0
