"""The columns of a comparison: what its table, in every form, is made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from bdf_jax.comparison import published
from bdf_jax.comparison.tables import Column
from bdf_jax.method import registry

METRICS = ("R1", "R10", "R20", "mAP", "mINP")
NOTE = (
    "percent; mean ± standard deviation over seeds (n - 1); + and -: more or less than {reference} by more than the "
    "95 % paired bootstrap interval over queries. GFLOP of the feature of one visible image; seconds and memory of a "
    "step on this machine. Published numbers are their authors', of the real data sets, and compare with nothing "
    "measured here"
)


def columns(summary: Mapping[str, Any]) -> list[Column]:
    """Names, results of every protocol, costs, published numbers; baselines are the last rows."""
    rows, baselines = summary["rows"], summary["baselines"]
    found = [
        Column("", "method", [row["name"] for row in rows] + [row["name"] for row in baselines], number=False),
        Column("", "seeds", [str(len(row["seeds"])) for row in rows] + [""] * len(baselines)),
    ]
    for p, protocol in enumerate(summary["protocols"]):
        for metric in METRICS:
            cells = [_cell(row["results"][p], metric) for row in rows]
            cells += [f"{row['results'][p][metric]:.2f}" for row in baselines]
            found.append(Column(title(protocol), metric, cells))
    return found + costs(rows, len(baselines)) + _published(rows, len(baselines))


def parts(columns: Sequence[Column]) -> list[tuple[str, list[Column]]]:
    """Narrower tables for a terminal, each with the names: one of every protocol, costs, and published numbers."""
    names, others = columns[0], columns[1:]
    groups = dict.fromkeys(column.group for column in others if column.group and not _is_published(column))
    found = [
        (group, [names, *(dataclasses.replace(c, group="") for c in others if c.group == group)]) for group in groups
    ]
    found.append(("cost", [names, *(column for column in others if not column.group)]))
    theirs = [
        dataclasses.replace(c, group=c.group.removeprefix(published.PUBLISHED).strip(" :"))
        for c in others
        if _is_published(c)
    ]
    return found + ([(published.PUBLISHED, [names, *theirs])] if theirs else [])


def _is_published(column: Column) -> bool:
    return column.group.startswith(published.PUBLISHED)


def title(protocol: Mapping[str, Any]) -> str:
    """What a protocol is called above its columns."""
    shots = "" if protocol["shots"] in (None, 1) else f", {protocol['shots']} shots"
    direction, mode = str(protocol["direction"]).replace("_", " "), protocol["mode"]
    return (mode if protocol["dataset"] == "sysu_mm01" else direction) + shots


def costs(rows: Sequence[Mapping[str, Any]], empty: int = 0) -> list[Column]:
    """Parameters, GFLOP, seconds a step, memory, and what the method was written from."""
    methods = registry()
    blank = [""] * empty
    of = [row["cost"] for row in rows]
    fidelity = [methods[row["method"]].fidelity if row["method"] in methods else "" for row in rows]
    return [
        Column("", "parameters", [f"{cost['parameters']:,}" for cost in of] + blank),
        Column("", "GFLOP", [f"{cost['gflop']:.3g}" for cost in of] + blank),
        Column("", "s/step", [f"{cost['seconds']:.3g}" for cost in of] + blank),
        Column("", "MiB", [f"{cost['memory'] / 2**20:,.0f}" for cost in of] + blank),
        Column("", "steps", [f"{row['steps'] or ''}" for row in rows] + blank),
        Column("", "written from", fidelity + blank, number=False),
    ]


def _published(rows: Sequence[Mapping[str, Any]], empty: int) -> list[Column]:
    # Once for each method: the same row again in equal time would seem to be a second number.
    names = [row["method"] if row["name"] == row["method"] else "" for row in rows] + [""] * empty
    return [column for column in published.columns(names) if any(cell != "-" for cell in column.cells)]


def _cell(result: Mapping[str, Any], metric: str) -> str:
    found, mark = result[metric], ""
    against = result.get("against", {}).get(metric)
    if against and against["clear"]:
        mark = " +" if against["difference"] > 0 else " -"
    std = "" if found["std"] is None else f" ± {found['std']:.2f}"
    return f"{found['mean']:.2f}{std}{mark}"
