"""What a compiled step costs, read off the compiled program itself: FLOPs, memory, what devices send each other."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from bdf_jax.config import Config
from bdf_jax.losses.terms import wanted_by
from bdf_jax.models import Network
from bdf_jax.training.compile import compile_step
from bdf_jax.training.stages import phases
from bdf_jax.training.state import initial_state
from bdf_jax.views import BASES

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
# `%name = f32[8,4]{1,0} all-gather(...)`; the asynchronous form is `... all-gather-start(...)`.
_INSTRUCTION = re.compile(rf"= (?P<result>.+?) (?P<kind>{'|'.join(KINDS)})(?P<start>-start)?\(")
_ARRAY = re.compile(r"(?P<type>pred|[a-z]+(?P<bits>\d+)[a-z0-9]*)\[(?P<shape>[\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One exchange between devices.

    Attributes:
      kind: one of `KINDS`.
      size: bytes of its result on one device.
    """

    kind: str
    size: int


@dataclasses.dataclass(frozen=True)
class Analysis:
    """One device's part of a compiled step, as its compiler sees it.

    Attributes:
      flops: of one step; a loop's body (`training.slices` > 1) is counted once by most compilers.
      traffic: bytes read and written by all instructions; caches and fusion inside them are not considered.
      arguments: bytes of state and batch.
      temporary: bytes beside those while the step runs.
      collectives: in the order of the program; those of a loop's body once.
    """

    flops: float
    traffic: float
    arguments: int
    temporary: int
    collectives: tuple[Collective, ...]

    def exchanged(self, kind: str) -> int:
        """Bytes of the results of all collectives of one kind."""
        return sum(collective.size for collective in self.collectives if collective.kind == kind)


def analyse(config: Config, num_classes: int, devices: Sequence[jax.Device] | None = None) -> Analysis:
    """Compiles the step of a configuration, runs nothing, and reads the result.

    Args:
      config: `training.compiler` "pmap" only for devices that are there.
      num_classes: C.
      devices: None: all; or those of a described machine, such as
        `jax.experimental.topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices`.

    Raises:
      BdfError: the pairs of a batch cannot be shared out evenly.
    """
    network, steps = Network.of(config, num_classes), 1000
    pmapped = config.training.compiler == "pmap"
    phase = phases(config, steps)[-1]
    compiled = compile_step(network, config, phase, steps, devices)
    state = jax.eval_shape(lambda: initial_state(network, config, pretrained=False))
    N = config.data.identities * config.data.images
    shape = (len(devices or jax.local_devices()), -1) if pmapped else (N,)
    lead = np.empty(N).reshape(shape).shape
    images = jax.ShapeDtypeStruct((*lead, 2, *config.data.image_size, 3), np.uint8)
    program = compiled.step.lower(state, images, jax.ShapeDtypeStruct(lead, np.int32)).compile()  # type: ignore[attr-defined]
    cost, memory = program.cost_analysis(), program.memory_analysis()
    return Analysis(
        flops=float(cost["flops"]),
        traffic=float(cost["bytes accessed"]),
        arguments=int(memory.argument_size_in_bytes),
        temporary=int(memory.temp_size_in_bytes),
        collectives=tuple(collectives(program.as_text())),
    )


def kept_for_the_gradient(config: Config, num_classes: int) -> int:
    """Bytes of activations that the backward pass finds stored, whatever the machine; nothing is compiled.

    What a compiler needs in the end may be less, where it fuses, or more, where it computes too early.
    """
    network = Network.of(config, num_classes)
    pairs = config.data.identities * config.data.images // config.training.slices
    wanted = wanted_by(config.losses.values())
    images = dict.fromkeys(BASES, jax.ShapeDtypeStruct((pairs, *config.data.image_size, 3), np.float32))
    variables = jax.eval_shape(lambda x: network.init(jax.random.key(0), x, train=True), images)

    def pullback(variables: Any, images: dict[str, jax.Array]) -> Any:
        def outputs(params: Any) -> Any:
            variables_now = variables | {"params": params}
            found: Any = network.apply(variables_now, images, train=True, mutable=["batch_stats"], wanted=wanted)
            return found[0]["pooled"], found[0]["logits"], found[0]["codes"]

        return jax.vjp(outputs, variables["params"])[1]

    stored, parameters = (
        sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
        for tree in (jax.eval_shape(pullback, variables, images), variables["params"])
    )
    return stored - parameters


def collectives(program: str) -> list[Collective]:
    """The collectives in the text of a compiled program."""
    found = []
    for match in _INSTRUCTION.finditer(program):
        sizes = [_size(array) for array in _ARRAY.finditer(match["result"])]
        if match["start"] and match["kind"] != "all-reduce":
            sizes = sizes[len(sizes) // 2 :]  # (operands, results)
        found.append(Collective(match["kind"], sum(sizes)))
    return found


def _size(array: re.Match[str]) -> int:
    numbers = [int(n) for n in array["shape"].split(",") if n]
    return int(np.prod(numbers, dtype=np.int64)) * max(1, int(array["bits"] or 8) // 8)
