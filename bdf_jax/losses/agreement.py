"""Predictions that should agree: of two classifiers about one image, or of one about two images of a person."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from bdf_jax.errors import BdfError, check_names
from bdf_jax.losses.terms import Loss, Terms


def divergence(from_C: jax.Array, to_C: jax.Array) -> jax.Array:
    """KL(p || q) = sum p log(p / q) of two arrays of scores (..., C), over the last axis."""
    log_p, log_q = jax.nn.log_softmax(from_C), jax.nn.log_softmax(to_C)
    return (jax.nn.softmax(from_C) * (log_p - log_q)).sum(-1)


@dataclasses.dataclass(frozen=True)
class Agreement(Loss):
    """Two classifiers learn from each other what they say of an image.

        KL(p_first || p_second) + KL(p_second || p_first)    no gradient to the first of each

    Attributes:
      first: a head.
      second: another.
    """

    first: str = "classifier"
    second: str = "specific"

    def __call__(self, scope: Any) -> Terms:
        """One term a view: the mean over its images and stripes."""
        one, other = scope.logits(self.first), scope.logits(self.second)
        fixed = jax.lax.stop_gradient((one, other))
        apart_NMS = divergence(fixed[0], other) + divergence(fixed[1], one)
        return {view: apart_NMS[:, m].mean() for m, view in enumerate(scope.views)}

    def check(self, path: str, views: tuple[str, ...], config: Any) -> None:
        """See `Loss.check`."""
        super().check(path, views, config)
        check_names(f"{path}.first", [self.first], tuple(config.network.heads))
        check_names(f"{path}.second", [self.second], tuple(config.network.heads))


@dataclasses.dataclass(frozen=True)
class Consistency(Loss):
    """One classifier says the same of the two images of a pair: KL both ways, with gradients to both.

    Attributes:
      head: whose scores.
      of: the two views.
    """

    head: str = "classifier"
    of: tuple[str, str] = ("V", "I")

    def __call__(self, scope: Any) -> Terms:
        """One term: the mean over pairs and stripes."""
        first, second = (scope.logits(self.head)[:, m] for m in scope.position(*self.of))
        return {"": (divergence(first, second) + divergence(second, first)).mean()}

    def check(self, path: str, views: tuple[str, ...], config: Any) -> None:
        """See `Loss.check`."""
        super().check(path, views, config)
        check_names(f"{path}.head", [self.head], tuple(config.network.heads))
        check_names(f"{path}.of", self.of, views)


@dataclasses.dataclass(frozen=True)
class Follow(Loss):
    """What a classifier says of one view comes nearer to what it says of another, which learns nothing from it.

        T^2 KL(softmax(to / T) || softmax(of / T))

    Source: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2; between views in the
    code of Ye et al., "Channel Augmented Joint Learning for Visible-Infrared Recognition", ICCV 2021.

    Attributes:
      of: the view that learns.
      to: the view that it learns from.
      head: whose scores.
      temperature: T.
    """

    of: str
    to: str
    head: str = "classifier"
    temperature: float = 3.0

    def __call__(self, scope: Any) -> Terms:
        """One term: the mean over pairs and stripes."""
        of, to = (scope.logits(self.head)[:, m] / self.temperature for m in scope.position(self.of, self.to))
        return {"": self.temperature**2 * divergence(jax.lax.stop_gradient(to), of).mean()}

    def check(self, path: str, views: tuple[str, ...], config: Any) -> None:
        """See `Loss.check`."""
        super().check(path, views, config)
        check_names(f"{path}.of", [self.of], views)
        check_names(f"{path}.to", [self.to], views)
        check_names(f"{path}.head", [self.head], tuple(config.network.heads))
        if not self.temperature > 0:
            raise BdfError(f"{path}.temperature: expected more than 0, found {self.temperature}")
