"""Published trees on disk -> what is in them, checked before anything is read: what the readers of data sets share.

The readers themselves stand in `bdf_jax.datasets`; `read_tree` is found here, too, where version 0.1 had it.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name in ("read_tree", "tree_root"):
        import bdf_jax.datasets  # which needs this package

        return getattr(bdf_jax.datasets, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
