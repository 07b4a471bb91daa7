"""A step on 8 to 4,096 devices, on paper: what is computed, what is sent, where it stops scaling.

  python benchmarks/scaling.py [--config=configs/sysu_mm01.py] [--accelerator=v5e|v6e|h100] [--json=OUT]
  python benchmarks/scaling.py --check [--devices=2,4,8]      the formulas beside compiled programs for fake devices

The table is CALCULATED, from the assumptions that docs/scaling.md names. With --check nothing is assumed: a small
network is compiled for 2, 4 and 8 devices, and the bytes of its collectives are compared with the formulas; exit code 1
where they differ by more than a hundredth.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

sys.path.insert(0, str(Path(__file__).parents[1]))  # from a checkout that is not installed

from bdf_jax.commands.configuration import read_config
from bdf_jax.config import Config, vary
from bdf_jax.data.world.plan import FULL_SIZE
from bdf_jax.models.trunk import Tiny
from benchmarks import command

CONFIG = command.define_config()
ACCELERATOR = flags.DEFINE_enum("accelerator", "v5e", ["v5e", "v6e", "h100"], "Whose rates.")
CHECK = flags.DEFINE_boolean("check", False, "Compare the formulas with compiled programs instead.")
DEVICES = flags.DEFINE_list("devices", ["2", "4", "8"], "With --check: how many.")
JSON = flags.DEFINE_string("json", "", "Write the table to this file.")


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """Datasheet rates; sources in benchmarks/roofline.py and docs/scaling.md.

    Attributes:
      flops: FLOP/s in bfloat16.
      link: bytes/s that one device can send while it receives as much, inside a pod or a machine.
      group: devices that such links connect.
      outside: the same between groups.
      host: devices of one host.
    """

    flops: float
    link: float
    group: int
    outside: float
    host: int


ACCELERATORS = {
    "v5e": Accelerator(197e12, 200e9, 256, 3.1e9, 8),  # 2 x 100 Gbit/s for the 8 chips of a host
    "v6e": Accelerator(918e12, 400e9, 256, 12.5e9, 8),  # 4 x 200 Gbit/s
    "h100": Accelerator(989.4e12, 450e9, 8, 50e9, 8),  # one 400 Gbit/s adapter a GPU
}
REACHED = 0.4  # assumed share of the peak that convolutions and all between them reach
LATENCY, LATENCY_OUTSIDE = 10e-6, 50e-6  # assumed seconds of one small collective, inside a group and between groups
DECODED = 1000.0  # assumed images a second that one core decodes (benchmarks/input.py measures it)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What the formulas need to know of a network.

    Attributes:
      parameters: their number.
      channels: of all batch normalisations together.
      layers: batch normalisations.
      features: length of a feature.
      flops: of a pair's forward and backward pass.
    """

    parameters: int
    channels: int
    layers: int
    features: int
    flops: float


def main(_: Sequence[str]) -> int:
    """Prints the table, or the comparison."""
    if CHECK.value:
        os.environ["JAX_NUM_CPU_DEVICES"] = str(max(map(int, DEVICES.value)))
    from bdf_jax.evaluation.table import write_json
    from benchmarks.tables import markdown

    config = command.configuration(CONFIG, "sysu_mm01")
    config = vary(config, {"network.pretrained": ""})
    rows = [checked(int(count)) for count in DEVICES.value] if CHECK.value else table(config)
    print(markdown(rows))
    if JSON.value:
        write_json(JSON.value, rows)
    return 0 if all(row.get("difference", 0) <= 0.01 for row in rows) else 1


def sizes_of(config: Config, classes: int, flops: float) -> Sizes:
    """Counted from the shapes of the network's variables."""
    import jax
    import jax.numpy as jnp

    from bdf_jax.models import Network, feature_size

    images = dict.fromkeys("VI", jax.ShapeDtypeStruct((1, *config.data.image_size, 3), jnp.float32))
    network = Network.of(config, classes)
    variables = jax.eval_shape(lambda x: network.init(jax.random.key(0), x, train=True), images)
    statistics = jax.tree.leaves(variables["batch_stats"])
    return Sizes(
        parameters=sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
        channels=sum(leaf.size for leaf in statistics) // 2,
        layers=len(statistics) // 2,
        features=feature_size(config.network),
        flops=flops,
    )


def gathered(sizes: Sizes, pairs: int) -> int:
    """Bytes of the features of all four modalities of all pairs, which every device holds for the losses.

    And of two moments of every image, from which the deviation of the derivatives is watched.
    """
    return pairs * 4 * (sizes.features + 2) * 4


def reduced(sizes: Sizes) -> int:
    """Bytes of gradients, and of two sums a channel in each batch normalisation's forward pass.

    The two sums of its backward pass are the gradients of scale and offset themselves.
    """
    return 4 * (sizes.parameters + 2 * sizes.channels)


def mining(sizes: Sizes, pairs: int) -> float:
    """FLOPs of the distances of four MML edges, forward and backward, which every device computes in full."""
    return 3 * 4 * 2 * pairs**2 * sizes.features


def table(config: Config) -> list[dict[str, Any]]:
    """One row a number of devices; four pairs a device as long as identities last."""
    import jax

    from bdf_jax.training.analysis import analyse

    classes, chip = FULL_SIZE[config.data.dataset][0], ACCELERATORS[ACCELERATOR.value]
    small = vary(config, {"data.identities": 2, "data.images": 2})
    sizes = sizes_of(config, classes, analyse(small, classes, jax.devices()[:1]).flops / 4)
    return [modelled(sizes, count, classes, chip) for count in (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)]


def modelled(sizes: Sizes, devices: int, classes: int, chip: Accelerator) -> dict[str, Any]:
    """The row of one number of devices."""
    each = 4
    while (images := -(-each * devices // classes)) > 8 and each > 1:
        each //= 2  # fewer pairs a device, rather than more than eight images of every identity
    pairs = each * devices
    groups = -(-devices // chip.group)
    inside = min(devices, chip.group)
    compute = each * sizes.flops / (REACHED * chip.flops)
    mine = mining(sizes, pairs) / (REACHED * chip.flops)
    # Ring algorithms, twice over for a sum (scatter and gather) and for features (forward, and backward at most as
    # much); between groups each device carries its share of what its group has to say.
    sent = 2 * (reduced(sizes) + gathered(sizes, pairs))
    send = sent * (inside - 1) / inside / chip.link + sent * (groups - 1) / groups / inside / chip.outside
    wait = (2 * sizes.layers + 2) * (LATENCY + (LATENCY_OUTSIDE if groups > 1 else 0))
    step = compute + mine + send + wait
    hosts = max(1, devices // chip.host)
    return {
        "devices": devices,
        "pairs": pairs,
        "images of an identity, at least": images,
        "compute, ms": 1e3 * compute,
        "mining, ms": 1e3 * mine,
        "features, MB": gathered(sizes, pairs) / 1e6,
        "gradients and statistics, MB": reduced(sizes) / 1e6,
        "sending, ms": 1e3 * send,
        "latencies, ms": 1e3 * wait,
        "efficiency": compute / step,
        "images/s of a host": 2 * pairs / step / hosts,
        "cores decoding": 2 * pairs / step / hosts / DECODED,
    }


def checked(count: int) -> dict[str, Any]:
    """Formulas beside the compiled program of a small network on so many fake devices."""
    import jax

    from bdf_jax.training.analysis import analyse

    changes = {"network.trunk": Tiny(), "data.image_size": (32, 16), "data.identities": 8, "data.images": 2}
    config = vary(read_config("sysu_mm01", []), changes)
    analysis = analyse(config, 9, jax.devices()[:count])
    sizes = sizes_of(config, 9, 0.0)
    expected = {"all-gather": gathered(sizes, 16), "all-reduce": reduced(sizes)}
    found = {kind: analysis.exchanged(kind) for kind in expected}
    return {
        "devices": count,
        "features, formula": expected["all-gather"],
        "gathered, compiled": found["all-gather"],
        "gradients and statistics, formula": expected["all-reduce"],
        "reduced, compiled": found["all-reduce"],
        "difference": max(abs(found[kind] / expected[kind] - 1) for kind in expected),
    }


if __name__ == "__main__":
    command.main(main)
