"""Which parameters learn from which losses, and when: groups and stages of a method."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import optax

from bdf_jax.config import Config
from bdf_jax.errors import BdfError
from bdf_jax.training.entries import Entry
from bdf_jax.training.optimiser import matches, role

MAIN = "main"  # the parameters that stand in no group of their own


@dataclasses.dataclass(frozen=True)
class Phase:
    """A stage of a run of a given length: static, so that a step is compiled for each.

    Attributes:
      name: of the stage.
      start: the number of steps before it.
      stop: the step with which it ends.
      losses: that are computed.
      pulls: for each group that learns, the losses that it learns from.
      enter: what is done to the parameters before its first step.
      inputs: the views that enter the trunk; empty: those of the network.
    """

    name: str
    start: int
    stop: int
    losses: tuple[str, ...]
    pulls: tuple[tuple[str, tuple[str, ...]], ...]
    enter: Entry | None = None
    inputs: tuple[str, ...] = ()


def phases(config: Config, total: int) -> list[Phase]:
    """The stages of a run of `total` steps, each with its share of them.

    Raises:
      BdfError: a stage without a step, or a group that would learn from no loss.
    """
    stages: list[tuple[str, Any]] = list(config.stages.items()) or [("train", None)]
    lengths = [1.0 if stage is None else stage.epochs for _, stage in stages]
    found, start = [], 0
    for i, (name, stage) in enumerate(stages):
        stop = round(total * sum(lengths[: i + 1]) / sum(lengths))
        if stop <= start:
            raise BdfError(f"stages.{name}: no step of {total} is left for it; give training.steps or its epochs more")
        losses = tuple(n for n in config.losses if stage is None or not stage.losses or n in stage.losses)
        groups = [g for g in (MAIN, *config.groups) if stage is None or not stage.groups or g in stage.groups]
        pulls = []
        for group in groups:
            terms = tuple(n for n in losses if config.losses[n].weight and _trains(config, n, group))
            if not terms:
                raise BdfError(
                    f"groups: {group!r} learns from no loss in stage {name!r}; give a loss a weight or name the group "
                    f"in its trains, or leave it out of stages.{name}.groups"
                )
            pulls.append((group, terms))
        enter, inputs = (None, ()) if stage is None else (stage.enter, stage.inputs)
        found.append(Phase(name, start, stop, losses, tuple(pulls), enter, inputs))
        start = stop
    return found


def phase_of(plan: Iterable[Phase], step: int) -> Phase:
    """The phase in which a step (counted from 1) lies."""
    return next(phase for phase in plan if step <= phase.stop)


def make_optimisers(config: Config, steps: int) -> dict[str, optax.GradientTransformation]:
    """The optimiser of each group, for a run of `steps` steps."""
    parts = {MAIN: config.optimiser} | {name: group.optimiser for name, group in config.groups.items()}
    return {name: part.transformation(config.training.epochs, steps) for name, part in parts.items()}


def divided(params: Mapping[str, Any], config: Config) -> dict[str, dict[str, Any]]:
    """The parameters by group. Those of detached views are in none: weight decay would still shrink them.

    Raises:
      BdfError: a parameter in two groups, or a group without parameters.
    """
    detached = {f"generator_{view.share or name}" for name, view in config.views.items() if view.detach}
    parts: dict[str, dict[str, Any]] = {MAIN: {}, **{name: {} for name in config.groups}}
    for name, tree in params.items():
        owners = [g for g, group in config.groups.items() if any(matches(name, pattern) for pattern in group.params)]
        if len(owners) > 1:
            raise BdfError(f"groups: the parameters {name!r} are in {' and '.join(owners)}; mend their params")
        if name not in detached:
            parts[owners[0] if owners else MAIN][name] = tree
    for group, part in parts.items():
        if not part:
            known = ", ".join(sorted(params))
            raise BdfError(f"groups.{group}: no parameters are in it; the network has {known}")
    return parts


def _trains(config: Config, loss: str, group: str) -> bool:
    """Whether a loss trains a group."""
    wanted = config.losses[loss].trains
    if not wanted:
        return group == MAIN or not _critics_alone(config.groups[group].params)
    return "*" in wanted or group in wanted


def _critics_alone(patterns: Iterable[str]) -> bool:
    return all(pattern == "critics" or role(pattern) == "critics" for pattern in patterns)
