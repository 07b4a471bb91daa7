"""Hi-CMD's trunk: an encoder of prototypes, what of a person does not depend on pose and light, and a ResNet's middle.

Source: Choi et al., "Hi-CMD: Hierarchical Cross-Modality Disentanglement for Visible-Infrared Person
Re-Identification", CVPR 2020, by its code.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bdf_jax.models.layers_adain import PaddedConv, instance_norm, residual
from bdf_jax.models.resnet import ARCHITECTURES, Stage
from bdf_jax.models.trunk import Trunk

SLOPE = 0.3  # of all activations below 0


@dataclasses.dataclass(frozen=True)
class Prototypes(Trunk):
    """Stages: the encoder, nothing, layer2 and layer3 of a ResNet, which go on from as many channels as layer1 has.

    Attributes:
      arch: of the ResNet: a key of `resnet.ARCHITECTURES`.
      width: channels of the encoder's first convolution; an eighth of what it ends with.
      blocks: its residual blocks.
      dilations: of its last branches.
    """

    arch: str = "resnet50"
    width: int = 32
    blocks: int = 4
    dilations: tuple[int, ...] = (3, 6, 9)

    @property
    def name(self) -> str:
        """See `Trunk`."""
        return f"prototypes_{self.arch}"

    @property
    def features(self) -> int:
        """See `Trunk`."""
        return ARCHITECTURES[self.arch].channels(3)

    @property
    def stages(self) -> int:
        """See `Trunk`."""
        return 4

    def small(self) -> Prototypes:
        """See `Trunk.small`."""
        return Prototypes("tiny", width=4, blocks=1, dilations=(1, 2))

    def stage(self, stage: int, **settings: Any) -> nn.Module:
        """See `Trunk`."""
        if stage > 1:
            return Stage(self.arch, stage, **settings)
        where = {name: settings[name] for name in ("name", "parent") if name in settings}
        if stage == 1:
            return _Nothing(**where)
        channels = ARCHITECTURES[self.arch].channels(1)
        return PrototypeEncoder(self.width, self.blocks, self.dilations, channels, settings["dtype"], **where)


class PrototypeEncoder(nn.Module):
    """Two halvings, residual blocks, and branches of several dilations, all normalised image by image.

    Attributes:
      width: channels of the first convolution, then twice as many twice, four times as many, twice in each branch.
      blocks: residual blocks.
      dilations: of the branches beside the first, which has 1x1 alone.
      features: channels of the prototype.
      dtype: of the result.
    """

    width: int = 32
    blocks: int = 4
    dilations: tuple[int, ...] = (3, 6, 9)
    features: int = 256
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """(..., H, W, 3) to (..., H / 4, W / 4, features)."""
        w = self.width
        for i, (width, stride) in enumerate(((w, 2), (2 * w, 1), (2 * w, 1), (4 * w, 2))):
            x = activate(instance_norm(PaddedConv(width, 3, stride, name=f"conv{i}")(x)))
        for i in range(self.blocks):
            x = residual(x, f"block{i}", activate, norms=(instance_norm, instance_norm))
        branches = [instance_norm(PaddedConv(2 * w, 1, name="branch0")(x))]
        for i, dilation in enumerate(self.dilations, 1):
            y = activate(instance_norm(PaddedConv(2 * w, 1, name=f"branch{i}_in")(x)))
            wide = PaddedConv(2 * w, 3, dilation=dilation, name=f"branch{i}")
            branches.append(instance_norm(wide(y)))
        joined = PaddedConv(self.features, 1, name="join")(jnp.concatenate(branches, -1))
        return instance_norm(joined).astype(self.dtype)


def activate(x: jax.Array) -> jax.Array:
    """A leaky ReLU."""
    return nn.leaky_relu(x, SLOPE)


class _Nothing(nn.Module):
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return x
