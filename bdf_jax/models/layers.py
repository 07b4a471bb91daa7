"""The layers that the networks are made of.

Activations carry a modality axis, (N, M, H, W, C): the same code serves the four modalities of a training batch
and the single one of an evaluation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

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
            return _product(x[..., :: self.stride, :: self.stride, :], kernel[0, 0])
        images = x.reshape(-1, *x.shape[-3:])
        padding = self.kernel // 2
        if _folds(self.kernel, self.stride, images.shape[-1]):
            images, kernel = _folded(images, kernel)
            low = (padding + 1) // 2
            images = _convolution(images, kernel, 1, (low, kernel.shape[0] - 1 - low))
        else:
            images = _convolution(images, kernel, self.stride, (padding, padding))
        return images.reshape(*x.shape[:-3], *images.shape[-3:])


def _convolution(images_NHWC: jax.Array, kernel: jax.Array, stride: int, padding: tuple[int, int]) -> jax.Array:
    return jax.lax.conv_general_dilated(
        images_NHWC, kernel, (stride, stride), [padding, padding], dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@jax.custom_vjp
def _product(x: jax.Array, weight: jax.Array) -> jax.Array:
    """A 1x1 convolution as a matrix product, which it is: XLA's CPU convolution takes many times as long."""
    return x @ weight


def _product_kept(x: jax.Array, weight: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return x @ weight, (x, weight)


def _product_gradients(kept: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, weight = kept
    of_x = gradient @ weight.T
    if jax.default_backend() == "cpu":
        # Contracting several axes at once makes XLA's CPU compiler compute and store `gradient` a second time,
        # transposed: a quarter of a training step. Elsewhere the reshape could cost a copy.
        x, gradient = (t.reshape(-1, t.shape[-1]) for t in (x, gradient))
    axes = tuple(range(x.ndim - 1))
    rows = ((axes, axes), ((), ()))
    # The left side is read across its rows: the narrower one.
    if x.shape[-1] <= gradient.shape[-1]:
        return of_x, jax.lax.dot_general(x, gradient, rows)
    return of_x, jax.lax.dot_general(gradient, x, rows).T


_product.defvjp(_product_kept, _product_gradients)


def _folds(kernel: int, stride: int, channels: int) -> bool:
    """Whether a convolution is computed on 2x2 pixels folded into channels.

    Three channels leave a CPU's vector units idle; the gradient to the image, which the generators need, runs five
    times as fast on twelve. It is a third more arithmetic, so it is left alone where that has not been measured.
    """
    return jax.default_backend() == "cpu" and stride == 2 and kernel % 4 == 3 and channels <= 4


def _folded(images_NHWC: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Images and kernel of a convolution with stride 2 for the same one with stride 1 and half the taps a side."""

    def fold(x: jax.Array) -> jax.Array:
        A, H, W, C = x.shape
        return x.reshape(A, H // 2, 2, W // 2, 2, C).transpose(0, 1, 3, 2, 4, 5).reshape(A, H // 2, W // 2, 4 * C)

    _, H, W, _ = images_NHWC.shape
    even = jnp.pad(images_NHWC, ((0, 0), (0, H % 2), (0, W % 2), (0, 0)))
    # A row and a column of zeros before the kernel: then its first tap meets the first pixel of a fold.
    taps_OHWI = jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0))).transpose(3, 0, 1, 2)
    return fold(even), fold(taps_OHWI).transpose(1, 2, 3, 0)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the channels, and but the modalities where those are kept apart.

    Statistics are those of the global batch: under jit by construction, under pmap through `axis_name`.

    Attributes:
      modalities: None for one set of parameters and statistics; otherwise the view of each position of axis 1,
        and the layer keeps one set for each of all views.
      tables: how many views there are.
      axis_name: of the devices under pmap.
      offset: learned, none, or "frozen": there, and never trained.
      scale_init: initial scale.
      momentum: of the running statistics, in Flax's convention (PyTorch's 0.1).
      epsilon: added to the variance.
    """

    modalities: tuple[int, ...] | None = None
    tables: int = 4
    axis_name: str | None = None
    offset: Literal["learned", "none", "frozen"] = "learned"
    scale_init: Callable[..., jax.Array] = nn.initializers.ones
    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """(N, M, ..., C) to the same shape and type; updates `batch_stats` where `train`."""
        C = x.shape[-1]
        shape = (C,) if self.modalities is None else (self.tables, C)
        scale = self.param("scale", self.scale_init, shape, jnp.float32)
        none = self.offset == "none"
        bias = jnp.zeros(shape) if none else self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        bias = jax.lax.stop_gradient(bias) if self.offset == "frozen" else bias
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


class NonLocal(nn.Module):
    """x + BN(W y) with y_i = theta_i mean_j(phi_j g_j): every pixel hears of all others of its image, in one channel.

    The normalisation's scale and offset start at 0, so the block starts as the identity.

    Source: Wang et al., "Non-local Neural Networks", CVPR 2018, the dot-product form; one channel as in Ye et al.,
    "Deep Learning for Person Re-identification: A Survey and Outlook" (AGW), TPAMI 2021.

    Attributes:
      axis_name: of the devices under pmap.
    """

    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """(N, M, H, W, C) to the same shape and type."""
        small = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")
        g, theta, phi = (
            nn.Dense(1, kernel_init=small, name=name)(x.astype(jnp.float32)) for name in ("g", "theta", "phi")
        )
        y = theta * (phi * g).mean((2, 3), keepdims=True)
        y = nn.Dense(x.shape[-1], kernel_init=small, name="W")(y)
        y = BatchNorm(axis_name=self.axis_name, scale_init=nn.initializers.zeros, name="bn")(y, train=train)
        return (x + y.astype(x.dtype)).astype(x.dtype)


def _moments(x: jax.Array, axes: tuple[int, ...], axis_name: str | None) -> tuple[jax.Array, jax.Array]:
    x = x.astype(jnp.float32)
    mean, square = x.mean(axes), jnp.square(x).mean(axes)
    if axis_name is not None:
        mean, square = jax.lax.pmean((mean, square), axis_name)
    return mean, jnp.maximum(square - jnp.square(mean), 0.0)


def max_pool(x: jax.Array) -> jax.Array:
    """3x3 maximum with stride 2, padded by 1, of (..., H, W, C): along the height, then along the width.

    Views and element-wise maxima instead of a pooling window, whose gradient takes several times as long on a CPU.
    """
    return _max_of_three(_max_of_three(x, x.ndim - 3), x.ndim - 2)


def _max_of_three(x: jax.Array, axis: int) -> jax.Array:
    """Maximum of each even position of an axis and its two neighbours."""

    def pad(x: jax.Array, before: int, after: int) -> jax.Array:
        widths = [(before, after) if a == axis else (0, 0) for a in range(x.ndim)]
        return jnp.pad(x, widths, constant_values=-jnp.inf)

    pairs = pad(x, 0, x.shape[axis] % 2).reshape(*x.shape[:axis], -1, 2, *x.shape[axis + 1 :])
    even, after = (jax.lax.index_in_dim(pairs, i, axis + 1, keepdims=False) for i in (0, 1))
    before = pad(jax.lax.slice_in_dim(after, 0, after.shape[axis] - 1, axis=axis), 1, 0)
    return jnp.maximum(jnp.maximum(before, even), after)
