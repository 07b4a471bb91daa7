"""Critics of images that score every patch, alone or beside what the trunk says of an image."""

from __future__ import annotations

import dataclasses
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from bdf_jax.models.heads import Critic
from bdf_jax.models.layers_adain import PaddedConv, instance_norm
from bdf_jax.models.layers_translation import small
from bdf_jax.pixels import signed


@dataclasses.dataclass(frozen=True)
class Patches(Critic):
    """4x4 convolutions at stride 2 with leaky ReLUs, all but the first normalised image by image; then 3x3 to a score.

    Source: AlignGAN (Wang et al., ICCV 2019), by its code.

    Attributes:
      widths: channels of the layers.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512, 1024)
    of: Literal["pixels"] = dataclasses.field(default="pixels", kw_only=True)

    def module(self, name: str | None) -> nn.Module:
        """See `Critic`: (N, H, W, 3) to (N, H', W', 1)."""
        return _Patches(self.widths, name=name)


@dataclasses.dataclass(frozen=True)
class PatchesBeside(Critic):
    """Does this image go with this map of features? `Patches`, with the map put beside its own half way.

    The map becomes few channels (1x1), and as large as the critic's own, bilinearly.

    Source: the critic of infrared images of AlignGAN (Wang et al., ICCV 2019), by its code.

    Attributes:
      widths: channels of the layers before the map comes in.
      joint: of those behind.
      features: channels that the map becomes.
    """

    widths: tuple[int, ...] = (64, 128, 256)
    joint: tuple[int, ...] = (512, 1024)
    features: int = 64
    of: Literal["pixels+map"] = dataclasses.field(default="pixels+map", kw_only=True)

    def module(self, name: str | None) -> nn.Module:
        """See `Critic`: (N, H, W, 3), (N, h, w, C) to (N, H', W', 1)."""
        return _PatchesBeside(self.widths, self.joint, self.features, name=name)


def _layers(x: jax.Array, widths: tuple[int, ...], first: int) -> jax.Array:
    for i, width in enumerate(widths, first):
        x = PaddedConv(width, 4, 2, 1, mode="zeros", kernel_init=small, name=f"conv{i}")(x)
        x = nn.leaky_relu(instance_norm(x) if i else x, 0.2)
    return x


def _score(x: jax.Array) -> jax.Array:
    return PaddedConv(1, 3, mode="zeros", bias=False, kernel_init=small, name="score")(x)


class _Patches(nn.Module):
    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        return _score(_layers(signed(images), self.widths, 0))


class _PatchesBeside(nn.Module):
    widths: tuple[int, ...]
    joint: tuple[int, ...]
    features: int

    @nn.compact
    def __call__(self, images: jax.Array, maps: jax.Array) -> jax.Array:
        x = _layers(signed(images), self.widths, 0)
        given = PaddedConv(self.features, 1, kernel_init=small, name="features")(maps.astype(jnp.float32))
        shape = (*x.shape[:3], self.features)
        given = jax.image.resize(nn.leaky_relu(given, 0.2), shape, "bilinear", antialias=False)
        return _score(_layers(jnp.concatenate([x, given], -1), self.joint, len(self.widths)))
