"""Everything that changes during training, as one pytree: what a step maps to its successor and a checkpoint holds."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from bdf_jax.models import Network, initial_variables


class TrainState(flax.struct.PyTreeNode):
    """The state between two steps. Batches and augmentation need nothing more than `step` and the seed.

    Attributes:
      step: () int32, steps done.
      params: the network's parameters.
      batch_stats: running statistics of the batch normalisation.
      opt_state: of the optimiser.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any


def initial_state(
    network: Network,
    optimiser: optax.GradientTransformation,
    seed: int,
    image_size: tuple[int, int],
    *,
    pretrained: bool = True,
) -> TrainState:
    """The state before the first step: a function of the seed and of the weights to start from (`pretrained`)."""
    variables = initial_variables(network, seed, image_size, pretrained=pretrained)
    params = variables["params"]
    opt_state = jax.jit(optimiser.init)(params)  # as one program: array by array it is twenty, at 30 ms each
    return TrainState(jnp.zeros((), jnp.int32), params, variables["batch_stats"], opt_state)
