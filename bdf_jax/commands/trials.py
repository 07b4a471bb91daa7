"""python -m bdf_jax trials --config=configs/regdb.py --workdir=runs/regdb: RegDB's ten networks, one after another."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping
from typing import Any

from bdf_jax.commands.configuration import read_config, reject_set
from bdf_jax.comparison.jobs import Job, run_jobs
from bdf_jax.comparison.tables import markdown, spread
from bdf_jax.config import vary
from bdf_jax.errors import BdfError
from bdf_jax.evaluation.statistics import METRICS
from bdf_jax.output import check_output, write_json
from bdf_jax.paths import local_path

TAKES_CONFIG = True
NAMES = ("direction", "mode", "shots", "gallery")  # what makes a row's protocol


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("--config", required=True, metavar="FILE", help="change fields with --config.SECTION.FIELD=V")
    parser.add_argument("--workdir", required=True, metavar="DIR", help="trial t is trained in DIR/trial-t")
    parser.add_argument("--trials", default="1,2,3,4,5,6,7,8,9,10", metavar="T,...", help="default: all ten")
    parser.add_argument("--json", default="", metavar="FILE", help="default: trials.json in the folder")


def run(arguments: argparse.Namespace) -> None:
    """Trains and evaluates each trial, then prints mean and deviation."""
    reject_set(arguments.overrides, "data.trial", "the command sets it; choose with --trials=1,2")
    config = read_config(arguments.config, arguments.overrides)
    if config.data.dataset != "regdb":
        raise BdfError(
            f"trials: only RegDB has fixed trials, found data.dataset {config.data.dataset!r}; for seeds of another "
            "data set use `python -m bdf_jax ablation --configs=FILE --seeds=0,1,2`"
        )
    trials = _numbers(arguments.trials)
    folder = local_path(arguments.workdir, "--workdir", utf8=True).absolute()
    path = check_output(arguments.json, "--json") if arguments.json else folder / "trials.json"
    jobs = [Job(f"trial {t}", folder / f"trial-{t}", vary(config, {"data.trial": t})) for t in trials]
    results, failures = run_jobs(jobs)
    summary = {"config": arguments.config, "trials": trials, "rows": summarise(results, config.retrieve.use)}
    if results:
        write_json(path, summary)  # before it is printed, which may fail
        print(table(summary["rows"]))
        print(f"{path}")
    if failures:
        raise BdfError("; ".join(failures) + "; the same command does only what is missing")


def summarise(results: Mapping[str, Any], use: str) -> list[dict[str, Any]]:
    """Mean, standard deviation (n - 1) and single values over trials, for every model and protocol."""
    found: dict[tuple, dict[str, dict[str, Any]]] = {}
    for name, result in results.items():
        for row in result["rows"][use]:
            found.setdefault((row["model"], *(row.get(part) for part in NAMES)), {})[name] = row
    summary = []
    for key, rows in found.items():
        entry: dict[str, Any] = {"model": key[0], **dict(zip(NAMES, key[1:], strict=True)), "trials": len(rows)}
        for metric in METRICS:
            values = [row[metric] for row in rows.values()]
            entry[metric] = statistics.mean(values)
            entry[f"{metric}_std"] = statistics.stdev(values) if len(values) > 1 else None
        entry["per_trial"] = [
            {"trial": int(name.split()[-1]), **{metric: row[metric] for metric in METRICS}}
            for name, row in rows.items()
        ]
        summary.append(entry)
    return summary


def table(rows: list[dict[str, Any]]) -> str:
    """The summary in Markdown: mean ± standard deviation over trials, and every trial of what was trained."""
    lines = []
    for row in rows:
        label = f"{row['model']}, {row['direction']}"
        values = [[trial[metric] for trial in row["per_trial"]] for metric in METRICS]
        lines.append([label, f"mean of {row['trials']}", *(spread(column) for column in values)])
        if row["model"] == "trained":
            for trial in row["per_trial"]:
                lines.append(["", f"trial {trial['trial']}", *(f"{trial[metric]:.2f}" for metric in METRICS)])
    note = "percent; ± standard deviation over trials (n - 1)"
    return f"\n{markdown(['direction', 'trials', *METRICS], lines)}\n\n{note}"


def _numbers(text: str) -> list[int]:
    words = [word for word in text.split(",") if word]
    if not words or not all(word.isdecimal() and 1 <= int(word) <= 10 for word in words):
        raise BdfError(f"--trials: expected numbers from 1 to 10 with commas between them, found {text!r}")
    return sorted({int(word) for word in words})
