"""What looking over a tree finds: counts, and what is missing or corrupt."""

from __future__ import annotations

import dataclasses
from typing import Any

from bdf_jax.names import printable


@dataclasses.dataclass
class Problem:
    """Something missing or corrupt: what, and the names it is about (relative to the root)."""

    what: str
    names: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self.names = [printable(name) for name in self.names]


@dataclasses.dataclass
class Report:
    """What a tree holds and lacks.

    Attributes:
      dataset: "sysu_mm01", "regdb" or "llcm".
      root: of the tree, absolute.
      synthetic: whether it is a world that this project wrote.
      counts: rows of split, camera, modality, images, identities, with the published numbers where there are any.
      missing, corrupt: what training or evaluation would stumble over.
      warnings: what differs from the published data set and can be used all the same.
      decoded: images whose every pixel was decoded.
    """

    dataset: str
    root: str
    synthetic: bool = False
    counts: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    missing: list[Problem] = dataclasses.field(default_factory=list)
    corrupt: list[Problem] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)
    decoded: int = 0

    @property
    def usable(self) -> bool:
        """Whether nothing is missing or corrupt."""
        return not self.missing and not self.corrupt
