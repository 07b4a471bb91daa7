"""Memory and FLOPs of the compiled step, as the compiler itself sees it; nothing is run.

  python benchmarks/compiled.py [--configs=configs/demo.py,...] [--pairs=P,K] [--size=H,W] [--variants] [--json=OUT]
  python benchmarks/compiled.py --topology=v5e:2x2       for a TPU that is not there (needs the package libtpu)

One row a configuration; with --variants one row for each way to fit a smaller memory: rematerialisation by block and
by stage, slices, bfloat16. "kept" are the activations stored for the gradient according to JAX, on any machine;
"temporary" is what this compiler allocates beside state and batch. XLA for CPU does not wait with a rematerialisation
until the gradient comes by, so only the slices and bfloat16 show there; XLA for TPU and GPU does.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

sys.path.insert(0, str(Path(__file__).parents[1]))  # from a checkout that is not installed

from bdf_jax.commands.compare import row_name
from bdf_jax.commands.configuration import read_config
from bdf_jax.config import Config, vary
from bdf_jax.data.world.plan import FULL_SIZE
from bdf_jax.errors import BdfError
from benchmarks import command

STANDARD = ["configs/demo.py", "configs/sysu_mm01.py", "configs/sysu_mm01.py:agw", "configs/regdb.py"]

CONFIGS = flags.DEFINE_list("configs", STANDARD, "Configuration files.")
PAIRS = flags.DEFINE_list("pairs", [], "P and K instead of the configuration's.")
SIZE = flags.DEFINE_list("size", [], "Height and width instead of the configuration's, pixels.")
DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of the convolutions.")
VARIANTS = flags.DEFINE_boolean("variants", False, "Also rematerialisation, slices and bfloat16.")
TOPOLOGY = flags.DEFINE_string("topology", "", "TPU to compile for, such as v5e:2x2; default: the devices at hand.")
DEVICES = flags.DEFINE_integer("devices", 0, "How many of them; 0: all.", 0)
JSON = flags.DEFINE_string("json", "", "Write the table to this file.")

CHANGES: tuple[dict[str, Any], ...] = (
    {"network.remat": "block"},
    {"network.remat": "stage"},
    {"training.slices": 2},
    {"training.slices": 4},
    {"network.dtype": "bfloat16"},
    {"network.dtype": "bfloat16", "network.remat": "block"},
)


def main(_: Sequence[str]) -> None:
    """Compiles every row and prints the table."""
    import jax

    from bdf_jax.evaluation.table import write_json
    from benchmarks.tables import markdown

    devices = described(TOPOLOGY.value) if TOPOLOGY.value else jax.devices()
    if DEVICES.value > len(devices):
        raise BdfError(f"--devices: expected at most the {len(devices)} there are, found {DEVICES.value}")
    devices = devices[: DEVICES.value or len(devices)]
    rows = []
    for path in CONFIGS.value:
        for change in ({}, *CHANGES) if VARIANTS.value else ({},):
            rows.append(row(path, change, devices))
            print(markdown(rows[-1:], header=len(rows) == 1), flush=True)
    if JSON.value:
        write_json(JSON.value, rows)


def described(topology: str) -> list[Any]:
    """The devices of a TPU that is not there.

    Raises:
      BdfError: libtpu is missing, or knows no such topology.
    """
    # libtpu asks the cloud where it is running, and waits for the answer, unless it is told.
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"}
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    import jax

    jax.config.update("jax_platforms", "cpu")  # the compiler alone is wanted
    from jax.experimental import topologies

    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)
    except Exception as error:
        line = str(error).strip().splitlines()[0][:200]
        raise BdfError(
            f"--topology={topology}: the TPU compiler says: {line}; it is in the package libtpu (pip install "
            '".[tpu]"), and topologies are written like v5e:2x2 or v6e:4x4'
        ) from error


def experiment(path: str) -> Config:
    """The configuration of a file with this command line's batch, size and type."""
    config = read_config(path, [])
    changes: dict[str, Any] = {"network.pretrained": "", "network.dtype": DTYPE.value}
    if PAIRS.value:
        changes |= dict(zip(("data.identities", "data.images"), map(int, PAIRS.value), strict=True))
    if SIZE.value:
        changes["data.image_size"] = tuple(map(int, SIZE.value))
    return vary(config, changes)


def row(path: str, change: dict[str, Any], devices: list[Any]) -> dict[str, Any]:
    """One line of the table."""
    from bdf_jax.training.analysis import analyse, kept_for_the_gradient

    config = vary(experiment(path), change)
    classes = config.data.world.train_ids or FULL_SIZE[config.data.dataset][0]
    analysis = analyse(config, classes, devices)
    H, W = config.data.image_size
    return {
        "config": row_name(path),
        "change": ", ".join(f"{name.split('.')[1]} {value}" for name, value in change.items()) or "-",
        "device": f"{len(devices)} {devices[0].device_kind}",
        "batch": f"{config.data.identities} x {config.data.images}, {H}x{W}",
        "GFLOP": analysis.flops / 1e9,
        "kept, GB": kept_for_the_gradient(config, classes) / len(devices) / 1e9,
        "temporary, GB": analysis.temporary / 1e9,
        "arguments, GB": analysis.arguments / 1e9,
        "exchanged, MB": sum(collective.size for collective in analysis.collectives) / 1e6,
    }


if __name__ == "__main__":
    command.main(main)
