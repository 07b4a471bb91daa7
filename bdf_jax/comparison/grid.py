"""Rows (configurations) x seeds: trained, and compared query by query on one data set."""

from __future__ import annotations

import dataclasses
import functools
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bdf_jax.comparison.jobs import FEATURES, Job, results_of, run_jobs
from bdf_jax.config import Config, vary
from bdf_jax.data.dataset import Dataset, open_dataset
from bdf_jax.errors import BdfError
from bdf_jax.evaluation import harness
from bdf_jax.evaluation.feature_file import FeatureFile, load_features
from bdf_jax.evaluation.protocols import Protocol
from bdf_jax.evaluation.ranking import Measured
from bdf_jax.evaluation.statistics import METRICS, differences, interval, mean_bootstrap, mean_of
from bdf_jax.evaluation.workdir import standard_protocols

EQUAL_TIME = ", equal time"
# What may differ between the rows of a comparison: how images enter the network, not which images there are.
OF_A_METHOD = ("image_size", "identities", "images", "workers", "prefetch", "decoded_cache")


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a comparison.

    Attributes:
      name: of the row.
      config: what is trained.
      jobs: a run for each seed.
    """

    name: str
    config: Config
    jobs: tuple[Job, ...]


@dataclasses.dataclass(frozen=True)
class Compared:
    """The finished runs of a row, measured.

    Attributes:
      row: what was trained.
      seeds: that are finished.
      results: what each run left, see `run_jobs`.
      features: of the first of them.
      measured: for each protocol, for each seed, what was measured (one test split).
    """

    row: Row
    seeds: tuple[int, ...]
    results: tuple[Mapping[str, Any], ...]
    features: FeatureFile
    measured: tuple[tuple[tuple[Measured, ...], ...], ...]

    @functools.cached_property
    def estimates(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each protocol, `mean_of` and `mean_bootstrap` of the runs: every row is compared with the reference's."""
        return [(mean_of(runs), mean_bootstrap(runs)) for runs in self.measured]


def rows_of(configs: Mapping[str, Config], seeds: Sequence[int], folder: Path) -> list[Row]:
    """The rows of configurations, each with a run for every seed in a folder of its own under `folder`.

    Raises:
      BdfError: rows on different data.
    """
    first, *others = configs
    for name in others:
        for field in dataclasses.fields(configs[name].data):
            ours, theirs = (getattr(configs[n].data, field.name) for n in (first, name))
            if field.name not in OF_A_METHOD and ours != theirs:
                raise BdfError(
                    f"rows are compared on the same images, but data.{field.name} is {ours!r} in {first} and "
                    f"{theirs!r} in {name}"
                )
    return [Row(name, each, tuple(_job(name, each, seed, folder) for seed in seeds)) for name, each in configs.items()]


def _job(name: str, config: Config, seed: int, folder: Path) -> Job:
    place = "".join(sign if sign.isalnum() or sign in "_-." else "_" for sign in name)
    return Job(
        f"{name}, seed {seed}",
        folder / f"{place}-seed{seed}",
        vary(config, {"training.seed": seed}),
        features=True,
        cost=True,
    )


def train(rows: Sequence[Row]) -> list[str]:
    """Trains what is not finished, seed by seed, so that what is stopped early has every row.

    Returns:
      what to say of the runs that failed.
    """
    return run_jobs([row.jobs[i] for i in range(len(rows[0].jobs)) for row in rows])[1]


def with_equal_time(rows: Sequence[Row], reference: str, seeds: Sequence[int], folder: Path) -> list[Row]:
    """Rows once more, each with as many steps as take the time of the reference's; those that take 2 % less or more
    steps only. What is not finished has no such row.

    The time of a step is the median over the row's finished runs, as it was measured then.
    """
    seconds = {row.name: [r["cost"]["seconds"] for r in results_of(row.jobs).values()] for row in rows}
    if not seconds.get(reference):
        return []
    longer: dict[str, Config] = {}
    for row in rows:
        if row.name == reference or not seconds[row.name]:
            continue
        steps = steps_of(row)
        equal = max(1, round(steps * statistics.median(seconds[reference]) / statistics.median(seconds[row.name])))
        if abs(equal - steps) > 0.02 * steps:
            longer[row.name + EQUAL_TIME] = vary(row.config, {"training.steps": equal})
    return rows_of(longer, seeds, folder) if longer else []


def steps_of(row: Row) -> int:
    """The steps of a row's runs.

    Raises:
      BdfError: its length is given in epochs.
    """
    if not row.config.training.steps:
        raise BdfError(f"{row.name}: equal time needs the length in steps; give --config.training.steps")
    return row.config.training.steps


def measured(rows: Sequence[Row]) -> tuple[list[Compared], Dataset, list[Protocol]]:
    """The finished runs of rows on the images that they were tested on, and the protocols."""
    dataset = open_dataset(rows[0].config.data)
    protocols = standard_protocols(dataset)
    found = []
    for row in rows:
        results = results_of(row.jobs)
        done = [job for job in row.jobs if job.name in results]
        if not done:
            continue
        files = [load_features(job.workdir / FEATURES) for job in done]
        runs = [
            _measure(job.workdir / FEATURES, file, dataset, protocols) for job, file in zip(done, files, strict=True)
        ]
        found.append(
            Compared(
                row,
                tuple(job.config.training.seed for job in done),
                tuple(results[job.name] for job in done),
                files[0],
                tuple(tuple((run[p],) for run in runs) for p in range(len(protocols))),
            )
        )
    return found, dataset, protocols


def summary(found: Sequence[Compared], protocols: Sequence[Protocol], reference: str) -> dict[str, Any]:
    """All numbers of a comparison, ready for JSON.

    Returns:
      `reference`; `protocols`, each with direction, mode, shots, gallery; `rows`, each with name, method, seeds, steps,
      `cost`, and `results`, for each protocol metric -> mean, std (n - 1; None of one seed), values, ci (95 % over
      queries) and, beside the reference, `against` with the difference of each metric, its interval and whether it is
      clear; `baselines`: rows of what was not trained.
    """
    base = next((each for each in found if each.row.name == reference), None)
    rows = [
        {
            "name": each.row.name,
            "method": each.row.config.method,
            "seeds": list(each.seeds),
            "steps": each.row.config.training.steps or None,
            "cost": cost_of(each),
            "results": [_numbers(each, base, p) for p in range(len(protocols))],
        }
        for each in found
    ]
    return {
        "reference": reference if base else None,
        "protocols": [
            {name: getattr(p, name) for name in ("dataset", "direction", "mode", "shots", "gallery")} for p in protocols
        ],
        "rows": rows,
        "baselines": _baselines(found, protocols),
    }


def cost_of(each: Compared) -> dict[str, Any]:
    """Parameters, GFLOP and memory of a row's network; the median of its runs' seconds a step."""
    costs = [result["cost"] for result in each.results]
    return costs[0] | {"seconds": statistics.median(cost["seconds"] for cost in costs)}


def _numbers(each: Compared, base: Compared | None, p: int) -> dict[str, Any]:
    rows = [result["rows"][each.row.config.retrieve.use][p] for result in each.results]
    intervals = interval(each.estimates[p][1]).tolist()
    found: dict[str, Any] = {}
    for metric, ci in zip(METRICS, intervals, strict=True):
        values = [row[metric] for row in rows]
        std = statistics.stdev(values) if len(values) > 1 else None
        found[metric] = {"mean": statistics.mean(values), "std": std, "values": values, "ci": ci}
    if base is not None and base is not each:
        found["against"] = {c["metric"]: c for c in differences(*each.estimates[p], *base.estimates[p])}
    return found


def _baselines(found: Sequence[Compared], protocols: Sequence[Protocol]) -> list[dict[str, Any]]:
    """Edges, raw pixels, chance, where the first run evaluated them; the untrained network is another in every row."""
    if not found:
        return []
    first = found[0]
    rows = first.results[0]["rows"][first.row.config.retrieve.use]
    names = dict.fromkeys(row["model"] for row in rows if row["model"] not in ("trained", "untrained"))
    return [
        {"name": name, "results": [{m: row[m] for m in METRICS} for row in rows if row["model"] == name]}
        for name in names
        if sum(row["model"] == name for row in rows) == len(protocols)
    ]


def _measure(path: Path, file: FeatureFile, dataset: Dataset, protocols: Sequence[Protocol]) -> list[Measured]:
    if not np.array_equal(file.index.names, dataset.test.index.names):
        raise BdfError(f"{path}: features of other images than those of {dataset.root}; name the data of the run")
    return harness.measure(file.features_ND, file.index, protocols, similarity=file.similarity or "cosine")
