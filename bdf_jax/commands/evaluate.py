"""Evaluates a trained network or a feature file under the protocols of its data set: a table, and JSON if asked.

evaluate --workdir=DIR [--step=N] [--use=base] [--json=OUT] [--report=DIR]
evaluate --features=F.npz --dataset=sysu_mm01 [--mode=all] [--shots=1] [--gallery=official] [--json=OUT]
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from bdf_jax import launch
from bdf_jax.commands.configuration import add_retrieve
from bdf_jax.errors import BdfError
from bdf_jax.output import check_output
from bdf_jax.paths import check_local, check_place

# Flags of one of the two alone.
OF_RUN = ("step", "feature", "use", "flip_tta", "batch_size", "baselines", "save_features", "data_dir")
OF_FILE = ("compare",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""

    def words(text: str) -> list[str]:
        return [word for word in text.split(",") if word]

    of_run = parser.add_argument_group("a trained network")
    of_run.add_argument("--workdir", default="", metavar="DIR", help="of a training run, or one of its checkpoints")
    of_run.add_argument(
        "--step", type=int, metavar="N", help="which checkpoint; default: the best on validation, or the last"
    )
    add_retrieve(of_run)
    of_run.add_argument("--batch-size", type=int, metavar="N", help="images on the devices at a time")
    of_run.add_argument(
        "--baselines",
        action=argparse.BooleanOptionalAction,
        help="also chance, raw pixels, edges, the untrained network",
    )
    of_run.add_argument("--save-features", default="", metavar="FILE.npz", help="the features of the test images")
    of_run.add_argument("--data-dir", default="", metavar="DIR", help="where prepared records and worlds are now")
    of_file = parser.add_argument_group("feature files")
    of_file.add_argument(
        "--features", default="", metavar="FILE.npz", help="for RegDB's ten trials ten, or {trial} in the name"
    )
    of_file.add_argument("--compare", default="", metavar="FILE.npz", help="of the same images: print the differences")
    parser.add_argument(
        "--similarity",
        default="",
        help="cosine, euclidean or (of a file) dot; default: the method's or the file's, or cosine",
    )
    parser.add_argument("--dataset", default="", help="sysu_mm01, regdb or llcm: the protocol of --features")
    parser.add_argument(
        "--root", default="", metavar="TREE", help="the tree: of --features; for --workdir where it is now"
    )
    parser.add_argument("--white", type=float, help="what is white in images of more than 8 bits; default: as trained")
    parser.add_argument("--black", type=float, help="likewise: what is black")
    parser.add_argument("--mode", type=words, default=[], help="SYSU-MM01: all, indoor; default: both")
    parser.add_argument("--shots", type=words, default=[], help="SYSU-MM01: 1, 10; default: both")
    parser.add_argument("--gallery", type=words, default=[], help="SYSU-MM01: official, agw; default: both")
    parser.add_argument("--direction", type=words, default=[], help="such as visible_to_thermal; default: all")
    parser.add_argument("--trial", type=int, metavar="T", help="only this one: 0..9; for RegDB 1..10, the split")
    parser.add_argument(
        "--rerank", action=argparse.BooleanOptionalAction, default=False, help="k-reciprocal (k1 20, k2 6, lambda 0.3)"
    )
    parser.add_argument(
        "--own", action="store_true", help="evaluate what is not wholly the published test set, as one of your own"
    )
    parser.add_argument("--report", default="", metavar="DIR", help="a page with curves, histograms and pictures")
    parser.add_argument("--json", default="", metavar="FILE", help="write the rows to this file")
    launch.add_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    """Prints the table of what was asked for."""
    if bool(arguments.features) == bool(arguments.workdir):
        raise BdfError("give either --workdir=DIR, or --features=FILE.npz and --dataset=sysu_mm01|regdb|llcm")
    other, flags = ("--workdir", OF_RUN) if arguments.features else ("--features", OF_FILE)
    for flag in flags:
        if getattr(arguments, flag) not in (None, ""):
            raise BdfError(f"--{flag.replace('_', '-')}: goes with {other}=..., which is not given")
    if arguments.report:
        from bdf_jax.evaluation.report import check_folder

        check_folder(arguments.report)  # before the work, as the others
    for flag in ("json", "save_features"):
        if getattr(arguments, flag):
            check_output(getattr(arguments, flag), "--" + flag.replace("_", "-"))
    check_place("--workdir", arguments.workdir)
    for flag in ("root", "data_dir"):
        check_local("--" + flag.replace("_", "-"), [getattr(arguments, flag)])
    for flag in ("features", "compare"):
        check_local(f"--{flag}", getattr(arguments, flag).split(","))
    if arguments.features:
        _evaluate_features(arguments)  # ranking alone: nothing to share out
        return
    with launch.joined(arguments):
        _evaluate_workdir(arguments)


def _chosen(arguments: argparse.Namespace) -> dict[str, Any]:
    """Protocols that were asked for."""
    from bdf_jax.evaluation import feature_rows

    return {
        "modes": arguments.mode or None,
        "shots": feature_rows.parse_shots(arguments.shots) or None,
        "galleries": arguments.gallery or None,
        "directions": arguments.direction or None,
    }


def _evaluate_workdir(arguments: argparse.Namespace) -> None:
    from bdf_jax.checkpoints import load_metadata  # after the flags are checked: this imports JAX
    from bdf_jax.config import vary
    from bdf_jax.evaluation.workdir import evaluate_workdir

    changes = {
        "retrieve.feature": arguments.feature,
        "retrieve.use": arguments.use,
        "retrieve.flip_tta": arguments.flip_tta,
        "retrieve.similarity": arguments.similarity or None,
        "evaluation.baselines": arguments.baselines,
        "evaluation.batch_size": arguments.batch_size,
        "data.dataset": arguments.dataset or None,
        "data.root": arguments.root or None,
        "data.dir": arguments.data_dir or None,
        "data.trial": arguments.trial,
        "data.white": arguments.white,
        "data.black": arguments.black,
    }
    config = load_metadata(arguments.workdir, arguments.step).config
    evaluate_workdir(
        arguments.workdir,
        step=arguments.step,
        config=vary(config, {name: value for name, value in changes.items() if value is not None}),
        rerank=arguments.rerank,
        own=arguments.own,
        features_file=arguments.save_features,
        rows_file=arguments.json,
        report=arguments.report,
        **_chosen(arguments),
    )


def _evaluate_features(arguments: argparse.Namespace) -> None:
    from bdf_jax.data.levels import Levels
    from bdf_jax.evaluation import feature_rows, table  # after the flags are checked: this imports JAX

    if not arguments.dataset:
        raise BdfError("--features: which protocol? Give --dataset=sysu_mm01, regdb or llcm")
    asked: dict[str, Any] = {
        "compare": arguments.compare,
        "root": arguments.root,
        "trial": arguments.trial,
        "similarity": arguments.similarity or None,
        "rerank": arguments.rerank,
        "own": arguments.own,
        **_chosen(arguments),
    }
    levels = Levels.of(arguments.white, arguments.black, "--")
    rows = feature_rows.evaluate_files(arguments.dataset, arguments.features, **asked)
    notes = feature_rows.notes(rows)
    if arguments.json:
        table.write_json(arguments.json, rows)
    table.print_table(rows)
    table.print_differences(rows)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    if arguments.report:
        from bdf_jax.evaluation.report.sources import report_features

        page = report_features(
            arguments.report, rows, arguments.dataset, arguments.features, notes=notes, levels=levels, **asked
        )
        print(f"report: {page}")
