"""The one exception that a user is meant to read, and the checks that raise it most."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from bdf_jax.names import legible


class BdfError(Exception):
    """Something the user can mend: it names the thing, what was expected, what was found, what to do.

    The command line prints its message without a traceback and exits with a code other than 0; in a
    notebook it is an ordinary exception. Names in it that no encoding takes are escaped.
    """

    exit_code = 1

    def __init__(self, message: object = "", *more: object):
        super().__init__(legible(str(message)), *more)


def at_least(path: str, value: float, low: float) -> None:
    """Raises BdfError where the field `path` is below `low`, or is no number."""
    if not value >= low:
        raise BdfError(f"{path}: expected at least {low}, found {value}")


def within(path: str, value: float, low: float, high: float) -> None:
    """Raises BdfError where the field `path` is not from `low` to `high`."""
    if not low <= value <= high:
        raise BdfError(f"{path}: expected {low} to {high}, found {value}")


def check_names(path: str, names: Sequence[str], known: Sequence[str]) -> None:
    """Raises BdfError where one of the names that the field `path` refers to is not there; names the nearest."""
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
            hint = f"; nearest: {', '.join(near)}" if near else ""
            raise BdfError(f"{path}: there is no {name!r}; there are {', '.join(known) or 'none'}{hint}")
