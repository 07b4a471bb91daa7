"""Two compilers for the one train step: jit over a mesh of all devices, and pmap. Same state, same numbers."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from bdf_jax.config import Config
from bdf_jax.distributed import local
from bdf_jax.errors import BdfError
from bdf_jax.models import Network
from bdf_jax.training.stages import Phase, make_optimisers
from bdf_jax.training.state import TrainState
from bdf_jax.training.step import Metrics, train_step
from bdf_jax.xla import at_risk, check_sums

AXIS = "pairs"


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """A train step for the devices at hand.

    Attributes:
      step: (state, images_NBHWC, labels_N) to (state, metrics), of what the two functions below return. The state
        that goes in is donated.
      place_state: puts a state, equal in all processes, on the devices, a copy on each.
      global_state: the placed state as arrays over all devices of all processes, as checkpoints want it; no copy.
      place_batch: puts this process's share of the pairs on its devices.
      pairs: that share.
    """

    step: Callable[[TrainState, Any, Any], tuple[TrainState, Metrics]]
    place_state: Callable[[TrainState], TrainState]
    global_state: Callable[[TrainState], TrainState]
    place_batch: Callable[[np.ndarray, np.ndarray], tuple[Any, Any]]
    pairs: slice


def compile_step(
    network: Network,
    config: Config,
    phase: Phase,
    steps: int,
    devices: Sequence[jax.Device] | None = None,
) -> CompiledStep:
    """The step of one phase compiled as `training.compiler` says.

    Args:
      network: built for one device (`axis_name` None).
      config: the whole configuration.
      phase: one of `phases(config, steps)`.
      steps: of the whole run.
      devices: None: all of all processes. Under jit they may be those of a machine that is only described, for which
        the step can be compiled and looked at, but not run (`training.analysis`).

    Raises:
      BdfError: the pairs of a batch cannot be shared out evenly.
    """
    if at_risk(config):
        check_sums()
    devices = _by_process(devices or jax.devices())
    pairs, count = config.data.identities * config.data.images, len(devices)
    if pairs % count:
        raise BdfError(
            f"data.identities x data.images: a batch of {config.data.identities} x {config.data.images} = {pairs} "
            f"pairs is not divisible by {count} devices; change either, or use fewer devices"
        )
    if pairs % (count * config.training.slices):
        raise BdfError(
            f"training.slices: a batch of {config.data.identities} x {config.data.images} = {pairs} pairs cannot be "
            f"cut into {config.training.slices} equal slices on {count} device{'s' * (count > 1)}; choose a divisor of "
            f"{pairs // count}"
        )
    compiler = {"jit": _jit, "pmap": _pmap}[config.training.compiler]
    step = functools.partial(train_step, optimisers=make_optimisers(config, steps), config=config, phase=phase)
    return compiler(network, step, devices, pairs)


def _jit(network: Network, step: Callable[..., Any], devices: list[jax.Device], pairs: int) -> CompiledStep:
    mesh = _mesh(devices)
    replicated, shared_out = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(AXIS))
    gather = functools.partial(jax.lax.with_sharding_constraint, shardings=replicated)
    return CompiledStep(
        step=jax.jit(
            functools.partial(step, network=network, gather=gather),
            in_shardings=(replicated, shared_out, shared_out),
            out_shardings=(replicated, replicated),
            donate_argnums=0,
        ),
        place_state=lambda state: jax.tree.map(functools.partial(_everywhere, sharding=replicated), local(state)),
        global_state=lambda state: state,
        place_batch=lambda *arrays: tuple(jax.make_array_from_process_local_data(shared_out, a) for a in arrays),
        pairs=_share(pairs, devices),
    )


def _pmap(network: Network, step: Callable[..., Any], devices: list[jax.Device], pairs: int) -> CompiledStep:
    gather = functools.partial(jax.lax.all_gather, axis_name=AXIS, tiled=True)
    mine = [device for device in devices if device.process_index == jax.process_index()]
    # Any other layout than the one that pmap returns its state in would cost a second compilation.
    replicated = NamedSharding(_mesh(mine), PartitionSpec())
    replicated_globally = NamedSharding(_mesh(devices), PartitionSpec())
    return CompiledStep(
        step=jax.pmap(
            functools.partial(step, network=network.clone(axis_name=AXIS), gather=gather, axis_name=AXIS),
            axis_name=AXIS,
            in_axes=(None, 0, 0),
            out_axes=None,
            devices=devices if devices != jax.devices() else None,
            donate_argnums=0,
        ),
        place_state=lambda state: jax.device_put(local(state), replicated),
        # pmap's arrays are a process's own, and a checkpoint of those is refused.
        global_state=lambda state: jax.tree.map(functools.partial(_same_buffers, sharding=replicated_globally), state),
        place_batch=lambda *arrays: tuple(a.reshape(len(mine), -1, *a.shape[1:]) for a in arrays),
        pairs=_share(pairs, devices),
    )


def _share(pairs: int, devices: list[jax.Device]) -> slice:
    """This process's pairs: those of its devices."""
    mine = [place for place, device in enumerate(devices) if device.process_index == jax.process_index()]
    per_device = pairs // len(devices)
    return slice(mine[0] * per_device, (mine[-1] + 1) * per_device)


def _by_process(devices: Sequence[jax.Device]) -> list[jax.Device]:
    """On a TPU pod the numbers of a host's chips are not consecutive; its share of the batch has to be."""
    return sorted(devices, key=lambda device: (device.process_index, device.id))


def _mesh(devices: list[jax.Device]) -> jax.sharding.Mesh:
    # Not jax.make_mesh: it may reorder devices, and its default axis type, Explicit, refuses a distance between all
    # pairs of rows.
    return jax.sharding.Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


def _everywhere(leaf: jax.Array, sharding: NamedSharding) -> jax.Array:
    if jax.process_count() == 1:
        return jax.device_put(leaf, sharding)
    # device_put would first gather every process's copy to compare them.
    return jax.make_array_from_callback(np.shape(leaf), sharding, lambda index: np.asarray(leaf)[index])


def _same_buffers(leaf: jax.Array, sharding: NamedSharding) -> jax.Array:
    if jax.process_count() == 1:
        return leaf
    return jax.make_array_from_single_device_arrays(leaf.shape, sharding, [s.data for s in leaf.addressable_shards])
