"""Optimiser and learning-rate schedule, out of Optax's parts."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from bdf_jax.config import Config, OptimiserConfig

HEAD = ("bnneck", "classifier", "gem_p")


def schedule(config: OptimiserConfig, epochs: float, steps: int) -> optax.Schedule:
    """The learning rate at each step: linear warm-up, then a factor `decay` at every milestone.

    Args:
      config: rates and milestones, in epochs.
      epochs: length of the whole run; an epoch is `steps / epochs` steps.
      steps: of the whole run.
    """
    per_epoch = steps / epochs

    def rate(step: Any) -> Any:
        epoch = step / per_epoch
        ramp = jnp.clip(epoch / config.warmup_epochs, 0, 1) if config.warmup_epochs else 1.0
        passed = sum(epoch >= milestone for milestone in config.milestones)
        warm = config.warmup_factor + (1 - config.warmup_factor) * ramp
        return config.learning_rate * warm * config.decay**passed

    return rate


def make_optimiser(config: Config, steps: int) -> optax.GradientTransformation:
    """Adam or SGD with the L2 penalty inside the gradient, and a learning rate of its own for trunk and generators."""
    settings = config.optimiser
    direction = optax.scale_by_adam() if settings.name == "adam" else optax.trace(decay=0.9, nesterov=True)
    return optax.chain(
        optax.add_decayed_weights(settings.weight_decay),
        direction,
        optax.multi_transform(
            {
                "head": optax.identity(),
                "trunk": optax.scale(settings.trunk_scale),
                "generator": optax.scale(settings.generator_scale),
                # Detached generators receive no gradient, but weight decay would still shrink them.
                "frozen": optax.set_to_zero(),
            },
            lambda params: _groups(params, frozen=config.model.generator.detach),
        ),
        optax.scale_by_learning_rate(schedule(settings, config.training.epochs, steps)),
    )


def _groups(params: Any, frozen: bool) -> Any:
    def group(name: str) -> str:
        if name.startswith("generator"):
            return "frozen" if frozen else "generator"
        return "head" if name in HEAD else "trunk"

    return {name: jax.tree.map(lambda _, name=name: group(name), subtree) for name, subtree in params.items()}
