"""Everything that changes during training, as one pytree: what a step maps to its successor and a checkpoint holds."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from bdf_jax.config import Config
from bdf_jax.models import Network, initial_variables
from bdf_jax.training.stages import divided, make_optimisers


class TrainState(flax.struct.PyTreeNode):
    """The state between two steps. Batches and augmentation need nothing more than `step` and the seed.

    Attributes:
      step: () int32, steps done.
      params: the network's parameters.
      batch_stats: running statistics of the batch normalisation.
      opt_state: of the optimiser of each group of parameters, by its name.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: dict[str, Any]


def initial_state(network: Network, config: Config, *, pretrained: bool = True) -> TrainState:
    """The state before the first step: a function of the seed and of the weights to start from (`pretrained`)."""
    variables = initial_variables(network, config.training.seed, config.data.image_size, pretrained=pretrained)
    params = variables["params"]
    optimisers = make_optimisers(config, 1)  # a schedule has no state but its count

    def start(params: Any) -> dict[str, Any]:
        return {name: optimisers[name].init(part) for name, part in divided(params, config).items()}

    # As one program: array by array it is twenty, at 30 ms each.
    return TrainState(jnp.zeros((), jnp.int32), params, variables["batch_stats"], jax.jit(start)(params))
