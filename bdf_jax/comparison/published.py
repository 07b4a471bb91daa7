"""What authors print of their methods on SYSU-MM01 and RegDB, with where it was read; nothing here was measured here.

The numbers lie in `published.json`: percent, single-shot. Rows of the poster's tables (Liu et al., ICPR 2020) are in
its order; known misprints are mended there, and `notes` tells which.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bdf_jax.comparison.tables import Column, show

METRICS = ("R1", "R10", "R20", "mAP")
PUBLISHED = "published"  # begins the groups of these columns
# What each data set's numbers are of, and what a column is called.
PLACES = {
    "sysu_mm01": {"all": "SYSU-MM01 all", "indoor": "SYSU-MM01 indoor"},
    "regdb": {"visible_to_thermal": "RegDB V to T", "thermal_to_visible": "RegDB T to V"},
}
TABLES = {
    1: ("Table I: SYSU-MM01, single-shot", "sysu_mm01", ("all", "indoor")),
    2: ("Table II: RegDB, visible to thermal", "regdb", ("visible_to_thermal",)),
}


@functools.cache
def read() -> dict[str, Any]:
    """`rows` and `notes` of the file."""
    found: dict[str, Any] = json.loads(Path(__file__).with_name("published.json").read_text())
    return found


def of_method(name: str) -> dict[str, Any]:
    """The row of a method of the registry; empty where nothing is known of it."""
    rows = {row["method"]: row for row in read()["rows"] if row["method"]}
    return rows.get(name, {})


def columns(names: list[str]) -> list[Column]:
    """R1 and mAP of each method, for every place; empty cells where nothing was printed."""
    found = []
    for dataset, places in PLACES.items():
        for place, title in places.items():
            numbers = [of_method(name).get(dataset, {}).get(place, {}) for name in names]
            found += [Column(f"{PUBLISHED}: {title}", m, [_cell(each, m) for each in numbers]) for m in ("R1", "mAP")]
    return found


def print_tables() -> None:
    """The two tables of the poster, what else is known, and the notes."""
    rows = read()["rows"]
    for number, (title, dataset, places) in TABLES.items():
        _print([row for row in rows if number in row["poster"]], title, dataset, places)
    for number, (_, dataset, _) in TABLES.items():
        others = [row for row in rows if row[dataset] and number not in row["poster"]]
        _print(others, f"not in that table: {' and '.join(PLACES[dataset].values())}", dataset, tuple(PLACES[dataset]))
    print("published numbers are their authors', in percent; none was measured here\nnotes:")
    for note in read()["notes"]:
        print(f"- {note}")
    print("sources:")
    for source, names in sources().items():
        print(f"- {source}: {', '.join(names)}")


def sources() -> dict[str, list[str]]:
    """Where numbers were read -> of which methods."""
    found: dict[str, list[str]] = {}
    for row in read()["rows"]:
        for dataset in PLACES:
            for numbers in row[dataset].values():
                names = found.setdefault(numbers["source"], [])
                if row["title"] not in names:
                    names.append(row["title"])
    return found


def _print(rows: list[dict[str, Any]], title: str, dataset: str, places: tuple[str, ...]) -> None:
    shown = [Column("", "method", [row["title"] for row in rows], number=False)]
    shown += [Column("", "venue", [row["venue"] for row in rows], number=False)]
    for place in places:
        group = PLACES[dataset][place].split()[-1] if dataset == "sysu_mm01" else PLACES[dataset][place]
        shown += [
            Column(group if len(places) > 1 else "", m, [_cell(row[dataset].get(place, {}), m) for row in rows])
            for m in METRICS
        ]
    show(shown, title)


def _cell(numbers: Mapping[str, Any], metric: str) -> str:
    return f"{numbers[metric]:.2f}" if metric in numbers else "-"
