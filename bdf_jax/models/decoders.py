"""Makers of views out of the content of one view and the style of another."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bdf_jax.errors import BdfError
from bdf_jax.models.layers_adain import MLP, Decoder
from bdf_jax.pixels import unsigned
from bdf_jax.views import Maker


@dataclasses.dataclass(frozen=True)
class Coded(Maker, abstract=True):
    """A view made of codes.

    Attributes:
      out_of: words "CODE VIEW": first the content, a map; then what styles it.
    """

    out_of: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.out_of) < 2 or not all(len(words.split()) == 2 for words in self.out_of):
            raise BdfError(
                f"{type(self).__name__}.out_of: expected a content and a style such as ('content I', 'style V'), "
                f"found {self.out_of}"
            )

    def takes(self, of: str) -> tuple[tuple[str, str], ...]:
        """See `Maker.takes`; the parent's pixels tell the size."""
        return (("", of), *(tuple(words.split()) for words in self.out_of))  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class Styled(Coded):
    """A content with the style that an MLP makes of one vector; between -1 and 1 by a tanh.

    An image that is smaller than the parent is enlarged, bilinearly.

    Source: Wang et al., "Cross-Modality Paired-Images Generation for RGB-Infrared Person Re-Identification" (JSIA),
    AAAI 2020, by its code.

    Attributes:
      blocks: residual blocks, each with two AdaIN layers.
      widths: channels behind each enlargement; as many enlargements.
      hidden: units of the MLP's two inner layers.
      kernel: side of the last convolution.
    """

    blocks: int = 2
    widths: tuple[int, ...] = (128,)
    hidden: int = 256
    kernel: int = 7

    def module(self, name: str, network: nn.Module) -> nn.Module:
        """See `Maker.module`."""
        return _Styled(self.blocks, self.widths, self.hidden, self.kernel, name=name)


@dataclasses.dataclass(frozen=True)
class Grouped(Coded):
    """A content with as many groups of numbers as there are residual blocks: one group styles one block.

    All words but the first are joined within each group. The image has any values, those of normalised pixels.

    Source: Choi et al., CVPR 2020 (Hi-CMD), by its code.

    Attributes:
      widths: channels behind each enlargement; as many enlargements.
      smooth: channels of the 3x3 convolutions behind them.
    """

    widths: tuple[int, ...] = (128, 64)
    smooth: tuple[int, ...] = (64, 64)

    def module(self, name: str, network: nn.Module) -> nn.Module:
        """See `Maker.module`."""
        return _Grouped(self.widths, self.smooth, name=name)


class _Grouped(nn.Module):
    widths: tuple[int, ...]
    smooth: tuple[int, ...]

    @nn.compact
    def __call__(self, parent: jax.Array, content: jax.Array, *style: jax.Array, train: bool) -> tuple[Any, None]:
        content = content.astype(jnp.float32)
        style_NGD, C = jnp.concatenate(style, -1), content.shape[-1]
        G, D = style_NGD.shape[1:]
        numbers = {
            kind: _GroupedMLP((D, D, 2 * C), name=kind)(style_NGD).reshape(-1, 2 * G, C) for kind in ("scale", "offset")
        }
        decoder = Decoder(G, self.widths, self.smooth, kernel=1, slope=0.3, name="decoder")
        return sized(decoder(content, numbers["scale"], numbers["offset"]), parent), None


class _GroupedMLP(nn.Module):
    """An MLP for each group, (N, G, D) to (N, G, widths[-1]), as one product of matrices a layer."""

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x_NGD: jax.Array) -> jax.Array:
        init = nn.initializers.variance_scaling(2.0, "fan_in", "normal", batch_axis=0)
        for i, width in enumerate(self.widths):
            x_NGD = x_NGD if i == 0 else nn.leaky_relu(x_NGD, 0.3)
            kernel_GDE = self.param(f"kernel{i}", init, (x_NGD.shape[1], x_NGD.shape[2], width), jnp.float32)
            bias_GE = self.param(f"bias{i}", nn.initializers.zeros, (x_NGD.shape[1], width), jnp.float32)
            x_NGD = jnp.einsum("ngd,gde->nge", x_NGD, kernel_GDE) + bias_GE
        return x_NGD


class _Styled(nn.Module):
    blocks: int
    widths: tuple[int, ...]
    hidden: int
    kernel: int

    @nn.compact
    def __call__(self, parent: jax.Array, content: jax.Array, style: jax.Array, *, train: bool) -> tuple[Any, None]:
        content = content.astype(jnp.float32)
        layers, C = 2 * self.blocks, content.shape[-1]
        numbers = MLP((self.hidden, self.hidden, layers * 2 * C), name="mlp")(style)
        # For each layer its offsets, then its scales.
        numbers = numbers.reshape(-1, layers, 2, C)
        image = Decoder(self.blocks, self.widths, kernel=self.kernel, name="decoder")(
            content, numbers[:, :, 1], numbers[:, :, 0]
        )
        return unsigned(sized(jnp.tanh(image), parent)), None


def sized(images: jax.Array, like: jax.Array) -> jax.Array:
    """As high and wide as another, bilinearly."""
    return images if images.shape == like.shape else jax.image.resize(images, like.shape, "bilinear")
