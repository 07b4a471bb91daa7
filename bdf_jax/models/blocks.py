"""Blocks that a method puts between the stages of the trunk."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn

from bdf_jax.parts import Family


@dataclasses.dataclass(frozen=True)
class Block(Family):
    """A block after a stage of the trunk.

    Attributes:
      after: the stage that it follows, as `network.split_at` counts: 1 the stem, 2 layer1, ... 5 layer4.
      branches: how many views it makes of each view that passes (`views.Branch`); they follow it through the trunk.
    """

    after: int
    branches: ClassVar[int] = 0

    def module(self, name: str, **settings: Any) -> nn.Module:
        """Called with (x, before, train): maps (N, M, H, W, C) after and before the stage.

        Returns the map, of the shape of x; where there are branches, (map, branches), a list of maps of that shape.

        Args:
          name: of its parameters.
          **settings: of `BatchNorm`.
        """
        raise NotImplementedError
