"""Progress bars of one kind."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


def bar(**options: Any) -> tqdm:
    """A tqdm bar on the error stream; in a file or a pipe, where every refresh stays visible, it speaks up rarely."""
    redrawn = sys.stderr.isatty() or type(sys.stderr).__module__.startswith("ipykernel")  # a terminal, a notebook
    return tqdm(dynamic_ncols=True, mininterval=0.1 if redrawn else 15.0, **options)
