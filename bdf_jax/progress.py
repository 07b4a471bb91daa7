"""Progress bars of one kind."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm
from tqdm.utils import ObjectWrapper


def bar(**options: Any) -> tqdm:
    """A tqdm bar on the error stream; in a file or a pipe, where every refresh stays visible, a line now and then."""
    if sys.stderr is None:  # a program without one, such as a service
        options["disable"] = True
    elif not (is_terminal() or type(sys.stderr).__module__.startswith("ipykernel")):  # a notebook draws again, too
        # Nobody moves up a line for a bar below another one: each is the first.
        options = {"file": _Lines(sys.stderr), "mininterval": 15.0, "position": 0, **options}
    return tqdm(dynamic_ncols=True, **options)


def is_terminal() -> bool:
    """Whether somebody looks at the error stream as it is written."""
    return sys.stderr is not None and sys.stderr.isatty()


class _Lines(ObjectWrapper):
    """A stream on which every state of a bar has a line of its own, and nothing else is on it."""

    def write(self, text: str) -> None:
        """Writes what is left without the characters that redraw a line."""
        text = text.replace("\r", "").rstrip()
        if text:
            self._wrapped.write(text + "\n")
