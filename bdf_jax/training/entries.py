"""What is done to the parameters once, when a stage of training begins."""

from __future__ import annotations

import dataclasses
from typing import Any

from bdf_jax.parts import Family


@dataclasses.dataclass(frozen=True)
class Entry(Family):
    """A change of the parameters between two steps."""

    def __call__(self, params: dict[str, Any]) -> dict[str, Any]:
        """The parameters with which the stage begins, of the same shapes; NumPy arrays in and out.

        Raises:
          BdfError: parameters that it needs are not there.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Copied(Entry):
    """What is there once for each base starts alike: the infrared parameters as a copy of the visible ones."""

    def __call__(self, params: dict[str, Any]) -> dict[str, Any]:
        """See `Entry`."""
        twins = {name: name.removesuffix("infrared") + "visible" for name in params if name.endswith("infrared")}
        return {name: params[twins.get(name, name)] for name in params}
