"""Rows as a table on the terminal and as JSON in a file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bdf_jax.errors import BdfError
from bdf_jax.evaluation.statistics import METRICS

NAMES = ("model", "direction", "mode", "shots", "gallery")
FLAGS = ("feature", "use", "flip_tta", "similarity", "rerank")


def print_table(rows: Sequence[Mapping[str, Any]], console: Console | None = None) -> None:
    """Prints the rows, percent, with half the width of R1's and mAP's interval, and every flag."""
    console = console or Console(width=None if Console().is_terminal else 200)
    table = Table(title=_title(rows), caption="percent; ± half of the 95 % bootstrap interval over queries")
    flags = [flag for flag in FLAGS if any(row.get(flag) not in (None, "") for row in rows)]
    for name in (*NAMES, "trials", "queries", "gallery images"):
        table.add_column(name, justify="right" if name in ("shots", "trials", "queries", "gallery images") else "left")
    for metric in METRICS:
        table.add_column(metric, justify="right", no_wrap=True)
    for flag in flags:
        table.add_column(flag)
    for row in rows:
        table.add_row(
            *(_word(row.get(name)) for name in NAMES),
            *(_word(row.get(name)) for name in ("trials", "queries", "gallery_size")),
            *(_number(row, metric) for metric in METRICS),
            *(_word(row.get(flag)) for flag in flags),
        )
    console.print(table)


def print_differences(rows: Sequence[Mapping[str, Any]], console: Console | None = None) -> None:
    """Prints what `--compare` added to each row: the difference in points and its interval."""
    console = console or Console(width=None if Console().is_terminal else 200)
    compared = [row for row in rows if row.get("compare")]
    if not compared:
        return
    first, second = compared[0]["model"], compared[0]["compare"]["model"]
    table = Table(title=f"{first} minus {second}, points", caption="95 % paired bootstrap interval over queries")
    for name in (*NAMES[1:], *METRICS):
        table.add_column(name, no_wrap=name in METRICS, justify="right" if name in METRICS else "left")
    for row in compared:
        table.add_row(
            *(_word(row.get(name)) for name in NAMES[1:]),
            *(
                f"{d['difference']:+.2f} [{d['ci'][0]:+.2f}, {d['ci'][1]:+.2f}]{'' if d['clear'] else ' ~0'}"
                for d in row["compare"]["metrics"]
            ),
        )
    console.print(table)
    if not all(d["clear"] for row in compared for d in row["compare"]["metrics"]):
        console.print("~0: the interval holds 0, so these queries do not show a difference.")


def write_json(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes the rows as a JSON list; a file that was there stays whole until the new one is.

    Raises:
      BdfError: the file cannot be written.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(list(rows), indent=2, allow_nan=False) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise BdfError(f"the table could not be written to {path}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _title(rows: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(dict.fromkeys(str(row["dataset"]) for row in rows))


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "all" if value is None else str(value)


def _number(row: Mapping[str, Any], metric: str) -> str:
    if metric in ("R1", "mAP") and row.get(f"{metric}_ci"):
        low, high = row[f"{metric}_ci"]
        return f"{row[metric]:.2f} ±{(high - low) / 2:.2f}"
    return f"{row[metric]:.2f}"
