"""python -m bdf_jax plot runs/a runs/b --out=curves.png [--metrics=loss,accuracy] [--smooth=0.02]."""

from __future__ import annotations

import argparse

from bdf_jax.training.curves import choose, draw_curves, read_curves


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("workdirs", nargs="+", metavar="WORKDIR", help="work folders of runs, running or finished")
    parser.add_argument("--out", required=True, metavar="FILE.png", help="the picture")
    parser.add_argument(
        "--metrics",
        default="",
        metavar="NAME,...",
        help="as in metrics.jsonl, a panel each; `accuracy` is all of accuracy/... (default: the usual ones)",
    )
    parser.add_argument(
        "--smooth", type=float, default=0.02, metavar="SHARE", help="width of the average, share of the run; 0: none"
    )


def run(arguments: argparse.Namespace) -> None:
    """Draws the curves and prints where they are."""
    runs = read_curves(arguments.workdirs)
    metrics = choose(runs, [name.strip() for name in arguments.metrics.split(",") if name.strip()])
    print(draw_curves(runs, metrics, arguments.out, smooth=arguments.smooth))
