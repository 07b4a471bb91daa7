"""What a method costs: parameters, work for an image, time and memory of a step."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bdf_jax.checkpoints import load_metadata
from bdf_jax.config import Config, NetworkConfig, RetrieveConfig
from bdf_jax.models import Network
from bdf_jax.parts import Named
from bdf_jax.training.compile import compile_step
from bdf_jax.training.stages import phases
from bdf_jax.training.state import initial_state
from bdf_jax.views import View

STEPS = 10  # timed, after two that are not


def of_network(
    views: Named[View], network: NetworkConfig, retrieve: RetrieveConfig, size: tuple[int, int], classes: int
) -> dict[str, Any]:
    """`parameters` (classifier and critics included) and `gflop`; nothing is computed.

    GFLOP are those of the feature of one visible image, as XLA counts: 2 for a product and its addition.

    Args:
      views, network, retrieve: sections of a configuration.
      size: (height, width), pixels.
      classes: of the classifier.
    """
    from bdf_jax.evaluation.features import make_embed

    variables = shapes(views, network, size, classes)
    image = jax.ShapeDtypeStruct((1, *size, 3), "uint8")
    embed: Any = make_embed(Network(views, network, classes), retrieve)
    flops = embed.lower(variables, image, 0).cost_analysis()["flops"]
    return {"parameters": count(variables), "gflop": round(flops / 1e9, 4)}


def shapes(views: Named[View], network: NetworkConfig, size: tuple[int, int], classes: int) -> Any:
    """The variables of a network without their numbers."""
    module = Network(views, network, classes)
    image = jax.ShapeDtypeStruct((1, *size, 3), "float32")
    return jax.eval_shape(lambda x: module.init(jax.random.key(0), {"V": x, "I": x}, train=True), image)


def count(variables: Mapping[str, Any]) -> int:
    """How many parameters there are."""
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def measure(workdir: str | Path) -> dict[str, Any]:
    """What a run's network and step cost on this machine: `of_network`, and time and memory of a step.

    The step is that of the last stage, on random images: `seconds` is the median of ten, `memory` the bytes that the
    compiler says one device needs for state, batch and all between.
    """
    metadata = load_metadata(workdir)
    config: Config = metadata.config
    network = Network.of(config, metadata.num_classes)
    compiled = compile_step(network, config, phases(config, 1000)[-1], 1000)
    state = compiled.place_state(initial_state(network, config, pretrained=False))
    rng, pairs = np.random.default_rng(0), config.data.identities * config.data.images
    images = rng.integers(0, 256, (pairs, 2, *config.data.image_size, 3), np.uint8)
    labels = np.repeat(np.arange(config.data.identities, dtype=np.int32), config.data.images)
    batch = compiled.place_batch(images, labels)
    program: Any = compiled.step.lower(state, *batch).compile()  # type: ignore[attr-defined]
    memory = program.memory_analysis()
    seconds = []
    for _ in range(STEPS + 2):
        began = time.perf_counter()
        state, metrics = program(state, *batch)
        jax.block_until_ready((state, metrics))
        seconds.append(time.perf_counter() - began)
    section = of_network(config.views, config.network, config.retrieve, config.data.image_size, metadata.num_classes)
    return section | {
        "seconds": statistics.median(seconds[2:]),
        "memory": int(memory.argument_size_in_bytes + memory.temp_size_in_bytes),
    }
