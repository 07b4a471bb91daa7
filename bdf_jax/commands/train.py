"""`python -m bdf_jax train --config=demo --workdir=runs/demo`: trains and evaluates."""

from __future__ import annotations

import argparse

from bdf_jax import launch
from bdf_jax.commands.configuration import add_config, read_config

TAKES_CONFIG = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    add_config(parser)
    parser.add_argument(
        "--workdir", required=True, metavar="DIR", help="of the run: checkpoints, metrics.jsonl; made where missing"
    )
    launch.add_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    """Checks the configuration, then trains what is left to train."""
    config = read_config(arguments.config, arguments.overrides)
    from bdf_jax.training.preemption import preemptible

    with launch.joined(arguments), preemptible():
        from bdf_jax.training.loop import run as train

        train(config, arguments.workdir)
