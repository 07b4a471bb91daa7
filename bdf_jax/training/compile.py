"""Two compilers for the one train step: jit over a mesh of all devices, and pmap. Same state, same numbers."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from bdf_jax.config import Config
from bdf_jax.errors import BdfError
from bdf_jax.models import Network
from bdf_jax.training.state import TrainState
from bdf_jax.training.step import Metrics, train_step

AXIS = "pairs"


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """A train step for the devices at hand.

    Attributes:
      step: (state, images_NBHWC, labels_N) to (state, metrics), of what the two functions below return. The state
        that goes in is donated.
      place_state: puts a state on the devices, a copy on each.
      place_batch: puts this process's share of the pairs on its devices.
    """

    step: Callable[[TrainState, Any, Any], tuple[TrainState, Metrics]]
    place_state: Callable[[TrainState], TrainState]
    place_batch: Callable[[np.ndarray, np.ndarray], tuple[Any, Any]]


def compile_step(network: Network, optimiser: optax.GradientTransformation, config: Config) -> CompiledStep:
    """The step compiled as `training.compiler` says, over all devices of all processes.

    Raises:
      BdfError: the pairs of a batch cannot be shared out evenly.
    """
    pairs, devices = config.data.identities * config.data.images, jax.device_count()
    if pairs % devices:
        raise BdfError(
            f"data.identities x data.images: a batch of {config.data.identities} x {config.data.images} = {pairs} "
            f"pairs is not divisible by {devices} devices; change either, or use fewer devices"
        )
    if pairs % (devices * config.training.slices):
        raise BdfError(
            f"training.slices: a batch of {config.data.identities} x {config.data.images} = {pairs} pairs cannot be cut "
            f"into {config.training.slices} equal slices on {devices} device{'s' * (devices > 1)}; choose a divisor of "
            f"{pairs // devices}"
        )
    compiler = {"jit": _jit, "pmap": _pmap}[config.training.compiler]
    return compiler(network, functools.partial(train_step, optimiser=optimiser, config=config))


def _jit(network: Network, step: Callable[..., Any]) -> CompiledStep:
    mesh = _mesh(jax.devices())
    replicated, shared_out = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(AXIS))
    gather = functools.partial(jax.lax.with_sharding_constraint, shardings=replicated)
    return CompiledStep(
        step=jax.jit(
            functools.partial(step, network=network, gather=gather),
            in_shardings=(replicated, shared_out, shared_out),
            out_shardings=(replicated, replicated),
            donate_argnums=0,
        ),
        place_state=lambda state: jax.device_put(state, replicated),
        place_batch=lambda *arrays: tuple(jax.make_array_from_process_local_data(shared_out, a) for a in arrays),
    )


def _pmap(network: Network, step: Callable[..., Any]) -> CompiledStep:
    gather = functools.partial(jax.lax.all_gather, axis_name=AXIS, tiled=True)
    devices = jax.local_device_count()
    # Any other layout than the one that pmap returns its state in would cost a second compilation.
    replicated = NamedSharding(_mesh(jax.local_devices()), PartitionSpec())
    return CompiledStep(
        step=jax.pmap(
            functools.partial(step, network=network.clone(axis_name=AXIS), gather=gather, axis_name=AXIS),
            axis_name=AXIS,
            in_axes=(None, 0, 0),
            out_axes=None,
            donate_argnums=0,
        ),
        place_state=lambda state: jax.device_put(state, replicated),
        place_batch=lambda *arrays: tuple(a.reshape(devices, -1, *a.shape[1:]) for a in arrays),
    )


def _mesh(devices: list[jax.Device]) -> jax.sharding.Mesh:
    # Axis types are named because make_mesh's default, Explicit, refuses a distance between all pairs of rows.
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)
