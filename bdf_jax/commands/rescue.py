"""python -m bdf_jax rescue --workdir=DIR: checkpoints whose arrays were saved, and the list of them was not."""

from __future__ import annotations

import argparse

from bdf_jax.errors import BdfError
from bdf_jax.paths import local_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("--workdir", required=True, metavar="DIR", help="of the training run")


def run(arguments: argparse.Namespace) -> None:
    """Says of each checkpoint what became of it; raises BdfError where one cannot be rescued."""
    from bdf_jax.checkpoints import rescue  # after the flags are checked: this imports JAX

    found = rescue(local_path(arguments.workdir, "--workdir").absolute())
    for step, outcome in found.items():
        print(f"checkpoint of step {step}: {outcome}")
    lost = [step for step, outcome in found.items() if outcome not in ("rescued", "whole before")]
    if lost:
        raise BdfError(f"--workdir={arguments.workdir}: {len(lost)} of {len(found)} checkpoints cannot be rescued")
