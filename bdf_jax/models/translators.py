"""Makers of views that look as if the other camera had taken them."""

from __future__ import annotations

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from bdf_jax.models.layers_adain import PaddedConv
from bdf_jax.models.layers_translation import RunningInstanceNorm, TransposedConv, small
from bdf_jax.pixels import signed, unsigned
from bdf_jax.views import Maker


@dataclasses.dataclass(frozen=True)
class Translator(Maker):
    """A residual generator on pixels between -1 and 1, with instance normalisation that remembers.

    7x7, two halvings (4x4 at stride 2), residual blocks, two enlargements (transposed 4x4), 7x7, tanh; padded with
    zeros, no offsets.

    Source: Wang et al., "RGB-Infrared Cross-Modality Person Re-Identification via Joint Pixel and Feature Alignment"
    (AlignGAN), ICCV 2019, by its code, after CycleGAN's.

    Attributes:
      width: channels of the first layer; then twice, then four times as many.
      blocks: residual blocks.
      kernel: side of the first and of the last kernel.
    """

    width: int = 64
    blocks: int = 4
    kernel: int = 7
    kept = True

    def module(self, name: str, network: nn.Module) -> nn.Module:
        """See `Maker.module`."""
        return _Translator(self.width, self.blocks, self.kernel, network.axis_name, name=name)  # type: ignore[attr-defined]


class _Translator(nn.Module):
    width: int
    blocks: int
    kernel: int = 7
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> tuple[jax.Array, None]:
        def conv(x: jax.Array, features: int, kernel: int, stride: int, name: str) -> jax.Array:
            plain = functools.partial(PaddedConv, mode="zeros", bias=False, kernel_init=small)
            return plain(features, kernel, stride, (kernel - 1) // 2, name=name)(x)

        def norm(x: jax.Array, name: str) -> jax.Array:
            return RunningInstanceNorm(self.axis_name, name=f"{name}_norm")(x, train=train)

        x, w = signed(images), self.width
        for i, (features, kernel, stride) in enumerate(((w, self.kernel, 1), (2 * w, 4, 2), (4 * w, 4, 2))):
            x = nn.relu(norm(conv(x, features, kernel, stride, f"down{i}"), f"down{i}"))
        for i in range(self.blocks):
            name = f"block{i}_conv"
            y = nn.relu(norm(conv(x, 4 * w, 3, 1, name + "1"), name + "1"))
            x = x + norm(conv(y, 4 * w, 3, 1, name + "2"), name + "2")
        for i, features in enumerate((2 * w, w)):
            x = nn.relu(norm(TransposedConv(features, name=f"up{i}")(x), f"up{i}"))
        return unsigned(jnp.tanh(conv(x, 3, self.kernel, 1, "colours"))), None
