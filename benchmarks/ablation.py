"""Trains the rows of docs/ablation.md over seeds and prints the table as Markdown.

    python benchmarks/ablation.py --out=runs/ablation [--steps=300] [--seeds=0,1,2] [--rows=a,f]

`python -m bdf_jax ablation --configs=...` does the same for any configurations; the controls here have no file.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

sys.path.insert(0, str(Path(__file__).parents[1]))  # from a checkout that is not installed

from bdf_jax.commands.ablation import run_table
from bdf_jax.commands.compare import seeds
from bdf_jax.commands.configuration import read_config
from bdf_jax.config import vary
from bdf_jax.errors import BdfError
from bdf_jax.methods import ablation
from bdf_jax.parts import Named
from bdf_jax.views import Grey, Pixelwise
from benchmarks import command

OUT = flags.DEFINE_string("out", None, "Folder of the work folders and of ablation.md and ablation.json.")
STEPS = flags.DEFINE_integer("steps", 300, "Steps of every row but those of equal time.")
SEEDS = flags.DEFINE_string("seeds", "0,1,2", "Seeds of training; the world stays the same.")
ROWS = flags.DEFINE_list("rows", [], "Only these rows; default: all.")
DATA_DIR = flags.DEFINE_string("data_dir", "~/.cache/bdf_jax", "Where the world and its records are.")

LETTERS = "".join(ablation.ROWS)
RANDOM = Pixelwise(hidden=8, init="random")


def both(field: str, value: Any) -> dict[str, Any]:
    """A field of both derivatives."""
    return {f"views.{name}.{field}": value for name in ("Dv", "Di")}


CONTROLS: dict[str, dict[str, Any]] = {
    "f fixed grey derivative": both("by", Grey()),
    "f detached generator": both("detach", True),
    "f MDL weight 0.1": {"losses.mdl.weight": 0.1},
    "a MDL weight 0.1": {"losses.mdl.weight": 0.1},
    "f generator rate x 10": {"optimiser.scales": Named(views=10.0)},
    "f fixed random recolouring h 8": {**both("detach", True), **both("by", RANDOM)},
}
MEAN = {f"losses.{name}.reduce": "mean" for name in ("did", "mml", "mdl")}


def rows() -> dict[str, tuple[str, float, dict[str, Any]]]:
    """Name of a row -> (letter of its configuration, factor on the steps, changes)."""
    table: dict[str, tuple[str, float, dict[str, Any]]] = {letter: (letter, 1, {}) for letter in LETTERS}
    table |= {f"{letter} mean": (letter, 1, MEAN) for letter in LETTERS}
    # (a) computes two modalities and (b) three where the others compute four.
    table |= {"a equal time": ("a", 2, {}), "b equal time": ("b", 4 / 3, {})}
    return table | {name: (name[0], 1, changes) for name, changes in CONTROLS.items()}


def configuration(name: str) -> Any:
    """Of one row."""
    letter, factor, changes = rows()[name]
    settings = {
        "training.steps": round(STEPS.value * factor),
        "training.log_every": 10,
        "data.dir": DATA_DIR.value,
        "evaluation.baselines": False,
    }
    return vary(read_config(f"demo:ablation_{letter}", []), settings | changes)


def main(_: Sequence[str]) -> None:
    """Runs what is missing and prints the table."""
    names = ROWS.value or list(rows())
    unknown = [name for name in names if name not in rows()]
    if unknown:
        raise BdfError(f"--rows: no row {unknown[0]!r}; the rows are {'; '.join(rows())}")
    run_table({name: configuration(name) for name in names}, seeds(SEEDS.value), Path(command.required(OUT)))


if __name__ == "__main__":
    command.main(main)
