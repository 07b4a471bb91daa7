"""The layers that the networks are made of.

Activations carry a modality axis, (N, M, H, W, C): the same code serves the four modalities of a training batch
and the single one of an evaluation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

# He et al. 2015 with fan-out, as torchvision's ResNets are initialised.
kaiming = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Conv(nn.Module):
    """A convolution without bias, padded as PyTorch pads (kernel // 2 on every side; "SAME" differs at stride 2).

    Attributes:
      features: output channels.
      kernel: side of the square kernel.
      stride: of both axes.
      dtype: of the computation; the kernel itself is float32 (kernel, kernel, C_in, C_out).
    """

    features: int
    kernel: int = 3
    stride: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., H, W, C_in) to (..., H', W', features)."""
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        kernel = self.param("kernel", kaiming, shape, jnp.float32).astype(self.dtype)
        x = x.astype(self.dtype)
        if self.kernel == 1:
            # As a matrix product: the gradient of a 1x1 kernel is many times slower as a convolution on a CPU.
            return x[..., :: self.stride, :: self.stride, :] @ kernel[0, 0]
        images = jax.lax.conv_general_dilated(
            x.reshape(-1, *x.shape[-3:]),
            kernel,
            window_strides=(self.stride, self.stride),
            padding=[(self.kernel // 2, self.kernel // 2)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return images.reshape(*x.shape[:-3], *images.shape[-3:])


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the channels, and but the modalities where those are kept apart.

    Statistics are those of the global batch: under jit by construction, under pmap through `axis_name`.

    Attributes:
      modalities: None for one set of parameters and statistics; otherwise the modality of each position of axis 1,
        and the layer keeps one set for each of the four.
      axis_name: of the devices under pmap.
      use_bias: whether there is a learned offset (the BNNeck has none).
      scale_init: initial scale.
      momentum: of the running statistics, in Flax's convention (PyTorch's 0.1).
      epsilon: added to the variance.
    """

    modalities: tuple[int, ...] | None = None
    axis_name: str | None = None
    use_bias: bool = True
    scale_init: Callable[..., jax.Array] = nn.initializers.ones
    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """(N, M, ..., C) to the same shape and type; updates `batch_stats` where `train`."""
        C = x.shape[-1]
        shape = (C,) if self.modalities is None else (4, C)
        scale = self.param("scale", self.scale_init, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32) if self.use_bias else jnp.zeros(shape)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        rows = None if self.modalities is None else jnp.asarray(self.modalities)
        pick = (lambda table: table) if rows is None else (lambda table: table[rows])

        if train:
            axes = tuple(axis for axis in range(x.ndim - 1) if rows is None or axis != 1)
            batch_mean, batch_var = _moments(x, axes, None if self.is_initializing() else self.axis_name)
            if not self.is_initializing():
                for running, batch in ((mean, batch_mean), (var, batch_var)):
                    new = self.momentum * pick(running.value) + (1 - self.momentum) * batch
                    running.value = new if rows is None else running.value.at[rows].set(new)
        else:
            batch_mean, batch_var = pick(mean.value), pick(var.value)

        # Folded into one multiplication and one addition an element.
        factor = pick(scale) * jax.lax.rsqrt(batch_var + self.epsilon)
        offset = pick(bias) - batch_mean * factor
        if rows is not None:
            middle = (1,) * (x.ndim - 3)
            factor, offset = (t.reshape(len(self.modalities or ()), *middle, C) for t in (factor, offset))
        return (x.astype(jnp.float32) * factor + offset).astype(x.dtype)


def _moments(x: jax.Array, axes: tuple[int, ...], axis_name: str | None) -> tuple[jax.Array, jax.Array]:
    x = x.astype(jnp.float32)
    mean, square = x.mean(axes), jnp.square(x).mean(axes)
    if axis_name is not None:
        mean, square = jax.lax.pmean((mean, square), axis_name)
    return mean, jnp.maximum(square - jnp.square(mean), 0.0)


def max_pool(x: jax.Array) -> jax.Array:
    """3x3 maximum with stride 2, padded by 1, of (..., H, W, C).

    A maximum over nine strided views: its gradient is some four times faster on a CPU than that of a pooling window.
    """
    H, W = x.shape[-3:-1]
    padding = [(0, 0)] * (x.ndim - 3) + [(1, 1), (1, 1), (0, 0)]
    padded = jnp.pad(x, padding, constant_values=-jnp.inf)
    views = [
        padded[..., i : i + 2 * ((H - 1) // 2) + 1 : 2, j : j + 2 * ((W - 1) // 2) + 1 : 2, :]
        for i in range(3)
        for j in range(3)
    ]
    return functools.reduce(jnp.maximum, views)
