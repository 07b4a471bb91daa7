"""Critics of images at several scales: each sees them half as large as the one before."""

from __future__ import annotations

import dataclasses
from typing import Literal

import flax.linen as nn
import jax

from bdf_jax.models.heads import Critic
from bdf_jax.models.layers_adain import PaddedConv, halved, residual
from bdf_jax.pixels import signed

small = nn.initializers.normal(0.02)


@dataclasses.dataclass(frozen=True)
class StridedScales(Critic):
    """Convolutions of 4x4 at stride 2, padded by reflection, leaky ReLUs, and a score for every place.

    Source: the critics of Wang et al., AAAI 2020 (JSIA), after MUNIT's.

    Attributes:
      scales: how many critics there are.
      widths: channels of their layers.
      smaller: how often an image, whose pixels become numbers between -1 and 1, is halved before.
    """

    scales: int = 2
    widths: tuple[int, ...] = (32, 64, 128, 256)
    smaller: int = 0
    of: Literal["pixels"] = dataclasses.field(default="pixels", kw_only=True)

    def module(self, name: str | None) -> nn.Module:
        """See `Critic`: (N, H, W, 3) to a list of (N, H', W', 1), one a scale."""
        return _StridedScales(self.scales, self.widths, self.smaller, name=name)


@dataclasses.dataclass(frozen=True)
class ResidualScales(Critic):
    """Convolutions of 3x3 that halve the image twice, residual blocks, and a score for every place.

    Source: the critics of Choi et al., CVPR 2020 (Hi-CMD).

    Attributes:
      scales: how many critics there are.
      width: channels of the first layers; then twice as many.
      blocks: residual blocks.
      slope: of the activations below 0.
      smaller: how often an image is halved before.
    """

    scales: int = 3
    width: int = 32
    blocks: int = 4
    slope: float = 0.3
    smaller: int = 0
    of: Literal["pixels"] = dataclasses.field(default="pixels", kw_only=True)

    def module(self, name: str | None) -> nn.Module:
        """See `Critic`: (N, H, W, 3) to a list of (N, H', W', 1), one a scale."""
        return _ResidualScales(self.scales, self.width, self.blocks, self.slope, self.smaller, name=name)


class _StridedScales(nn.Module):
    scales: int
    widths: tuple[int, ...]
    smaller: int = 0

    @nn.compact
    def __call__(self, images: jax.Array) -> list[jax.Array]:
        images, found = signed(images), []
        for _ in range(self.smaller):
            images = halved(images)
        for scale in range(self.scales):
            x = images if scale == 0 else (images := halved(images))
            for i, width in enumerate(self.widths):
                x = PaddedConv(width, 4, 2, 1, kernel_init=small, name=f"scale{scale}_conv{i}")(x)
                x = nn.leaky_relu(x, 0.2)
            found.append(PaddedConv(1, 1, kernel_init=small, name=f"scale{scale}_score")(x))
        return found


class _ResidualScales(nn.Module):
    scales: int
    width: int
    blocks: int
    slope: float
    smaller: int = 0

    @nn.compact
    def __call__(self, images: jax.Array) -> list[jax.Array]:
        def activate(x: jax.Array) -> jax.Array:
            return nn.leaky_relu(x, self.slope)

        w, found = self.width, []
        for _ in range(self.smaller):
            images = halved(images)
        for scale in range(self.scales):
            x = images if scale == 0 else (images := halved(images))
            for i, (width, kernel, stride) in enumerate(((w, 1, 1), (w, 3, 1), (w, 3, 2), (w, 3, 1), (2 * w, 3, 2))):
                x = activate(PaddedConv(width, kernel, stride, kernel_init=small, name=f"scale{scale}_conv{i}")(x))
            for i in range(self.blocks):
                x = residual(x, f"scale{scale}_block{i}", activate, small)
            found.append(PaddedConv(1, 1, kernel_init=small, name=f"scale{scale}_score")(x))
        return found
