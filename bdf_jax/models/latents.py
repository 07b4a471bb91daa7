"""Translation through a latent that both bases share: encoders as codes, decoders as makers, two spectra in one view.

Sources: Wang et al., "Learning to Reduce Dual-Level Discrepancy for Infrared-Visible Person Re-Identification" (D2RL),
CVPR 2019; Liu et al., "Unsupervised Image-to-Image Translation Networks" (UNIT), NeurIPS 2017, for the networks.
"""

from __future__ import annotations

import dataclasses
import functools
import zlib
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bdf_jax.errors import check_names
from bdf_jax.models.codes import NOISE, Code
from bdf_jax.models.decoders import sized
from bdf_jax.models.layers_adain import PaddedConv, instance_norm, residual
from bdf_jax.models.layers_translation import TransposedConv
from bdf_jax.pixels import LUMA, MEAN, STD, signed, unsigned
from bdf_jax.views import Maker

if TYPE_CHECKING:
    from bdf_jax.models.making import Making

NORMS = (instance_norm, instance_norm)


@dataclasses.dataclass(frozen=True)
class Latent(Code):
    """The mean (N, H / 4, W / 4, 4 width) of the latent of an image, by an encoder of its own.

    7x7, two halvings (4x4 at stride 2), residual blocks, and one more that all such codes share; padded by reflection,
    normalised image by image.

    Attributes:
      width: channels of the first layer; then twice, then four times as many.
      blocks: residual blocks of its own.
      kernel: side of the kernel at the image.
    """

    width: int = 64
    blocks: int = 3
    kernel: int = 7

    def __call__(self, made: Making, name: str, view: str) -> jax.Array:
        """See `Code`."""
        own: Any = functools.partial(_encoder, self.width, self.blocks, self.kernel)
        encoder, together = made.network.shared(f"code_{name}", own), made.network.shared("code_together", _block)
        return (nn.remat(_encoded) if made.again else _encoded)(encoder, together, signed(made.pixels(view)))


@dataclasses.dataclass(frozen=True)
class Noisy(Code):
    """Another code, in training with a draw of a standard normal distribution added to every number.

    Attributes:
      code: the other one.
    """

    code: str
    noisy = True

    def __call__(self, made: Making, name: str, view: str) -> jax.Array:
        """See `Code`."""
        mean = made.code(self.code, view)
        if not made.train or NOISE not in made.made:
            return mean
        number = zlib.crc32(f"{name} {view}".encode())

        def draw(key_data: jax.Array) -> jax.Array:
            key = jax.random.fold_in(jax.random.wrap_key_data(key_data), number)
            return jax.random.normal(key, mean.shape[1:])

        return mean + jax.vmap(draw)(made.made[NOISE])

    def check(self, path: str, before: tuple[str, ...]) -> None:
        """See `Code.check`."""
        check_names(f"{path}.code", [self.code], before)


@dataclasses.dataclass(frozen=True)
class Decoded(Maker):
    """An image of a latent of the parent: the mirror of `Latent`, with the first block shared by all such makers.

    Attributes:
      code: the latent.
      width: channels of the last layer but one.
      blocks: residual blocks of its own.
      kernel: side of the kernel at the image.
    """

    code: str
    width: int = 64
    blocks: int = 3
    kernel: int = 7
    kept = True

    def takes(self, of: str) -> tuple[tuple[str, str], ...]:
        """See `Maker.takes`; the parent's pixels tell the size."""
        return (("", of), (self.code, of))

    def module(self, name: str, network: nn.Module) -> nn.Module:
        """See `Maker.module`."""
        together = network.shared("generator_together", _block)  # type: ignore[attr-defined]
        return _Decoded(together, self.width, self.blocks, self.kernel, name=name)


@dataclasses.dataclass(frozen=True)
class Spectra(Maker):
    """Four channels: the colours of one view and the luma of another, each normalised.

    Attributes:
      colours: a view.
      infrared: another.
    """

    colours: str
    infrared: str

    def takes(self, of: str) -> tuple[tuple[str, str], ...]:
        """See `Maker.takes`."""
        return (("", self.colours), ("", self.infrared))

    def module(self, name: str, network: nn.Module) -> nn.Module:
        """See `Maker.module`."""
        return _Spectra(name=name)


class _Encoder(nn.Module):
    width: int
    blocks: int
    kernel: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        w = self.width
        for i, (features, kernel, stride) in enumerate(((w, self.kernel, 1), (2 * w, 4, 2), (4 * w, 4, 2))):
            x = nn.relu(instance_norm(PaddedConv(features, kernel, stride, (kernel - 1) // 2, name=f"down{i}")(x)))
        for i in range(self.blocks):
            x = residual(x, f"block{i}", nn.relu, norms=NORMS)
        return x


class _Block(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return residual(x, "block", nn.relu, norms=NORMS)


class _Decoded(nn.Module):
    together: nn.Module
    width: int
    blocks: int
    kernel: int

    @nn.compact
    def __call__(self, parent: jax.Array, latent: jax.Array, *, train: bool) -> tuple[jax.Array, None]:
        x = self.together(latent)
        for i in range(self.blocks):
            x = residual(x, f"block{i}", nn.relu, norms=NORMS)
        for i, features in enumerate((2 * self.width, self.width)):
            x = nn.relu(instance_norm(TransposedConv(features, name=f"up{i}")(x)))
        return unsigned(sized(jnp.tanh(PaddedConv(3, self.kernel, name="colours")(x)), parent)), None


class _Spectra(nn.Module):
    @nn.compact
    def __call__(self, colours: jax.Array, infrared: jax.Array, *, train: bool) -> tuple[jax.Array, None]:
        luma = ((infrared * STD + MEAN) @ LUMA - MEAN.mean()) / STD.mean()
        return jnp.concatenate([colours, luma[..., None]], -1), None


def _encoded(encoder: Any, together: Any, images: jax.Array) -> jax.Array:
    latent: jax.Array = together(encoder(images))
    return latent


def _encoder(width: int, blocks: int, kernel: int, name: str) -> _Encoder:
    return _Encoder(width, blocks, kernel, name=name)


def _block(name: str) -> _Block:
    return _Block(name=name)
