"""Layers of networks that make images of a content and a style: AdaIN, normalisation of a whole image, decoders.

Images are (..., H, W, C). Convolutions have an offset and are padded by reflection, unless it is said otherwise.

Sources: Huang and Belongie, "Arbitrary Style Transfer in Real-time with Adaptive Instance Normalization", ICCV 2017;
Huang et al., "Multimodal Unsupervised Image-to-Image Translation" (MUNIT), ECCV 2018, for encoders and decoders.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

he = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class PaddedConv(nn.Module):
    """A convolution, as a rule with an offset, padded on every side.

    Attributes:
      features: output channels.
      kernel: side of the square kernel.
      stride: of both axes.
      padding: pixels on every side; None keeps the size at stride 1.
      dilation: of the kernel's taps.
      mode: what the padding holds.
      kernel_init: of the kernel.
      bias: whether it has an offset.
    """

    features: int
    kernel: int = 3
    stride: int = 1
    padding: int | None = None
    dilation: int = 1
    mode: Literal["reflect", "zeros"] = "reflect"
    kernel_init: Any = he
    bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., H, W, C) to (..., H', W', features)."""
        kernel = self.param(
            "kernel", self.kernel_init, (self.kernel, self.kernel, x.shape[-1], self.features), jnp.float32
        )
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32) if self.bias else 0.0
        if self.kernel == 1 and self.stride == 1:
            return x @ kernel[0, 0] + bias
        reach = self.dilation * (self.kernel - 1)
        pad = reach // 2 if self.padding is None else self.padding
        images = padded(x.reshape(-1, *x.shape[-3:]), pad, self.mode)
        # What is smaller than the kernel stays one pixel: a critic's smallest scale may be.
        short = [max(0, reach + 1 - size) for size in images.shape[1:3]]
        images = jax.lax.conv_general_dilated(
            images,
            kernel,
            (self.stride, self.stride),
            [(0, short[0]), (0, short[1])],
            rhs_dilation=(self.dilation, self.dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return images.reshape(*x.shape[:-3], *images.shape[1:]) + bias


class ImageNorm(nn.Module):
    """An image minus its mean over the whole of it, over (its deviation + 1e-5), times and plus a number a channel.

    The deviation is the unbiased one. Scales start between 0 and 1 at random: MUNIT's layer normalisation.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., H, W, C) to the same shape."""
        scale = self.param("scale", nn.initializers.uniform(1.0), (x.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        axes = (-3, -2, -1)
        centred = x - x.mean(axes, keepdims=True)
        count = x.shape[-3] * x.shape[-2] * x.shape[-1]
        variance = jnp.square(centred).sum(axes, keepdims=True) / (count - 1)
        # The root of 0 has no gradient.
        return centred / (jnp.sqrt(jnp.maximum(variance, 1e-12)) + 1e-5) * scale + bias


class MLP(nn.Module):
    """Fully connected layers with an activation between them."""

    widths: tuple[int, ...]
    slope: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., D) to (..., widths[-1])."""
        for i, width in enumerate(self.widths):
            x = nn.Dense(width, kernel_init=he, name=f"layer{i}")(x if i == 0 else nn.leaky_relu(x, self.slope))
        return x


def padded(images_NHWC: jax.Array, pad: int, mode: Literal["reflect", "zeros"]) -> jax.Array:
    """With `pad` more pixels on every side."""
    widths = ((0, 0), (pad, pad), (pad, pad), (0, 0))
    if not pad:
        return images_NHWC
    return jnp.pad(images_NHWC, widths) if mode == "zeros" else jnp.pad(images_NHWC, widths, mode="reflect")


def instance_norm(x: jax.Array, epsilon: float = 1e-5) -> jax.Array:
    """Every channel of every image with mean 0 and (biased) deviation 1; nothing is learned."""
    centred = x - x.mean((-3, -2), keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean((-3, -2), keepdims=True) + epsilon)


def adain(x: jax.Array, scale: jax.Array, offset: jax.Array) -> jax.Array:
    """Instance normalisation with the deviation and the mean of a style, (..., C) each."""
    return instance_norm(x) * scale[..., None, None, :] + offset[..., None, None, :]


def enlarged(x: jax.Array) -> jax.Array:
    """Twice as high and wide: every pixel becomes four."""
    return x.repeat(2, -3).repeat(2, -2)


def halved(x: jax.Array) -> jax.Array:
    """Half as high and wide, rounded up: means over 3x3 pixels at stride 2, of those that are in the image."""
    images = x.reshape(-1, *x.shape[-3:])

    def sums(t: jax.Array) -> jax.Array:
        return jax.lax.reduce_window(t, 0.0, jax.lax.add, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0)))

    found = sums(images) / sums(jnp.ones((1, *images.shape[1:3], 1)))
    return found.reshape(*x.shape[:-3], *found.shape[1:])


def residual(
    x: jax.Array,
    name: str,
    activate: Callable[[jax.Array], jax.Array],
    init: Any = he,
    norms: Sequence[Callable[[jax.Array], jax.Array]] = (),
) -> jax.Array:
    """x + norm(conv(activate(norm(conv(x))))): 3x3 convolutions of the same width, and norms where they are given."""
    first, second = norms or (lambda y: y,) * 2
    y = activate(first(PaddedConv(x.shape[-1], kernel_init=init, name=f"{name}_conv1")(x)))
    return x + second(PaddedConv(x.shape[-1], kernel_init=init, name=f"{name}_conv2")(y))


class Decoder(nn.Module):
    """An image from a content and the scales and offsets of its style.

    Residual blocks with AdaIN; then, for each entry of `widths`, twice the size, 5x5, `ImageNorm`; then 3x3
    convolutions of `smooth`; then one of `kernel` to three colours.

    Sources: the decoders of JSIA (one enlargement, 7x7, tanh) and of Hi-CMD (two, 3x3 twice, 1x1, any value).
    """

    blocks: int = 2
    widths: tuple[int, ...] = (128,)
    smooth: tuple[int, ...] = ()
    kernel: int = 7
    slope: float = 0.0

    @nn.compact
    def __call__(self, content: jax.Array, scales: jax.Array, offsets: jax.Array) -> jax.Array:
        """(..., H, W, C), (..., 2 blocks, C) and the same to (..., H', W', 3)."""

        def activate(x: jax.Array) -> jax.Array:
            return nn.leaky_relu(x, self.slope)

        x = content
        for i in range(self.blocks):
            norms = [
                functools.partial(adain, scale=scales[..., j, :], offset=offsets[..., j, :]) for j in (2 * i, 2 * i + 1)
            ]
            x = residual(x, f"block{i}", activate, norms=norms)
        for i, width in enumerate(self.widths):
            x = PaddedConv(width, 5, name=f"up{i}_conv")(enlarged(x))
            x = activate(ImageNorm(name=f"up{i}_norm")(x))
        for i, width in enumerate(self.smooth):
            x = activate(PaddedConv(width, 3, name=f"smooth{i}")(x))
        return PaddedConv(3, self.kernel, name="colours")(x)


class StyleEncoder(nn.Module):
    """The style of an image: convolutions at stride 2, the mean over the map, a matrix.

    Source: Wang et al., AAAI 2020 (JSIA), whose code has a classifier behind it that nothing uses: it is left out.
    """

    widths: tuple[int, ...] = (32, 64, 128, 128, 128)
    features: int = 128

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """(..., H, W, 3) to (..., features)."""
        x = nn.relu(PaddedConv(self.widths[0], 7, name="conv0")(images))
        for i, width in enumerate(self.widths[1:], 1):
            x = nn.relu(PaddedConv(width, 4, 2, 1, name=f"conv{i}")(x))
        return nn.Dense(self.features, kernel_init=he, name="style")(x.mean((-3, -2)))
