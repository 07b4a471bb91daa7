"""ResNets as five stages, so that any number of the first ones can be specific to a base modality.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, in torchvision's v1.5 form: the stride of a
bottleneck is on its 3x3 convolution. The last stage keeps its resolution (stride 1), as re-identification wants.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bdf_jax.models.layers import BatchNorm, Conv, NonLocal, max_pool


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What tells one ResNet from another."""

    blocks: tuple[int, int, int, int]  # residual blocks of the four layers
    widths: tuple[int, int, int, int]  # channels of their 3x3 convolutions
    bottleneck: bool
    small_stem: bool = False  # 3x3 and a 2x2 maximum instead of 7x7 and a 3x3 maximum

    @property
    def features(self) -> int:
        """D: channels of the last stage."""
        return self.channels(4)

    def channels(self, layer: int) -> int:
        """Channels of layer1 to layer4."""
        return self.widths[layer - 1] * (4 if self.bottleneck else 1)


WIDTHS = (64, 128, 256, 512)
ARCHITECTURES = {
    "tiny": Architecture((1, 1, 1, 1), (16, 32, 64, 128), bottleneck=False, small_stem=True),
    "resnet18": Architecture((2, 2, 2, 2), WIDTHS, bottleneck=False),
    "resnet34": Architecture((3, 4, 6, 3), WIDTHS, bottleneck=False),
    "resnet50": Architecture((3, 4, 6, 3), WIDTHS, bottleneck=True),
}
STAGES = ("stem", "layer1", "layer2", "layer3", "layer4")


class Stage(nn.Module):
    """One of the five stages.

    Attributes:
      arch: key of `ARCHITECTURES`.
      stage: position in `STAGES`.
      non_local: how many of the last blocks are followed by a non-local block.
      modalities, tables: see `BatchNorm`.
      axis_name: see `BatchNorm`.
      dtype: of the convolutions.
      remat: whether a block's inner activations are computed again for the gradient instead of kept.
      stem_relu: whether an activation follows the stem's normalisation.
    """

    arch: str
    stage: int
    non_local: int = 0
    modalities: tuple[int, ...] | None = None
    tables: int = 1
    axis_name: str | None = None
    dtype: Any = jnp.float32
    remat: bool = False
    stem_relu: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """(N, M, H, W, C) to (N, M, H', W', C')."""
        architecture = ARCHITECTURES[self.arch]
        conv = functools.partial(Conv, dtype=self.dtype)
        norm = functools.partial(BatchNorm, modalities=self.modalities, tables=self.tables, axis_name=self.axis_name)
        if self.stage == 0:
            return _stem(x, architecture, conv, norm, train, self.stem_relu)
        width = architecture.widths[self.stage - 1]
        block = _bottleneck if architecture.bottleneck else _basic
        blocks = architecture.blocks[self.stage - 1]
        for i in range(blocks):
            stride = 2 if i == 0 and self.stage in (2, 3) else 1

            def run(stage: Stage, x: jax.Array, name: str = f"block{i}", stride: int = stride) -> jax.Array:
                return block(x, name, width, stride, conv, norm, train)

            x = (nn.remat(run) if train and self.remat else run)(self, x)
            if i >= blocks - self.non_local:
                x = NonLocal(self.axis_name, name=f"non_local{i}")(x, train=train)
        return x


def _stem(x: jax.Array, architecture: Architecture, conv: Any, norm: Any, train: bool, relu: bool) -> jax.Array:
    width = architecture.widths[0]
    if architecture.small_stem:
        x = nn.relu(norm(name="bn")(conv(width, 3, name="conv")(x), train=train))
        N, M, H, W, C = x.shape
        even = x[:, :, : H // 2 * 2, : W // 2 * 2]  # as a pooling window without padding would see it
        return even.reshape(N, M, H // 2, 2, W // 2, 2, C).max(axis=(3, 5))
    x = conv(width, 7, 2, name="conv")(x)
    x = norm(name="bn")(x, train=train)
    return max_pool(nn.relu(x) if relu else x)


def _basic(x: jax.Array, name: str, width: int, stride: int, conv: Any, norm: Any, train: bool) -> jax.Array:
    y = nn.relu(norm(name=f"{name}_bn1")(conv(width, 3, stride, name=f"{name}_conv1")(x), train=train))
    y = norm(name=f"{name}_bn2")(conv(width, 3, name=f"{name}_conv2")(y), train=train)
    return nn.relu(y + _shortcut(x, name, width, stride, conv, norm, train))


def _bottleneck(x: jax.Array, name: str, width: int, stride: int, conv: Any, norm: Any, train: bool) -> jax.Array:
    y = nn.relu(norm(name=f"{name}_bn1")(conv(width, 1, name=f"{name}_conv1")(x), train=train))
    y = nn.relu(norm(name=f"{name}_bn2")(conv(width, 3, stride, name=f"{name}_conv2")(y), train=train))
    y = norm(name=f"{name}_bn3")(conv(4 * width, 1, name=f"{name}_conv3")(y), train=train)
    return nn.relu(y + _shortcut(x, name, 4 * width, stride, conv, norm, train))


def _shortcut(x: jax.Array, name: str, features: int, stride: int, conv: Any, norm: Any, train: bool) -> jax.Array:
    if x.shape[-1] == features and stride == 1:
        return x
    return norm(name=f"{name}_bn0")(conv(features, 1, stride, name=f"{name}_conv0")(x), train=train)
