"""Codes as values: what a part of the network says of a view. Views are made of codes, and losses compare them."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax

from bdf_jax.models.layers_adain import StyleEncoder, halved
from bdf_jax.models.metrics import WORDS
from bdf_jax.models.resnet import STAGES
from bdf_jax.models.trunk import ResNet, Trunk
from bdf_jax.parts import Family
from bdf_jax.pixels import signed
from bdf_jax.views import base_of

if TYPE_CHECKING:
    from bdf_jax.models.making import Making


# Under this name a step hands over the data of a random key for every pair, where a code is noisy: no view's name.
NOISE = "~noise"


@dataclasses.dataclass(frozen=True)
class Code(Family):
    """What is said of a view; its parameters lie under `code_NAME`, or `code_NAME_visible` and `code_NAME_infrared`.

    Attributes:
      noisy: whether it is drawn at random in training.
    """

    noisy = False

    def __call__(self, made: Making, name: str, view: str) -> jax.Array:
        """(N, ...) of a view, whose pixels are `made.pixels(view)`; `name` is the code's in `network.codes`."""
        raise NotImplementedError

    def check(self, path: str, before: tuple[str, ...]) -> None:
        """Raises BdfError on an impossible value; `before` are the codes that stand before it."""


@dataclasses.dataclass(frozen=True)
class Begun(Code):
    """The map (N, H, W, C) after the first stages of the trunk.

    Views that enter the trunk and are not made of codes go through these stages once, together. Every other view goes
    by itself, with batch statistics of its own, which do not move the running ones.

    Attributes:
      stages: how many: 1 the stem, 2 the stem and layer1, ...
    """

    stages: int = 2

    def __call__(self, made: Making, name: str, view: str) -> jax.Array:
        """See `Code`."""
        return made.begun(view, self.stages)


@dataclasses.dataclass(frozen=True)
class Style(Code):
    """(N, features) of pixels between -1 and 1, by an encoder for each base; see `StyleEncoder`.

    Attributes:
      widths: channels of its convolutions.
      features: of the style.
      smaller: how often the image is halved before.
    """

    widths: tuple[int, ...] = (32, 64, 128, 128, 128)
    features: int = 128
    smaller: int = 0

    def __call__(self, made: Making, name: str, view: str) -> jax.Array:
        """See `Code`."""
        make: Any = functools.partial(_style, self.widths, self.features)
        images = signed(made.pixels(view))
        for _ in range(self.smaller):
            images = halved(images)
        return made.network.shared(specific(made, name, view), make)(images)


@dataclasses.dataclass(frozen=True)
class Attribute(Code):
    """(N, D): the mean of the last map of a trunk of its own, for each base; views that are made pass like in `Begun`.

    Attributes:
      trunk: of it.
    """

    trunk: Trunk = ResNet(50)

    def __call__(self, made: Making, name: str, view: str) -> jax.Array:
        """See `Code`."""
        place = specific(made, name, view)
        make = functools.partial(_Pooled, self.trunk, made.network.axis_name)
        return made.passed(place, make, made.pixels(view)[:, None], view)[:, 0].mean((1, 2))


@dataclasses.dataclass(frozen=True)
class Section(Code):
    """(N, groups, n): the same section of every group of numbers of another code.

    Attributes:
      of: the other code, (N, D).
      start: of the section, as a share of a group.
      stop: where it ends.
      groups: into which D is cut.
    """

    of: str
    start: float
    stop: float
    groups: int = 4

    def __call__(self, made: Making, name: str, view: str) -> jax.Array:
        """See `Code`."""
        whole = made.code(self.of, view)
        grouped = whole.reshape(len(whole), self.groups, -1)
        return grouped[..., round(self.start * grouped.shape[-1]) : round(self.stop * grouped.shape[-1])]


class _Pooled(nn.Module):
    trunk: Trunk
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for stage in range(self.trunk.stages):
            x = self.trunk.stage(stage, axis_name=self.axis_name, name=STAGES[stage])(x, train=train)
        return x


def specific(made: Making, name: str, view: str) -> str:
    """Where the parameters of a code lie that has its own for each base."""
    return f"code_{name}_{WORDS[base_of(view, made.network.views)]}"


def _style(widths: tuple[int, ...], features: int, name: str) -> StyleEncoder:
    return StyleEncoder(widths, features, name=name)
