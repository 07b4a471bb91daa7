"""MobileNetV2 as the same five stages as the ResNets: a light backbone.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, table 2, width 1. The stem is
the first convolution and the first block; the last stage takes the blocks of 160 and 320 channels and the 1x1
convolution to 1280. As in the ResNets here, the last stage keeps its resolution (stride 1 where the paper has 2), so
features are pooled from 1/16 of the image's height and width.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bdf_jax.models.layers import BatchNorm, Conv

FEATURES = 1280  # D: channels of the last stage
HEAD_STAGE = 4  # the stage that ends with the 1x1 convolution to `FEATURES`

# Of each stage: for each of its blocks (expansion, output channels, stride).
BLOCKS: tuple[tuple[tuple[int, int, int], ...], ...] = (
    ((1, 16, 1),),
    ((6, 24, 2), (6, 24, 1)),
    ((6, 32, 2),) + 2 * ((6, 32, 1),),
    ((6, 64, 2),) + 3 * ((6, 64, 1),) + 3 * ((6, 96, 1),),
    3 * ((6, 160, 1),) + ((6, 320, 1),),
)


class DepthwiseConv(nn.Module):
    """A 3x3 convolution of every channel by itself, padded by 1.

    Written as nine strided views, each multiplied by its tap: on a CPU the gradients of a grouped convolution take
    two to five times as long.

    Attributes:
      stride: of both axes.
      dtype: of the computation; the kernel itself is float32 (3, 3, 1, C).
    """

    stride: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., H, W, C) to (..., H', W', C)."""
        H, W, C = x.shape[-3:]
        # He et al. 2015: 9 inputs and 9 outputs reach an element.
        init = nn.initializers.normal(math.sqrt(2 / 9))
        kernel = self.param("kernel", init, (3, 3, 1, C), jnp.float32)
        padding = [(0, 0)] * (x.ndim - 3) + [(1, 1), (1, 1), (0, 0)]
        padded = jnp.pad(x.astype(self.dtype), padding)
        step = self.stride
        height, width = step * ((H - 1) // step) + 1, step * ((W - 1) // step) + 1
        taps = [
            _times(padded[..., i : i + height : step, j : j + width : step, :], kernel[i, j, 0])
            for i in range(3)
            for j in range(3)
        ]
        return functools.reduce(jnp.add, taps)


@jax.custom_vjp
def _times(x: jax.Array, tap_C: jax.Array) -> jax.Array:
    """The product in the type of `x`. The gradient of the tap, a sum over all pixels of the batch, is float32.

    bfloat16 no longer adds to a sum that is 256 times as large as a term.
    """
    return x * tap_C.astype(x.dtype)


def _times_forward(x: jax.Array, tap_C: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _times(x, tap_C), (x, tap_C)


def _times_backward(kept: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, tap_C = kept
    products = x.astype(jnp.float32) * gradient.astype(jnp.float32)
    return gradient * tap_C.astype(gradient.dtype), products.sum(tuple(range(x.ndim - 1)))


_times.defvjp(_times_forward, _times_backward)


class MobileStage(nn.Module):
    """One of the five stages.

    Attributes:
      stage: position in `resnet.STAGES`.
      modalities, tables: see `BatchNorm`.
      axis_name: see `BatchNorm`.
      dtype: of the convolutions.
      remat: whether a block's inner activations are computed again for the gradient instead of kept.
    """

    stage: int
    modalities: tuple[int, ...] | None = None
    tables: int = 1
    axis_name: str | None = None
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """(N, M, H, W, C) to (N, M, H', W', C')."""
        conv = functools.partial(Conv, dtype=self.dtype)
        depthwise = functools.partial(DepthwiseConv, dtype=self.dtype)
        norm = functools.partial(BatchNorm, modalities=self.modalities, tables=self.tables, axis_name=self.axis_name)
        if self.stage == 0:
            x = _relu6(norm(name="bn")(conv(32, 3, 2, name="conv")(x), train=train))

        def block(stage: MobileStage, x: jax.Array, i: int) -> jax.Array:
            (expansion, features, stride), name, y = BLOCKS[self.stage][i], f"block{i}", x
            if expansion > 1:
                hidden = conv(expansion * x.shape[-1], 1, name=f"{name}_conv1")(y)
                y = _relu6(norm(name=f"{name}_bn1")(hidden, train=train))
            y = _relu6(norm(name=f"{name}_bn2")(depthwise(stride, name=f"{name}_conv2")(y), train=train))
            y = norm(name=f"{name}_bn3")(conv(features, 1, name=f"{name}_conv3")(y), train=train)
            return x + y if stride == 1 and x.shape[-1] == features else y

        for i in range(len(BLOCKS[self.stage])):
            run = functools.partial(block, i=i)
            x = (nn.remat(run) if train and self.remat else run)(self, x)
        if self.stage == HEAD_STAGE:
            x = _relu6(norm(name="bn")(conv(FEATURES, 1, name="conv")(x), train=train))
        return x


def _relu6(x: jax.Array) -> jax.Array:
    return jnp.clip(x, 0, 6)
