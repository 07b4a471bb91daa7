"""Views: the images that stand for a base image, and how each is made.

The bases V (visible) and I (infrared) are always there. Every other view has a parent and a maker: a fixed transform or
a learned pixel map. A view belongs to the base that its parents lead back to.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from bdf_jax.errors import BdfError
from bdf_jax.models.layers import BatchNorm
from bdf_jax.parts import Family, Named
from bdf_jax.pixels import LUMA, MEAN, STD

BASES = ("V", "I")  # visible and infrared: positions 0 and 1 of an image pair
# Normalised pixels lie above -2.2, so this offset keeps the ReLU open on every one of them.
OPEN = 2.2
# Probabilities with which all channels become red, green, blue or grey; what is left to 1 keeps the image.
Channels = tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True)
class Maker(Family):
    """How a view is made of its parent.

    Attributes:
      learned: whether it has parameters; those are observed (active fraction, deviation).
      kept: whether a picture of its views is kept at the end of every stage.
    """

    learned = False
    kept = False
    packages = ("bdf_jax.models",)

    def takes(self, of: str) -> tuple[tuple[str, str], ...]:
        """(code, view) of everything that it makes a view of `of` from; code "" for pixels."""
        return (("", of),)

    def module(self, name: str, network: nn.Module) -> nn.Module:
        """The module under this name in the network: (what it takes, train) to (images (..., 3), active).

        `active` is the share of its hidden units that are not 0, or None where there are none.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class View:
    """One more view of a base.

    Attributes:
      of: its parent: V, I or another view.
      by: how it is made.
      share: a view whose parameters it shares; empty: its own.
      detach: no gradient to the maker, which then stays as it started (a control).
    """

    of: str
    by: Maker
    share: str = ""
    detach: bool = False


@dataclasses.dataclass(frozen=True)
class Pixelwise(Maker):
    """G(x) = W2 . relu(W1 . x + b1) + b2: two 1x1 convolutions, 3 -> hidden -> 3.

    `init="gray"` starts as the grey image; `init="third"` (all weights 1/3, no offsets) is the closest relative's,
    and closes the ReLU on every pixel darker than the mean; `init="random"` is a random recolouring.

    Source: Liu et al., ICPR 2020, for one generator a base; Li et al., "Infrared-Visible Cross-Modal Person
    Re-Identification with an X Modality", AAAI 2020, for its form.
    """

    hidden: int = 1
    init: Literal["gray", "third", "random"] = "gray"
    learned = True

    def __post_init__(self) -> None:
        if self.hidden < 1 or (self.init != "random" and self.hidden != 1):
            raise BdfError(
                f"Pixelwise.hidden: init {self.init!r} is defined for 1 hidden channel, found {self.hidden}; "
                "use init=random for more"
            )

    def module(self, name: str, network: nn.Module) -> nn.Module:
        """See `Maker.module`."""
        return _Pixelwise(self.hidden, self.init, name=name)


@dataclasses.dataclass(frozen=True)
class Middle(Maker):
    """An encoder 3 -> 1 -> 1 with batch normalisation, and a decoder 1 -> 3 that all middle views share.

    code = BN(relu(w2 relu(W1 . x + b1) + b2)), view = relu(W3 code + b3); all weights start at 0.333, offsets at 0.

    Source: Zhang et al., "Towards a Unified Middle Modality Learning for Visible-Infrared Person
    Re-Identification", ACM MM 2021.
    """

    learned = True

    def module(self, name: str, network: nn.Module) -> nn.Module:
        """See `Maker.module`."""
        decoder = network.shared("generator_middle_decoder", lambda name: _third(3, name))  # type: ignore[attr-defined]
        return _Middle(decoder, network.axis_name, name=name)  # type: ignore[attr-defined]


@dataclasses.dataclass(frozen=True)
class Grey(Maker):
    """The luma of the image in all three channels: nothing is learned (a control).

    Attributes:
      channels_of: the luma of "pixels", normalised like them, or that of "normalised" channels, as it is.
    """

    channels_of: Literal["pixels", "normalised"] = "pixels"

    def module(self, name: str, network: nn.Module) -> nn.Module:
        """See `Maker.module`."""
        return _Grey(self.channels_of == "normalised", name=name)


@dataclasses.dataclass(frozen=True)
class Drawn(Maker):
    """The base image once more, in training with a draw of the augmentation of its own; only a base can be its parent.

    Source: Ye et al., "Channel Augmented Joint Learning for Visible-Infrared Recognition", ICCV 2021.

    Attributes:
      channels: instead of `augment.visible_channels` or `augment.infrared_channels`.
    """

    channels: Channels = (0.0, 0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        check_channels("Drawn.channels", self.channels)

    def module(self, name: str, network: nn.Module) -> nn.Module:
        """See `Maker.module`."""
        return _Same(name=name)


@dataclasses.dataclass(frozen=True)
class ZeroPadding(Maker):
    """Grey in one channel and zeros in the others: visible images in the first, infrared ones in the last.

    Source: Wu et al., "RGB-Infrared Cross-Modality Person Re-Identification", ICCV 2017.

    Attributes:
      channels: 2, or 3 with the middle one empty.
      zeros: whether they are black pixels, put in "before" normalisation, or zeros "after" it.
    """

    channels: Literal[2, 3] = 2
    zeros: Literal["before", "after"] = "after"

    def module(self, name: str, network: nn.Module) -> nn.Module:
        """See `Maker.module`."""
        first = base_of(name.removeprefix("generator_"), network.views) == 0  # type: ignore[attr-defined]
        return _ZeroPadding(self.channels, self.zeros, 0 if first else self.channels - 1, name=name)


@dataclasses.dataclass(frozen=True)
class Branch(Maker):
    """A view that is made of features in the middle of the trunk, by a block of the network with branches.

    Attributes:
      block: its name in `network.blocks`.
      branch: which of its branches, from 0.
    """

    block: str
    branch: int = 0


@dataclasses.dataclass(frozen=True)
class Itself(Maker):
    """The parent once more: with `detach`, a made image that passes no gradient to its maker."""

    def module(self, name: str, network: nn.Module) -> nn.Module:
        """See `Maker.module`."""
        return _Same(name=name)


@dataclasses.dataclass(frozen=True)
class Mixed(Maker):
    """No image: the pooled map of the parent beside what a code says of another view; see `network.mixture`.

    Attributes:
      with_: the other view.
    """

    with_: str


class _Pixelwise(nn.Module):
    hidden: int
    init_: str

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        constant, normal = nn.initializers.constant, nn.initializers.variance_scaling(1.0, "fan_in", "normal")
        W1, b1, W2, b2 = {
            "gray": (constant(1 / 3), constant(OPEN), constant(1.0), constant(-OPEN)),
            "third": (constant(1 / 3), constant(0.0), constant(1 / 3), constant(0.0)),
            "random": (normal, constant(OPEN), normal, constant(0.0)),
        }[self.init_]
        hidden = nn.relu(nn.Dense(self.hidden, kernel_init=W1, bias_init=b1, name="conv1")(images))
        return nn.Dense(3, kernel_init=W2, bias_init=b2, name="conv2")(hidden), (hidden > 0).mean()


class _Middle(nn.Module):
    decoder: nn.Module
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        hidden = nn.relu(_third(1, "conv1")(images))
        code = BatchNorm(axis_name=self.axis_name, name="bn")(nn.relu(_third(1, "conv2")(hidden)), train=train)
        return nn.relu(self.decoder(code)), (hidden > 0).mean()


def _third(features: int, name: str) -> nn.Dense:
    return nn.Dense(features, kernel_init=nn.initializers.constant(0.333), name=name)


class _Same(nn.Module):
    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> tuple[jax.Array, None]:
        return images, None


class _ZeroPadding(nn.Module):
    channels: int
    zeros: str
    place: int

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> tuple[jax.Array, None]:
        luma = (images * STD + MEAN) @ LUMA
        # Two channels are normalised as grey is: by the mean over colours.
        mean, std = (MEAN, STD) if self.channels == 3 else (MEAN.mean().repeat(2), STD.mean().repeat(2))
        black = -mean / std if self.zeros == "before" else jnp.zeros(self.channels)
        padded = jnp.broadcast_to(black, (*luma.shape, self.channels))
        return padded.at[..., self.place].set((luma - mean[self.place]) / std[self.place]), None


class _Grey(nn.Module):
    normalised: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> tuple[jax.Array, None]:
        if self.normalised:
            return jnp.broadcast_to((images @ LUMA)[..., None], images.shape), None
        luma = ((images * STD + MEAN) @ LUMA)[..., None]
        return (luma - MEAN) / STD, None


def base_of(name: str, views: Mapping[str, View]) -> int:
    """0 for a view of V, 1 for one of I.

    Raises:
      BdfError: a view that is not there, or views that are each other's parents.
    """
    seen = [name]
    while name not in BASES:
        if name not in views:
            raise BdfError(f"views: there is no view {name!r}; there are {', '.join([*BASES, *views])}")
        name = views[name].of
        if name in seen:
            raise BdfError(f"views: {' of '.join([*seen, name])}: no view can be made of itself")
        seen.append(name)
    return BASES.index(name)


def check_views(views: Named[View]) -> None:
    """Raises BdfError where a view cannot be made."""
    for name, view in views.items():
        if name in BASES:
            raise BdfError(f"views.{name}: {' and '.join(BASES)} are the base images; name the view otherwise")
        base_of(name, views)
        if isinstance(view.by, (Drawn, Branch)) and view.of not in BASES:
            raise BdfError(f"views.{name}.of: expected {' or '.join(BASES)}, found {view.of!r}")
        if view.share and view.share not in views:
            raise BdfError(f"views.{name}.share: there is no view {view.share!r} to share parameters with")
        ancestors((name,), views)


def check_channels(path: str, channels: Channels) -> None:
    """Raises BdfError where they are no probabilities."""
    if min(channels) < 0 or sum(channels) > 1 + 1e-6:
        raise BdfError(f"{path}: expected probabilities of red, green, blue and grey, found {channels}")


def late(name: str, views: Mapping[str, View]) -> bool:
    """Whether a view is made of features, in the middle of the trunk or behind it."""
    return name in views and isinstance(views[name].by, (Branch, Mixed))


def parents(name: str, views: Mapping[str, View]) -> tuple[str, ...]:
    """The views that a view is made from; of a base none."""
    if name in BASES:
        return ()
    return tuple(dict.fromkeys((views[name].of, *(view for _, view in views[name].by.takes(views[name].of)))))


def ancestors(names: tuple[str, ...], views: Mapping[str, View]) -> list[str]:
    """The views that have to be made for `names`, parents first, without the bases.

    Raises:
      BdfError: a view that is not there, or one that would be made of itself.
    """
    needed: list[str] = []

    def add(name: str, children: tuple[str, ...]) -> None:
        if name in children:
            raise BdfError(f"views: {' of '.join([*children, name])}: no view can be made of itself")
        if name not in BASES and name not in views:
            raise BdfError(f"views.{children[-1]}: there is no view {name!r}; there are {', '.join([*BASES, *views])}")
        if name not in BASES and name not in needed and not late(name, views):
            for parent in parents(name, views):
                add(parent, (*children, name))
            needed.append(name)

    for name in names:
        add(name, ())
    return needed


def made_of_codes(name: str, views: Mapping[str, View]) -> bool:
    """Whether a view is made of what the network says of another, at any remove."""
    line = ancestors((name,), views)
    return any(code for each in line for code, _ in views[each].by.takes(views[each].of))


def roots(name: str, views: Mapping[str, View]) -> set[str]:
    """The bases whose images a view needs."""
    line = (name, *ancestors((name,), views))
    return {parent for each in line for parent in (each, *parents(each, views)) if parent in BASES}
