"""python -m bdf_jax ablation --configs=configs/ablation_a.py,configs/ablation_f.py --seeds=0,1,2 --workdir=DIR."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from bdf_jax.commands.compare import row_name, seeds
from bdf_jax.commands.configuration import read_config, reject_set
from bdf_jax.comparison.jobs import Job, run_jobs
from bdf_jax.comparison.tables import markdown, spread
from bdf_jax.config import Config, vary
from bdf_jax.errors import BdfError
from bdf_jax.evaluation.statistics import METRICS
from bdf_jax.output import write_json, write_text
from bdf_jax.paths import local_path

TAKES_CONFIG = True
USES = ("base", "derivative", "sum4")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument(
        "--configs", required=True, metavar="FILE,...", help="a row each; --config.SECTION.FIELD=V changes them all"
    )
    parser.add_argument("--seeds", default="0,1,2", metavar="S,...", help="of training; the data stay the same")
    parser.add_argument("--workdir", required=True, metavar="DIR", help="a folder in it for each row and seed")
    parser.add_argument("--metric", default="mAP", choices=METRICS)


def run(arguments: argparse.Namespace) -> None:
    """Trains and evaluates every row with every seed, then prints the table."""
    reject_set(arguments.overrides, "training.seed", "the command sets it; choose with --seeds=0,1,2")
    files = [file for file in arguments.configs.split(",") if file]
    names = [row_name(file) for file in files]
    if not files or len(set(names)) < len(names):
        raise BdfError(f"--configs: expected files of different names with commas between them, found {names}")
    rows = {name: read_config(file, arguments.overrides) for name, file in zip(names, files, strict=True)}
    run_table(rows, seeds(arguments.seeds), Path(arguments.workdir), metric=arguments.metric)


def run_table(rows: Mapping[str, Config], seeds: Sequence[int], workdir: Path, *, metric: str = "mAP") -> str:
    """Trains rows over seeds and prints the table, which is also left in `workdir` as ablation.md and ablation.json.

    Seed by seed, so that a table that is stopped early has every row.

    Args:
      rows: name -> configuration.
      seeds: of training.
      workdir: of which every row and seed gets a folder.
      metric: R1, R5, R10, R20, mAP or mINP of the first protocol of the data set.

    Returns:
      The table in Markdown.

    Raises:
      BdfError: see `run_jobs`; or some runs failed, after all others were done.
    """
    folder = local_path(workdir, "--workdir", utf8=True).absolute()
    jobs = {
        (name, seed): Job(
            f"{name}, seed {seed}",
            folder / f"{name.replace(' ', '_').replace(':', '_')}-seed{seed}",
            vary(config, {"training.seed": seed}),
            USES if all(len(config.views_of(base)) == 2 for base in (0, 1)) else ("base",),
        )
        for seed in seeds
        for name, config in rows.items()
    }
    results, failures = run_jobs(list(jobs.values()))
    values: dict[str, dict[str, list[float]]] = {name: {use: [] for use in USES} for name in rows}
    singles, protocol = [], ""
    for (name, seed), job in jobs.items():
        for use, found in results.get(job.name, {"rows": {}})["rows"].items():
            first = found[0]
            protocol = protocol or ", ".join(
                str(first[part]) for part in ("dataset", "direction", "mode", "shots", "gallery") if first.get(part)
            )
            values[name].setdefault(use, []).append(first[metric])
            singles.append({"row": name, "seed": seed, "use": use, **{m: first[m] for m in METRICS}})
    text = _table(values, f"{metric}, percent ({protocol}); mean ± standard deviation over seeds (single seeds)")
    if singles:
        write_json(folder / "ablation.json", {"metric": metric, "runs": singles})
        write_text(folder / "ablation.md", text + "\n")
        print(f"\n{text}")
    if failures:
        raise BdfError("; ".join(failures) + "; the same command does only what is missing")
    return text


def _table(values: Mapping[str, Mapping[str, Sequence[float]]], note: str) -> str:
    def cell(numbers: Sequence[float]) -> str:
        if len(numbers) < 2:
            return f"{numbers[0]:.1f}" if numbers else ""
        return f"{spread(numbers, 1)} ({', '.join(f'{number:.1f}' for number in numbers)})"

    shown = [use for use in USES if any(found.get(use) for found in values.values())]
    lines = [
        [name, str(max(map(len, found.values()), default=0)), *(cell(found.get(use, ())) for use in shown)]
        for name, found in values.items()
    ]
    return f"{markdown(['row', 'seeds', *shown], lines)}\n\n{note}"
