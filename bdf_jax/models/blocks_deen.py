"""DEEN's blocks: features of two stages aggregated, and two more embeddings of each image.

Zhang and Wang, "Diverse Embedding Expansion Network and Low-Light Cross-Modality Benchmark for Visible-Infrared Person
Re-identification", CVPR 2023.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from bdf_jax.errors import BdfError
from bdf_jax.models.blocks import Block
from bdf_jax.models.layers import BatchNorm

Position = Literal["author", "paper"]
small = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
he = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


@dataclasses.dataclass(frozen=True)
class MFA(Block):
    """Multistage feature aggregation: a stage's map with what the map before the stage says of it.

    First over channels: with E = theta(x) phi(before)^T / l, one row and column a channel, x + BN(W(E g(before))). Then
    over positions, see `position`. Both normalisations start at 0, so the block starts as the identity.

    Attributes:
      position: "author": of the authors' code, in which a token is a position of the upper half of the map together
        with the one half a map below, and E = theta phi^T / tokens. "paper": a token is a position, and E the softmax
        of theta phi^T over the positions before the stage.
    """

    position: Position = "author"

    def module(self, name: str, **settings: Any) -> nn.Module:
        """See `Block.module`."""
        return _MFA(self.position, settings, name=name)


@dataclasses.dataclass(frozen=True)
class DEE(Block):
    """Diverse embedding expansion: two branches, each of convolutions with dilations 1, 2 and 3.

    A branch is W relu(mean of the three), a quarter of the channels wide inside. The authors' dropout (0.01) is left
    out.
    """

    branches: ClassVar[int] = 2

    def module(self, name: str, **settings: Any) -> nn.Module:
        """See `Block.module`."""
        return _DEE(name=name)


class _MFA(nn.Module):
    position: str
    norm: Mapping[str, Any]

    @nn.compact
    def __call__(self, x: jax.Array, before: jax.Array, *, train: bool) -> jax.Array:
        high, low = x.astype(jnp.float32), before.astype(jnp.float32)
        z = high + self._norm("channel_bn", self._channels(high, low), train)
        z = z + self._norm("position_bn", self._positions(z, low), train)
        return z.astype(x.dtype)

    def _channels(self, high: jax.Array, low: jax.Array) -> jax.Array:
        """(N, M, H, W, h): every channel of the map before, by how alike it is to those of this one."""
        l, step = low.shape[-1], -(-low.shape[2] // high.shape[2])  # noqa: E741
        theta = _tokens(_dense(l, "channel_theta")(high))
        phi = _tokens(_dense(l, "channel_phi")(low[:, :, ::step, ::step]))
        energy = jnp.einsum("nmti,nmtj->nmij", theta, phi) / l
        y = jnp.einsum("nmij,nmhwj->nmhwi", energy, _dense(l, "channel_g")(low))
        return _dense(high.shape[-1], "channel_W")(y[:, :, ::step, ::step])

    def _positions(self, high: jax.Array, low: jax.Array) -> jax.Array:
        """(N, M, H, W, h): every token of the map before, by how alike it is to those of this one."""
        inner = low.shape[-1] // 2
        theta = _dense(inner, "position_theta")(high)
        phi, g = (_dense(inner, f"position_{name}")(low) for name in ("phi", "g"))
        if self.position == "paper":
            energy = jnp.einsum("nmti,nmsi->nmts", _tokens(theta), _tokens(phi))
            y = jnp.einsum("nmts,nmsi->nmti", jax.nn.softmax(energy), _tokens(g))
        else:
            theta_T, phi_T, g_T = (self._halves(map_) for map_ in (theta, phi, g))
            # Without a softmax, products may be taken in any order: first the small matrix of channels.
            pairs = jnp.einsum("nmsi,nmsj->nmij", phi_T, g_T) / phi_T.shape[2]
            y = _whole(jnp.einsum("nmti,nmij->nmtj", theta_T, pairs))
        return _dense(high.shape[-1], "position_W")(y.reshape(theta.shape))

    def _halves(self, x: jax.Array) -> jax.Array:
        """(N, M, H W / 2, 2 c) of (N, M, H, W, c): channel by channel, a position and the one half a map below it."""
        N, M, H, W, c = x.shape
        if H * W % 2:
            raise BdfError(
                f"network.blocks.{self.name}: position 'author' pairs the two halves of a map, but one of {H}x{W} has "
                f"{H * W} positions, an odd number; change data.image_size, or set position to 'paper'"
            )
        return x.reshape(N, M, 2, H * W // 2, c).transpose(0, 1, 3, 4, 2).reshape(N, M, H * W // 2, 2 * c)

    def _norm(self, name: str, y: jax.Array, train: bool) -> jax.Array:
        return BatchNorm(scale_init=nn.initializers.zeros, name=name, **self.norm)(y, train=train)


class _DEE(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, before: jax.Array, *, train: bool) -> tuple[jax.Array, list[jax.Array]]:
        return x, [self._branch(x, f"branch{i}") for i in range(DEE.branches)]

    def _branch(self, x: jax.Array, name: str) -> jax.Array:
        C = x.shape[-1]
        images = x.reshape(-1, *x.shape[2:])
        mean: Any = 0
        for d in (1, 2, 3):
            kernel = self.param(f"{name}_conv{d}", he, (3, 3, C, C // 4), jnp.float32).astype(x.dtype)
            mean += jax.lax.conv_general_dilated(
                images, kernel, (1, 1), [(d, d)] * 2, rhs_dilation=(d, d), dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
        wide = nn.Dense(C, kernel_init=he, dtype=x.dtype, name=f"{name}_W")(nn.relu(mean / 3))
        return wide.reshape(x.shape)


def _dense(features: int, name: str) -> nn.Dense:
    return nn.Dense(features, kernel_init=small, name=name)


def _tokens(x: jax.Array) -> jax.Array:
    """(N, M, H W, c) of (N, M, H, W, c)."""
    return x.reshape(*x.shape[:2], -1, x.shape[-1])


def _whole(y: jax.Array) -> jax.Array:
    """(N, M, H W, c) of (N, M, H W / 2, 2 c): the inverse of `_MFA._halves`."""
    N, M, T, c = y.shape
    return y.reshape(N, M, T, c // 2, 2).transpose(0, 1, 4, 2, 3).reshape(N, M, 2 * T, c // 2)
