"""DNS's block: attention along rows and columns of a map that is shifted by where it is bright.

Jiang et al., "Domain Shifting: A Generalized Solution for Heterogeneous Cross-Modality Person Re-Identification",
ECCV 2024.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bdf_jax.models.blocks import Block
from bdf_jax.models.layers import BatchNorm, Conv


@dataclasses.dataclass(frozen=True)
class HSS(Block):
    """Heterogeneous space shifting.

        u = x + softmax over rows (max over a row of x) softmax over columns (max over a column of x)
        rows and columns of u, each the mean of u over it, pass one matrix, batch normalisation and h-swish together,
        then each a matrix and a sigmoid; the block is x times the two.

    Attributes:
      reduction: the matrix between has max(8, C / reduction) channels.
    """

    reduction: int = 32

    def module(self, name: str, **settings: Any) -> nn.Module:
        """See `Block.module`."""
        return _HSS(self.reduction, settings, name=name)


class _HSS(nn.Module):
    reduction: int
    norm: Mapping[str, Any]

    @nn.compact
    def __call__(self, x: jax.Array, before: jax.Array, *, train: bool) -> jax.Array:
        high = x.astype(jnp.float32)
        H, C = x.shape[2], x.shape[-1]
        rows = jax.nn.softmax(high.max(3), axis=2)  # (N, M, H, C)
        columns = jax.nn.softmax(high.max(2), axis=2)  # (N, M, W, C)
        shifted = high + rows[:, :, :, None] * columns[:, :, None]
        lines = jnp.concatenate([shifted.mean(3), shifted.mean(2)], axis=2)[:, :, :, None]  # (N, M, H + W, 1, C)
        narrow = Conv(max(8, C // self.reduction), 1, name="conv")(lines)
        narrow = nn.hard_swish(BatchNorm(name="bn", **self.norm)(narrow, train=train))
        of_rows = jax.nn.sigmoid(Conv(C, 1, name="conv_rows")(narrow[:, :, :H]))
        of_columns = jax.nn.sigmoid(Conv(C, 1, name="conv_columns")(narrow[:, :, H:])).swapaxes(2, 3)
        return (high * of_rows * of_columns).astype(x.dtype)
