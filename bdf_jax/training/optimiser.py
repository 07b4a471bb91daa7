"""Optimisers as values, with their learning-rate schedule, out of Optax's parts."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from bdf_jax.errors import BdfError, at_least, within
from bdf_jax.models.resnet import STAGES
from bdf_jax.parts import Family, Named


@dataclasses.dataclass(frozen=True)
class Optimiser(Family):
    """How a group of parameters learns; epochs are those of `training.epochs`, counted while the group learns.

    Attributes:
      learning_rate: at its height.
      weight_decay: L2, added to the gradient (not decoupled).
      warmup_epochs: linear, from `warmup_factor`.
      milestones: epochs at which the rate is multiplied by `decay`.
      fall: "steps" at the milestones alone, or "linear" from the end of the warm-up to 0 at the end of the run.
      scales: factors on the rate of some parameters, by their name at the top of the tree (* and ? allowed) or by
        "trunk", "views", "critics", "head"; the last that fits counts.
    """

    learning_rate: float = 3.5e-4
    weight_decay: float = 5e-4
    warmup_epochs: float = 10.0
    warmup_factor: float = 0.01
    milestones: tuple[float, ...] = (40.0, 70.0)
    decay: float = 0.1
    fall: Literal["steps", "linear"] = "steps"
    scales: Named[float] = Named()

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise BdfError(f"optimiser.learning_rate: expected more than 0, found {self.learning_rate}")
        for name in ("weight_decay", "warmup_epochs", "decay"):
            at_least(f"optimiser.{name}", getattr(self, name), 0)
        for name, scale in self.scales.items():
            at_least(f"optimiser.scales.{name}", scale, 0)
        within("optimiser.warmup_factor", self.warmup_factor, 0, 1)
        if list(self.milestones) != sorted(self.milestones):
            raise BdfError(f"optimiser.milestones: expected increasing epochs, found {self.milestones}")

    def direction(self) -> optax.GradientTransformation:
        """From gradients to the step that the learning rate scales."""
        raise NotImplementedError

    def transformation(self, epochs: float, steps: int) -> optax.GradientTransformation:
        """The optimiser of a run of `steps` steps, in which an epoch is `steps / epochs` of them."""
        return optax.chain(
            optax.add_decayed_weights(self.weight_decay),
            self.direction(),
            *([_scaled(self.scales)] if self.scales else []),
            optax.scale_by_learning_rate(schedule(self, epochs, steps)),
        )


@dataclasses.dataclass(frozen=True)
class Adam(Optimiser):
    """Kingma and Ba, ICLR 2015.

    Attributes:
      b1: decay of the mean of gradients.
      b2: decay of the mean of their squares.
    """

    b1: float = 0.9
    b2: float = 0.999

    def direction(self) -> optax.GradientTransformation:
        """See `Optimiser`."""
        return optax.scale_by_adam(self.b1, self.b2)


@dataclasses.dataclass(frozen=True)
class SGD(Optimiser):
    """Stochastic gradient descent with momentum.

    Attributes:
      momentum: share of the last step.
      nesterov: look ahead by it.
    """

    momentum: float = 0.9
    nesterov: bool = True

    def direction(self) -> optax.GradientTransformation:
        """See `Optimiser`."""
        return optax.trace(decay=self.momentum, nesterov=self.nesterov)


def schedule(optimiser: Optimiser, epochs: float, steps: int) -> optax.Schedule:
    """The learning rate at each step: linear warm-up, then a factor `decay` at every milestone; a line where it falls.

    Args:
      optimiser: rates and milestones, in epochs.
      epochs: length of the whole run; an epoch is `steps / epochs` steps.
      steps: of the whole run.
    """
    per_epoch = steps / epochs

    def rate(step: Any) -> Any:
        epoch = step / per_epoch
        ramp = jnp.clip(epoch / optimiser.warmup_epochs, 0, 1) if optimiser.warmup_epochs else 1.0
        passed = sum(epoch >= milestone for milestone in optimiser.milestones)
        warm = optimiser.warmup_factor + (1 - optimiser.warmup_factor) * ramp
        if optimiser.fall == "linear":
            warm *= jnp.clip((epochs - epoch) / max(epochs - optimiser.warmup_epochs, 1e-9), 0, 1)
        return optimiser.learning_rate * warm * optimiser.decay**passed

    return rate


def role(name: str) -> str:
    """What a parameter at the top of the tree belongs to: "trunk", "views", "critics" or "head"."""
    if name.startswith(("generator_", "code_")):
        return "views"
    if name.startswith("critic_"):
        return "critics"
    return "trunk" if name.startswith(STAGES) else "head"


def matches(name: str, pattern: str) -> bool:
    """Whether a parameter at the top of the tree is meant by a pattern or a role."""
    return pattern == role(name) or fnmatch.fnmatchcase(name, pattern)


def _scaled(scales: Mapping[str, float]) -> optax.GradientTransformation:
    def factor(name: str) -> float:
        return ([1.0] + [scale for pattern, scale in scales.items() if matches(name, pattern)])[-1]

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        scaled = {
            name: tree if factor(name) == 1 else jax.tree.map(lambda leaf, name=name: leaf * factor(name), tree)
            for name, tree in updates.items()
        }
        return scaled, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
