"""Layers of networks that turn one image into another."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

small = nn.initializers.normal(0.02)


class TransposedConv(nn.Module):
    """out[stride i - padding + a] += x[i] kernel[a] on both axes, without an offset: what PyTorch computes.

    With the 4, 2 and 1 of these networks the image becomes twice as high and wide.

    Attributes:
      features: output channels.
      kernel: side of the square kernel.
      stride: of both axes.
      padding: pixels that are cut off on every side.
      kernel_init: of the kernel, (kernel, kernel, C_in, C_out).
    """

    features: int
    kernel: int = 4
    stride: int = 2
    padding: int = 1
    kernel_init: Any = small

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., H, W, C_in) to (..., (H - 1) stride + kernel - 2 padding, likewise, features)."""
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        images, around = x.reshape(-1, *x.shape[-3:]), self.kernel - 1 - self.padding
        numbers = ("NHWC", "HWIO", "NHWC")
        if (self.kernel, self.stride, self.padding) == (4, 2, 1) and jax.default_backend() == "cpu":
            # The kernel's gradient through a dilated image takes XLA's CPU convolution ten times as long.
            made = jax.lax.conv_general_dilated(
                images, _by_parity(kernel), (1, 1), [(1, 1)] * 2, dimension_numbers=numbers
            )
            N, H, W, _ = made.shape
            made = made.reshape(N, H, W, 2, 2, self.features).transpose(0, 1, 3, 2, 4, 5)
            made = made.reshape(N, 2 * H, 2 * W, self.features)
        else:
            made = jax.lax.conv_general_dilated(
                images,
                kernel[::-1, ::-1],  # a convolution gathers what this one scatters
                (1, 1),
                [(around, around)] * 2,
                lhs_dilation=(self.stride, self.stride),
                dimension_numbers=numbers,
            )
        return made.reshape(*x.shape[:-3], *made.shape[1:])


def _by_parity(kernel: jax.Array) -> jax.Array:
    """Of a 4x4 kernel at stride 2 the (3, 3, C_in, 2 2 C_out) that give the even and odd rows and columns together."""
    # Row 2m is x[m - 1] kernel[3] + x[m] kernel[1], row 2m + 1 is x[m] kernel[2] + x[m + 1] kernel[0].
    taps = jnp.array([[3, 1, 4], [4, 2, 0]])  # 4: none
    padded = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))
    chosen = padded[taps[:, :, None, None], taps[None, None]]  # parity, tap, parity, tap, C_in, C_out
    return chosen.transpose(1, 3, 4, 0, 2, 5).reshape(3, 3, kernel.shape[2], -1)


class RunningInstanceNorm(nn.Module):
    """Every channel of every image with mean 0 and (biased) deviation 1, times and plus a number a channel.

    In training by the image's own statistics, whose means over the batch (of unbiased variances) move running ones; at
    the test by those, so that an image's tones are kept: PyTorch's `InstanceNorm2d(affine=True,
    track_running_stats=True)`.

    Attributes:
      axis_name: of the devices under pmap.
      momentum: of the running statistics, in Flax's convention (PyTorch's 0.1).
      epsilon: added to the variance.
    """

    axis_name: str | None = None
    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """(N, H, W, C) to the same shape; updates `batch_stats` where `train`."""
        C, count = x.shape[-1], x.shape[1] * x.shape[2]
        scale = self.param("scale", nn.initializers.ones, (C,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (C,), jnp.float32)
        running = [
            self.variable("batch_stats", name, make, (C,), jnp.float32)
            for name, make in (("mean", jnp.zeros), ("var", jnp.ones))
        ]
        if train:
            mean = x.mean((1, 2), keepdims=True)
            variance = jnp.square(x - mean).mean((1, 2), keepdims=True)
            if not self.is_initializing():
                unbiased = variance * (count / max(count - 1, 1))
                for held, moments in zip(running, (mean, unbiased), strict=True):
                    new = jax.lax.stop_gradient(moments).mean((0, 1, 2))
                    new = new if self.axis_name is None else jax.lax.pmean(new, self.axis_name)
                    held.value = self.momentum * held.value + (1 - self.momentum) * new
        else:
            mean, variance = (held.value for held in running)
        return (x - mean) * jax.lax.rsqrt(variance + self.epsilon) * scale + bias
