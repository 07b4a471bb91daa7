"""Losses as values: what a method is made of.

A loss is called with a `Scope`, which has what the forward pass gave, and returns its terms by name. Its value is their
sum or mean; the step multiplies it by `weight` and logs value and terms. `ranking`, `identity` and `adversarial` have
the functions of arrays that do the work.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp

from bdf_jax.errors import BdfError, at_least, check_names, within
from bdf_jax.losses import adversarial, identity, ranking
from bdf_jax.parts import Family

if TYPE_CHECKING:
    from bdf_jax.config import Config

Terms = dict[str, jax.Array]
Feature = Literal["pooled", "embedding"]


class Scope:
    """What a loss may look at: the outputs of the network for the images of a step.

    N = P K pairs, M views, S stripes. Under pmap `local` arrays have this device's share of N and `gathered` ones all
    of it: a loss that is not linear in a mean over images must use the latter.

    Args:
      outputs: of `Network.__call__`.
      labels_N: (N,) int, class of each of this device's pairs.
      shape: (P, K) of the global batch.
      bases: 0 or 1 for each view: which base it is of.
      gather: makes an array whose first axis is shared out whole on every device, and passes gradients back.
      critic: (name, array) to what that critic says of it; some look at an image and a map.
      first: the place of this device's first pair in the global batch.
    """

    def __init__(
        self,
        outputs: Mapping[str, Any],
        labels_N: jax.Array,
        *,
        shape: tuple[int, int],
        bases: tuple[int, ...],
        gather: Callable[[jax.Array], jax.Array],
        critic: Callable[..., jax.Array],
        first: int | jax.Array = 0,
    ):
        self.views: tuple[str, ...] = outputs["views"]
        self.labels_N, self.shape, self.bases, self.critic = labels_N, shape, bases, critic
        self._outputs, self._gather, self._first = outputs, gather, first
        self._gathered: dict[str, list[jax.Array]] = {}

    def local(self, feature: str) -> jax.Array:
        """(N, M, S, D) of this device's pairs: a feature, or what a part of `network.auxiliary` gives."""
        local: jax.Array = self._outputs[feature]
        return local

    def logits(self, head: str) -> jax.Array:
        """(N, M, S, C) of this device's pairs."""
        local: jax.Array = self._outputs["logits"][head]
        return local

    def code(self, name: str, view: str) -> jax.Array:
        """(N, ...) of this device's pairs: what a code says of a view; `looks_at` of the loss must ask for it."""
        local: jax.Array = self._outputs["codes"][name, view]
        return local

    def pixels(self, view: str) -> jax.Array:
        """(N, H, W, 3) of this device's pairs, normalised; `looks_at` of the loss must ask for ("", view)."""
        return self.code("", view)

    def map(self, view: str) -> jax.Array:
        """(N, H', W', C) of this device's pairs: the last map of the trunk; `looks_at` must ask for ("map", view)."""
        return self.code("map", view)

    def everywhere(self, x: jax.Array) -> jax.Array:
        """An array whose first axis is this device's pairs, of all devices."""
        return self._gather(x)

    def moved(self, x: jax.Array, by: int) -> jax.Array:
        """(N, ...) of the pairs that lie `by` places before this device's in the global batch; the last come first."""
        return jax.lax.dynamic_slice_in_dim(jnp.roll(self._gather(x), by, 0), self._first, len(x))

    def gathered(self, feature: str, *, joined: bool = False) -> list[jax.Array]:
        """(P, K, M, D) of the global batch for each stripe; where they are joined, one for all of them."""
        if feature not in self._gathered:
            features_NMSD = self._gather(self._outputs[feature])
            features_PKMSD = features_NMSD.reshape(*self.shape, *features_NMSD.shape[1:])
            # Once for all losses, so that their gradients are added up in one place.
            self._gathered[feature] = [features_PKMSD[:, :, :, s] for s in range(features_PKMSD.shape[3])]
        stripes = self._gathered[feature]
        return [jnp.concatenate(stripes, axis=-1)] if joined and len(stripes) > 1 else stripes

    def position(self, *names: str) -> list[int]:
        """Where views lie on the M axis."""
        return [self.views.index(name) for name in names]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loss(Family):
    """A loss of a method.

    Attributes:
      weight: of its value in the total; with 0 it is logged, but not trained with.
      reduce: how its terms become its value: "sum" grows with their number, "mean" does not.
      trains: the groups of parameters that it trains; empty: all but critics; ("*",): all.
    """

    weight: float = 1.0
    reduce: Literal["sum", "mean"] = "sum"
    trains: tuple[str, ...] = ()

    def __call__(self, scope: Scope) -> Terms:
        """The terms, () float32 each, by name; the name "" stands for the loss itself."""
        raise NotImplementedError

    def looks_at(self) -> tuple[tuple[str, str], ...]:
        """(code, view) of all that it asks for; code "" for `scope.pixels`, "map" for `scope.map`."""
        return ()

    def check(self, path: str, views: tuple[str, ...], config: Config) -> None:
        """Raises BdfError where the loss does not fit the views that enter the network or its parts.

        Args:
          path: of the loss in the configuration.
          views: that enter the trunk.
          config: the whole configuration, checked but for the losses.
        """
        at_least(f"{path}.weight", self.weight, 0)


def wanted_by(losses: Iterable[Loss]) -> tuple[tuple[str, str], ...]:
    """What `looks_at` of some losses asks for, each once, in order: `wanted` of `Network.__call__`."""
    return tuple(dict.fromkeys(seen for loss in losses for seen in loss.looks_at()))


@dataclasses.dataclass(frozen=True)
class Identity(Loss):
    """Label-smoothed cross-entropy in each view, mean over its images and stripes.

    Attributes:
      smoothing: the share of the target that is spread evenly over all classes.
      head: whose scores.
      views: of which views; empty: of all that enter the trunk.
    """

    smoothing: float = 0.0
    head: str = "classifier"
    views: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)

    def __call__(self, scope: Scope) -> Terms:
        """One term a view."""
        logits_NMSC = scope.logits(self.head)
        # Cross-entropy looks at one image at a time, so each device keeps its own logits: every pair is its own
        # "identity" with one image.
        stripes = [
            identity.did_terms(
                logits_NMSC[:, None, :, s],
                scope.labels_N,
                modes=range(len(scope.views)) if not self.views else scope.position(*self.views),
                label_smoothing=self.smoothing,
            )
            for s in range(logits_NMSC.shape[2])
        ]
        return dict(zip(self.views or scope.views, _mean(stripes), strict=True))

    def check(self, path: str, views: tuple[str, ...], config: Config) -> None:
        """See `Loss.check`."""
        super().check(path, views, config)
        within(f"{path}.smoothing", self.smoothing, 0, 1)
        check_names(f"{path}.views", self.views, views)
        check_names(f"{path}.head", [self.head], tuple(config.network.heads))


@dataclasses.dataclass(frozen=True)
class Edges(Loss, abstract=True):
    """A loss of edges.

    Attributes:
      edges: "V>I": anchors of V, positives and negatives of I; "V<>I": both ways; "V+I>V+I": pools of views.
      on: the feature that is compared, or a part of `network.auxiliary`.
      joined: whether an image's stripes are one vector; otherwise the loss is the mean over stripes.
    """

    edges: str
    on: str = "pooled"
    joined: bool = dataclasses.field(default=False, kw_only=True)

    def pairs(self, path: str = "edges") -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
        """(anchors, candidates) of every edge."""
        found = []
        for word in self.edges.replace(",", " ").split():
            left, arrow, right = word.partition("<>" if "<>" in word else ">")
            sides = tuple(left.split("+")), tuple(right.split("+"))
            if not arrow or not all(all(side) for side in sides):
                raise BdfError(f"{path}: expected edges such as V>I, V<>I or V+I>V+I, found {word!r}")
            found += [sides, sides[::-1]] if arrow == "<>" else [sides]
        return found

    def __call__(self, scope: Scope) -> Terms:
        """One term an edge, mean over stripes: "V>I", or "V" for the edge of a side to itself."""
        pairs = self.pairs()
        edges = [tuple(tuple(scope.views.index(view) for view in side) for side in pair) for pair in pairs]
        stripes = [self.terms(features_PKMD, edges) for features_PKMD in scope.gathered(self.on, joined=self.joined)]
        names = ["+".join(a) if a == c else f"{'+'.join(a)}>{'+'.join(c)}" for a, c in pairs]
        return dict(zip(names, _mean(stripes), strict=True))

    def terms(self, features_PKMD: jax.Array, edges: list[Any]) -> jax.Array:
        """(E,) of one stripe."""
        raise NotImplementedError

    def check(self, path: str, views: tuple[str, ...], config: Config) -> None:
        """See `Loss.check`."""
        super().check(path, views, config)
        pairs = self.pairs(f"{path}.edges")
        if not pairs:
            raise BdfError(f"{path}.edges: expected at least one edge, such as V>I; --config.{path}=none removes it")
        check_names(f"{path}.on", [self.on], ("pooled", "embedding", *config.network.auxiliary))
        for anchors, candidates in pairs:
            check_names(f"{path}.edges", (*anchors, *candidates), views)

    def check_positives(self, path: str, config: Config) -> None:
        """Raises BdfError where an image is alone with itself: one of each identity, compared within its own view."""
        alone = [anchors[0] for anchors, candidates in self.pairs() if len(anchors) == 1 and anchors == candidates]
        if alone and config.data.images < 2:
            raise BdfError(
                f"{path}.edges: {alone[0]}>{alone[0]} needs a second image of an identity as positive, but data.images "
                f"is {config.data.images}; make it at least 2, or leave such edges out"
            )


@dataclasses.dataclass(frozen=True)
class Triplet(Edges):
    """The hinge of hardest positive and hardest negative; see `ranking.ranking_terms`.

    Attributes:
      margin: in units of the metric.
      level: "sample" or "center".
      metric: "euclidean", "sphere" (of unit vectors) or "cosine" (1 - cosine).
      negatives: of the anchor's "candidates", or at centre level "both" rows and columns.
    """

    margin: float = 0.3
    level: ranking.Level = "sample"
    metric: ranking.Metric = "euclidean"
    negatives: ranking.Negatives = "candidates"

    def terms(self, features_PKMD: jax.Array, edges: list[Any]) -> jax.Array:
        """See `Edges.terms`."""
        return ranking.ranking_terms(
            features_PKMD,
            edges,
            level=self.level,
            margin=self.margin,
            metric=self.metric,
            negatives=self.negatives,
        )

    def check(self, path: str, views: tuple[str, ...], config: Config) -> None:
        """See `Loss.check`."""
        super().check(path, views, config)
        at_least(f"{path}.margin", self.margin, 0)
        if self.level == "sample":
            self.check_positives(path, config)
        pools = any(len(side) > 1 for pair in self.pairs() for side in pair)
        if self.negatives == "both" and (self.level != "center" or pools):
            raise BdfError(f"{path}.negatives: 'both' needs level=center and edges between two single views")


@dataclasses.dataclass(frozen=True)
class WeightedTriplet(Edges):
    """Every positive and negative by its difficulty, no margin; see `ranking.weighted_terms`.

    Attributes:
      form: "softplus" (AGW) or "squared" (CAJ).
      legacy: the authors' weights, which lose all negatives of features that lie far apart.
    """

    form: Literal["softplus", "squared"] = "softplus"
    legacy: bool = False

    def terms(self, features_PKMD: jax.Array, edges: list[Any]) -> jax.Array:
        """See `Edges.terms`."""
        return ranking.weighted_terms(features_PKMD, edges, form=self.form, legacy=self.legacy)

    def check(self, path: str, views: tuple[str, ...], config: Config) -> None:
        """See `Loss.check`."""
        super().check(path, views, config)
        self.check_positives(path, config)


@dataclasses.dataclass(frozen=True)
class Modality(Loss):
    """Of which base is it? The critic learns to tell, and the features not to let it.

    The gradient that reaches the features is that of the cross-entropy times -`reverse`; one backward pass serves both.

    Source: Ganin and Lempitsky, "Unsupervised Domain Adaptation by Backpropagation", ICML 2015; the minimax of
    Dai et al., "Cross-Modality Person Re-Identification with Generative Adversarial Training" (cmGAN), IJCAI 2018.

    Attributes:
      critic: of two outputs, visible and infrared.
      reverse: factor of the reversed gradient.
      on: the feature that the critic sees.
    """

    critic: str = "modality"
    reverse: float = 1.0
    on: Feature = "pooled"
    trains: tuple[str, ...] = dataclasses.field(default=("*",), kw_only=True)

    def __call__(self, scope: Scope) -> Terms:
        """One term: mean over views and images."""
        features_NMD = adversarial.reversed_gradient(scope.local(self.on)[:, :, 0], self.reverse)
        logits_NM2 = scope.critic(self.critic, features_NMD)
        bases_M = jnp.asarray(scope.bases)
        return {"": -jax.nn.log_softmax(logits_NM2)[:, jnp.arange(len(scope.bases)), bases_M].mean()}

    def check(self, path: str, views: tuple[str, ...], config: Config) -> None:
        """See `Loss.check`."""
        super().check(path, views, config)
        check_names(f"{path}.critic", [self.critic], tuple(config.network.critics))
        at_least(f"{path}.reverse", self.reverse, 0)


def _mean(stripes: list[jax.Array]) -> jax.Array:
    return stripes[0] if len(stripes) == 1 else jnp.stack(stripes).mean(0)
