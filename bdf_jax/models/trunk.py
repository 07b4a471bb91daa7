"""Trunks as values: which network turns an image into a map of features."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import flax.linen as nn

from bdf_jax.errors import BdfError
from bdf_jax.models.mobilenet import FEATURES as MOBILENET_FEATURES
from bdf_jax.models.mobilenet import MobileStage
from bdf_jax.models.resnet import ARCHITECTURES, STAGES, Stage
from bdf_jax.parts import Family


@dataclasses.dataclass(frozen=True)
class Trunk(Family):
    """A network of at most five stages, `resnet.STAGES`."""

    @property
    def stages(self) -> int:
        """How many it has."""
        return len(STAGES)

    @property
    def name(self) -> str:
        """What people call it."""
        raise NotImplementedError

    @property
    def features(self) -> int:
        """D: channels of the last stage."""
        raise NotImplementedError

    def small(self) -> Trunk:
        """What stands for it in demos and tests: as many layers, and non-local blocks likewise."""
        return Tiny(non_local=getattr(self, "non_local", (0, 0, 0, 0)), layers=getattr(self, "layers", 4))

    def stage(self, stage: int, **settings: Any) -> nn.Module:
        """The module of one stage: (N, M, H, W, C) to (N, M, H', W', C')."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class ResNet(Trunk):
    """He et al., CVPR 2016.

    Attributes:
      depth: 18, 34 or 50.
      non_local: how many of the last blocks of layer1 to layer4 are followed by a non-local block.
      layers: the last of them that there is.
      stem_relu: whether an activation follows the stem's normalisation.
    """

    depth: Literal[18, 34, 50] = 50
    non_local: tuple[int, int, int, int] = (0, 0, 0, 0)
    layers: Literal[1, 2, 3, 4] = 4
    stem_relu: bool = True

    @property
    def name(self) -> str:
        """See `Trunk`."""
        return f"resnet{self.depth}"

    @property
    def stages(self) -> int:
        """See `Trunk`."""
        return 1 + self.layers

    @property
    def features(self) -> int:
        """See `Trunk`."""
        return ARCHITECTURES[self.name].channels(self.layers)

    def stage(self, stage: int, **settings: Any) -> nn.Module:
        """See `Trunk`."""
        blocks = (0, *ARCHITECTURES[self.name].blocks)[stage]
        wanted = (0, *self.non_local)[stage]
        if wanted > blocks:
            raise BdfError(f"ResNet.non_local: {wanted} blocks of layer{stage}, but {self.name} has {blocks} there")
        return Stage(self.name, stage, wanted, stem_relu=self.stem_relu, **settings)


@dataclasses.dataclass(frozen=True)
class Tiny(Trunk):
    """One block a stage and 128 features: for demos and tests.

    Attributes:
      non_local: as in `ResNet`; all of a stage's blocks where it asks for more.
      layers: as in `ResNet`.
    """

    non_local: tuple[int, int, int, int] = (0, 0, 0, 0)
    layers: Literal[1, 2, 3, 4] = 4

    @property
    def name(self) -> str:
        """See `Trunk`."""
        return "tiny"

    @property
    def features(self) -> int:
        """See `Trunk`."""
        return ARCHITECTURES["tiny"].channels(self.layers)

    @property
    def stages(self) -> int:
        """See `Trunk`."""
        return 1 + self.layers

    def stage(self, stage: int, **settings: Any) -> nn.Module:
        """See `Trunk`."""
        return Stage("tiny", stage, min((0, *self.non_local)[stage], 1), **settings)


def tiny(trunk: Trunk) -> Trunk:
    """The small network that stands for a trunk in demos and tests."""
    return trunk.small()


@dataclasses.dataclass(frozen=True)
class MobileNetV2(Trunk):
    """Sandler et al., CVPR 2018."""

    @property
    def name(self) -> str:
        """See `Trunk`."""
        return "mobilenet_v2"

    @property
    def features(self) -> int:
        """See `Trunk`."""
        return MOBILENET_FEATURES

    def stage(self, stage: int, **settings: Any) -> nn.Module:
        """See `Trunk`."""
        return MobileStage(stage, **settings)
