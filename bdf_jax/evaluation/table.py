"""Rows as a table on the terminal and as JSON in a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bdf_jax import output
from bdf_jax.evaluation.statistics import METRICS

NAMES = ("model", "direction", "mode", "shots", "gallery")
FLAGS = ("feature", "use", "flip_tta", "similarity", "rerank")


def print_table(rows: Sequence[Mapping[str, Any]], console: Console | None = None) -> None:
    """Prints the rows, percent, with half the width of R1's and mAP's interval, and every flag.

    Where the console is too narrow, what is the same in all rows moves under the table.
    """
    flags = [flag for flag in (*FLAGS, "test_set") if any(row.get(flag) not in (None, "") for row in rows)]
    columns = {name: [_word(row.get(name)) for row in rows] for name in (*NAMES, "trials", "queries")}
    columns["gallery images"] = [_word(row.get("gallery_size")) for row in rows]
    columns |= {metric: [_number(row, metric) for row in rows] for metric in METRICS}
    columns |= {flag: ["-" if row.get(flag) is None else _word(row[flag]) for row in rows] for flag in flags}
    title = ", ".join(dict.fromkeys(str(row["dataset"]) for row in rows))
    _print(console, columns, title, "percent; ± half of the 95 % bootstrap interval over queries")


def print_differences(rows: Sequence[Mapping[str, Any]], console: Console | None = None) -> None:
    """Prints what `--compare` added to each row: the difference in points and its interval."""
    compared = [row for row in rows if row.get("compare")]
    if not compared:
        return
    columns = {name: [_word(row.get(name)) for row in compared] for name in NAMES[1:]}
    for i, metric in enumerate(METRICS):
        columns[metric] = [_difference(row["compare"]["metrics"][i]) for row in compared]
    title = f"{compared[0]['model']} minus {compared[0]['compare']['model']}, points"
    caption = "95 % paired bootstrap interval over queries; ~0: it holds 0, these queries do not show a difference"
    _print(console, columns, title, caption)


def _print(console: Console | None, columns: Mapping[str, Sequence[str]], title: str, caption: str) -> None:
    console = console or Console()
    if output.width_of(_table(columns, title, caption), console) > console.width:
        # "-": the flag says nothing of this row (a baseline has no BNNeck), so it does not contradict the others.
        values = {name: set(cells) - {"-"} for name, cells in columns.items() if name not in METRICS}
        same = {name: found.pop() for name, found in values.items() if len(found) == 1}
        caption += "\nin every row: " + ", ".join(f"{name} {value}" for name, value in same.items())
        columns = {name: cells for name, cells in columns.items() if name not in same}
    output.print_whole(_table(columns, title, caption), console)


def _table(columns: Mapping[str, Sequence[str]], title: str, caption: str) -> Table:
    table = Table(title=title, caption=caption)
    for name, cells in columns.items():
        number = name in METRICS or all(cell.isdecimal() for cell in cells)
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*cells)
    return table


def write_json(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes the rows as a JSON list; a file that was there stays whole until the new one is.

    Raises:
      BdfError: the file cannot be written.
    """
    output.write_json(path, list(rows), f"the table could not be written to {path}")


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "all" if value is None else str(value)


def _difference(found: Mapping[str, Any]) -> str:
    low, high = found["ci"]
    return f"{found['difference']:+.2f} [{low:+.2f}, {high:+.2f}]{'' if found['clear'] else ' ~0'}"


def _number(row: Mapping[str, Any], metric: str) -> str:
    if metric in ("R1", "mAP") and row.get(f"{metric}_ci"):
        low, high = row[f"{metric}_ci"]
        return f"{row[metric]:.2f} ±{(high - low) / 2:.2f}"
    return f"{row[metric]:.2f}"
