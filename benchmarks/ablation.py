"""Trains configurations over seeds and prints the ablation table as Markdown.

    python benchmarks/ablation.py --out=runs/ablation [--steps=300] [--seeds=0,1,2] [--parallel=2] [--rows=a,f]

Every row of every seed is a process and a work folder of its own, so an interrupted table continues where it
stopped. mAP, all-search single-shot, of the base feature, the derivative feature and sum4.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import importlib
import json
import os
import queue
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

sys.path.insert(0, str(Path(__file__).parents[1]))  # from a checkout that is not installed

from bdf_jax import cli
from bdf_jax.config import from_dict, vary
from bdf_jax.errors import BdfError

OUT = flags.DEFINE_string("out", None, "Folder of the work folders and of ablation.md and ablation.json.")
STEPS = flags.DEFINE_integer("steps", 300, "Steps of every row but those of equal time.")
SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of training; the world stays the same.")
ROWS = flags.DEFINE_list("rows", [], "Only these rows; default: all.")
PARALLEL = flags.DEFINE_integer("parallel", 2, "Runs side by side, each on its share of the cores.")
ONE = flags.DEFINE_string("one", "", "Train this row alone, in this process.")
SEED = flags.DEFINE_string("seed", "0", "Seed of --one.")
DATA_DIR = flags.DEFINE_string("data_dir", "~/.cache/bdf_jax", "Where the world and its records are.")

LETTERS = "abcdef"
CONTROLS: dict[str, dict[str, Any]] = {
    "f fixed grey derivative": {"model.generator.kind": "gray"},
    "f detached generator": {"model.generator.detach": True},
    "f MDL weight 0.1": {"loss.mdl_weight": 0.1},
    "a MDL weight 0.1": {"loss.mdl_weight": 0.1},
    "f generator rate x 10": {"optimiser.generator_scale": 10.0},
    "f fixed random recolouring h 8": {
        "model.generator.detach": True,
        "model.generator.init": "random",
        "model.generator.hidden": 8,
    },
}


def rows() -> dict[str, tuple[str, float, dict[str, Any]]]:
    """Name of a row -> (letter of its configuration, factor on the steps, changes)."""
    table: dict[str, tuple[str, float, dict[str, Any]]] = {letter: (letter, 1, {}) for letter in LETTERS}
    table |= {f"{letter} mean": (letter, 1, {"loss.reduce": "mean"}) for letter in LETTERS}
    # (a) computes two modalities and (b) three where the others compute four.
    table |= {"a equal time": ("a", 2, {}), "b equal time": ("b", 4 / 3, {})}
    return table | {name: (name[0], 1, changes) for name, changes in CONTROLS.items()}


def train_row(name: str, seed: str, folder: Path) -> None:
    """Trains and evaluates one row with one seed in this process."""
    from bdf_jax.evaluation.workdir import evaluate_workdir
    from bdf_jax.training.loop import run

    letter, factor, changes = rows()[name]
    config = from_dict(importlib.import_module(f"configs.ablation_{letter}").get_config())
    config = vary(
        config,
        {
            "training.steps": round(STEPS.value * factor),
            "training.seed": int(seed),
            "training.log_every": 10,
            "training.checkpoint_every": 10**6,
            "data.dir": DATA_DIR.value,
            "evaluation.baselines": False,
            **changes,
        },
    )
    found: dict = {"row": name, "seed": seed, "steps": config.training.steps, "mAP": {}, "R1": {}}
    for use in ("base", "derivative", "sum4") if letter not in "ab" else ("base",):
        settings = dataclasses.replace(config.evaluation, use=use)
        evaluated = run(config, folder) if use == "base" else evaluate_workdir(folder, config=settings)
        found["mAP"][use], found["R1"][use] = evaluated[0]["mAP"], evaluated[0]["R1"]
        found["chance"] = evaluated[0]["chance_mAP"]
    (folder / "result.json").write_text(json.dumps(found) + "\n")


def row_in_a_process(name: str, seed: str, cores: queue.Queue[list[int]]) -> dict:
    """`train_row` in a process on its own share of the cores; what was found before is only read."""
    folder = Path(OUT.value).expanduser() / f"{name.replace(' ', '_')}-seed{seed}"
    result = folder / "result.json"
    if not result.exists():
        folder.mkdir(parents=True, exist_ok=True)
        share = cores.get()
        command = [sys.executable, __file__, f"--one={name}", f"--seed={seed}", f"--out={OUT.value}"]
        command += [f"--steps={STEPS.value}", f"--data_dir={DATA_DIR.value}"]
        with open(folder / "log.txt", "w") as log:
            done = subprocess.run(
                command, stdout=log, stderr=log, check=False, preexec_fn=lambda: os.sched_setaffinity(0, share)
            )
        cores.put(share)
        if done.returncode:
            raise BdfError(f"{name}, seed {seed} failed; {folder / 'log.txt'} says why")
    return json.loads(result.read_text())


def markdown(results: Sequence[dict]) -> str:
    """Mean and standard deviation over seeds of every row."""

    def cell(name: str, use: str) -> str:
        values = [r["mAP"][use] for r in results if r["row"] == name and use in r["mAP"]]
        if not values:
            return ""
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.1f}{spread}"

    names = list(dict.fromkeys(r["row"] for r in results))
    lines = [f"| row | {' | '.join(('base', 'derivative', 'sum4'))} |", "|---|---|---|---|"]
    lines += [f"| {name} | {' | '.join(cell(name, use) for use in ('base', 'derivative', 'sum4'))} |" for name in names]
    return "\n".join(lines)


def main(_: Sequence[str]) -> None:
    """Runs what is missing and prints the table."""
    out = Path(cli.required(OUT)).expanduser()
    if ONE.value:
        train_row(ONE.value, SEED.value, out / f"{ONE.value.replace(' ', '_')}-seed{SEED.value}")
        return
    names = ROWS.value or list(rows())
    unknown = [name for name in names if name not in rows()]
    if unknown:
        raise BdfError(f"--rows: no row {unknown[0]!r}; the rows are {'; '.join(rows())}")
    out.mkdir(parents=True, exist_ok=True)
    # Seed by seed, so that a table that is stopped early has every row.
    jobs = [(name, seed) for seed in SEEDS.value for name in names]
    # One process on each share of the cores: two runs on one core each waste less than one run on two.
    available = sorted(os.sched_getaffinity(0))
    cores: queue.Queue[list[int]] = queue.Queue()
    for i in range(PARALLEL.value):
        cores.put(available[i :: PARALLEL.value] or available)
    with concurrent.futures.ThreadPoolExecutor(PARALLEL.value) as pool:
        results = []
        for result in pool.map(lambda job: row_in_a_process(*job, cores), jobs):
            results.append(result)
            print(f"{result['row']}, seed {result['seed']}: {result['mAP']}", flush=True)
    (out / "ablation.json").write_text(json.dumps(results, indent=2) + "\n")
    table = markdown(sorted(results, key=lambda r: names.index(r["row"])))
    (out / "ablation.md").write_text(table + "\n")
    print(f"\n{STEPS.value} steps, {len(SEEDS.value)} seeds, chance mAP {results[0]['chance']:.2f}\n\n{table}")


if __name__ == "__main__":
    cli.main(main)
