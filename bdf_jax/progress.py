"""Progress bars of one kind."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


def bar(**options: Any) -> tqdm:
    """A tqdm bar on the error stream; in a file or a pipe, where every refresh stays visible, it speaks up rarely."""
    return tqdm(dynamic_ncols=True, mininterval=0.1 if sys.stderr.isatty() else 15.0, **options)
