"""What follows the trunk, as values: pooling, neck, classifiers, critics."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from bdf_jax.errors import BdfError
from bdf_jax.losses.ranking import unit
from bdf_jax.models.layers import BatchNorm
from bdf_jax.models.metrics import WORDS
from bdf_jax.parts import Family


def generalised_mean(x_NMHWC: jax.Array, p: float | jax.Array) -> jax.Array:
    """(N, M, C): (mean over the map of x^p)^(1/p), of x from 1e-6 up.

    Measured in units of the greatest x, which cancel out: the tenth power of a small one is 0 in float32, and the
    gradient of the root of 0 infinite.
    """
    x_NMHWC = jnp.maximum(x_NMHWC, 1e-6)
    unit_NM11C = jax.lax.stop_gradient(x_NMHWC.max(axis=(2, 3), keepdims=True))
    return ((x_NMHWC / unit_NM11C) ** p).mean(axis=(2, 3)) ** (1 / p) * unit_NM11C[:, :, 0, 0]


@dataclasses.dataclass(frozen=True)
class Pool:
    """Pooling of the last map, over the whole of it or over horizontal stripes.

    Attributes:
      kind: mean, maximum, or generalised mean (Radenovic et al., TPAMI 2019, equation 3).
      p: exponent of the generalised mean.
      learned: whether p is learned.
      stripes: S, horizontal stripes pooled apart.
      join: whether their features follow one another in one vector; otherwise each has a neck and heads of its own.
    """

    kind: Literal["avg", "max", "gem"] = "avg"
    p: float = 3.0
    learned: bool = False
    stripes: int = 1
    join: bool = True

    def __post_init__(self) -> None:
        if self.stripes < 1:
            raise BdfError(f"network.pool.stripes: expected at least 1, found {self.stripes}")

    def __call__(self, module: nn.Module, x_NMHWC: jax.Array) -> list[jax.Array]:
        """(N, M, D) of each stripe, or of all of them in one where they are joined."""
        H = x_NMHWC.shape[2]
        if H < self.stripes:
            raise BdfError(
                f"network.pool.stripes: {self.stripes} stripes need as many rows, but the last stage has {H}; "
                "set fewer stripes or a larger data.image_size"
            )
        if H % self.stripes:
            raise BdfError(
                f"network.pool.stripes: {self.stripes} stripes do not divide the {H} rows of the last stage; set "
                "another number of stripes or another height in data.image_size"
            )
        edges = [i * H // self.stripes for i in range(self.stripes + 1)]
        stripes = [x_NMHWC[:, :, top:bottom] for top, bottom in itertools.pairwise(edges)]
        if self.kind == "max":
            pooled = [stripe.max(axis=(2, 3)) for stripe in stripes]
        elif self.kind == "gem":
            p = module.param("gem_p", nn.initializers.constant(self.p), ()) if self.learned else self.p
            pooled = [generalised_mean(stripe, p) for stripe in stripes]
        else:
            pooled = [stripe.mean(axis=(2, 3)) for stripe in stripes]
        return [jnp.concatenate(pooled, axis=-1)] if self.join else pooled


@dataclasses.dataclass(frozen=True)
class Mixture:
    """The pooled map p and a code t of the view side by side: [min(w, 1) p / |p|, max(1 - w, 0) t / |t|], w learned.

    Source: Choi et al., CVPR 2020 (Hi-CMD).

    Attributes:
      code: its name in `network.codes`.
      start: of w.
    """

    code: str
    start: float = 0.5

    def __call__(self, module: nn.Module, pooled_NMD: jax.Array, codes_NME: jax.Array) -> jax.Array:
        """(N, M, D) and (N, M, E) to (N, M, D + E)."""
        w = module.param("mixture_weight", nn.initializers.constant(self.start), ())
        sides = (jnp.minimum(w, 1) * unit(pooled_NMD), jnp.maximum(1 - w, 0) * unit(codes_NME))
        return jnp.concatenate(sides, -1)


@dataclasses.dataclass(frozen=True)
class Neck(Family):
    """What makes the embedding of the pooled feature; one for each stripe."""

    def __call__(self, pooled_NMD: jax.Array, name: str, train: bool, norm: Mapping[str, Any]) -> jax.Array:
        """(N, M, D) to (N, M, E) by parameters under `name`; `norm` are settings of `BatchNorm`."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class BNNeck(Neck):
    """Batch normalisation, as a rule without a learned offset.

    Source: Luo et al., "Bag of Tricks and a Strong Baseline for Deep Person Re-Identification", CVPRW 2019.

    Attributes:
      offset: none, learned, or "frozen": there as zeros that are never trained, as several authors' codes keep it.
    """

    offset: Literal["none", "learned", "frozen"] = "none"

    def __call__(self, pooled_NMD: jax.Array, name: str, train: bool, norm: Mapping[str, Any]) -> jax.Array:
        """See `Neck`."""
        return BatchNorm(offset=self.offset, name=name, **norm)(pooled_NMD, train=train)


@dataclasses.dataclass(frozen=True)
class NoNeck(Neck):
    """The embedding is the pooled feature itself."""

    def __call__(self, pooled_NMD: jax.Array, name: str, train: bool, norm: Mapping[str, Any]) -> jax.Array:
        """See `Neck`."""
        return pooled_NMD


@dataclasses.dataclass(frozen=True)
class Project(Neck):
    """A matrix, and as a rule batch normalisation and an activation behind it.

    Attributes:
      features: E.
      bias: whether the matrix has an offset.
      norm: batch normalisation.
      slope: of the activation below 0: 0 a ReLU, 1 none.
      before: whether the normalisation stands before the matrix instead.
    """

    features: int = 512
    bias: bool = True
    norm: bool = True
    slope: float = 1.0
    before: bool = False

    def __call__(self, pooled_NMD: jax.Array, name: str, train: bool, norm: Mapping[str, Any]) -> jax.Array:
        """See `Neck`."""
        he = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
        if self.norm and self.before:
            pooled_NMD = BatchNorm(name=name, **norm)(pooled_NMD, train=train)
        x = nn.Dense(self.features, use_bias=self.bias, kernel_init=he, name=f"{name}_project")(pooled_NMD)
        if self.norm and not self.before:
            x = BatchNorm(name=name, **norm)(x, train=train)
        return x if self.slope == 1 else nn.leaky_relu(x, self.slope)


@dataclasses.dataclass(frozen=True)
class Head(Family):
    """Who is it? Scores of the classes from a feature; one for each stripe.

    Attributes:
      of: the feature that it sees.
    """

    of: Literal["embedding", "pooled"] = "embedding"

    def __call__(self, feature_NMD: jax.Array, classes: int, name: str, bases: tuple[int, ...]) -> jax.Array:
        """(N, M, D) to (N, M, C) by parameters under `name`; `bases` says which one each view is of."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Linear(Head):
    """One matrix.

    Attributes:
      hidden: units of a layer with a ReLU before it; 0: none.
      bias: whether it has an offset.
      slope: below 0, of an activation before the matrix: 0 a ReLU, 1 none.
      specific: whether each base has a matrix of its own (and none is shared).
    """

    hidden: int = 0
    bias: bool = False
    slope: float = 1.0
    specific: bool = False

    def __call__(self, feature_NMD: jax.Array, classes: int, name: str, bases: tuple[int, ...]) -> jax.Array:
        """See `Head`."""
        small = nn.initializers.normal(0.001)
        if self.hidden:
            feature_NMD = nn.relu(nn.Dense(self.hidden, name=f"{name}_hidden")(feature_NMD))
        if self.slope != 1:
            feature_NMD = nn.leaky_relu(feature_NMD, self.slope)
        if not self.specific:
            return nn.Dense(classes, use_bias=self.bias, kernel_init=small, name=name)(feature_NMD)
        own = {
            base: nn.Dense(classes, use_bias=self.bias, kernel_init=small, name=f"{name}_{word}")
            for base, word in enumerate(WORDS)
            if base in bases
        }
        return jnp.stack([own[base](feature_NMD[:, m]) for m, base in enumerate(bases)], 1)


@dataclasses.dataclass(frozen=True)
class Sphere(Head):
    """s cos of the angle between the feature and the vector of each class.

    Source: Fan et al., "SphereReID: Deep Hypersphere Manifold Embedding for Person Re-Identification", 2018.

    Attributes:
      scale: s.
    """

    scale: float = 14.0

    def __call__(self, feature_NMD: jax.Array, classes: int, name: str, bases: tuple[int, ...]) -> jax.Array:
        """See `Head`."""
        return self.scale * _Cosines(classes, name=name)(feature_NMD)


class _Cosines(nn.Module):
    classes: int

    @nn.compact
    def __call__(self, feature_NMD: jax.Array) -> jax.Array:
        kernel_DC = self.param("kernel", nn.initializers.normal(0.001), (feature_NMD.shape[-1], self.classes))
        return unit(feature_NMD) @ unit(kernel_DC.T).T


@dataclasses.dataclass(frozen=True)
class Critic(Family):
    """A network that a loss asks about a feature or an image, and that is trained against the others.

    Attributes:
      of: the feature that it sees; or pixels, alone or beside the last map of the trunk.
    """

    of: Literal["pooled", "embedding", "pixels", "pixels+map"] = dataclasses.field(default="pooled", kw_only=True)

    def module(self, name: str | None) -> nn.Module:
        """The module: an array (of "pixels+map" two) to scores."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Layers(Critic):
    """Fully connected layers with ReLUs between them, (..., D) to (..., widths[-1])."""

    widths: tuple[int, ...]

    def module(self, name: str | None) -> nn.Module:
        """See `Critic`."""
        return _Layers(self.widths, name=name)


class _Layers(nn.Module):
    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i, width in enumerate(self.widths):
            x = nn.Dense(width, name=f"layer{i}")(x if i == 0 else nn.relu(x))
        return x
