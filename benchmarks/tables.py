"""The rows of a benchmark on a terminal and as Markdown for a document."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from bdf_jax.comparison import tables


def show(title: str, rows: Sequence[dict[str, Any]], digits: int = 3) -> None:
    """Prints the rows as a table, words to the left and numbers to the right; in a pipe no line is broken."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for key, value in rows[0].items() if rows else ():
        table.add_column(key.replace("_", " "), justify="left" if isinstance(value, str) else "right")
    for row in rows:
        table.add_row(*cells(row, digits))
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def markdown(rows: Sequence[dict[str, Any]], *, header: bool = True, digits: int = 4) -> str:
    """The rows as a Markdown table; without its header to go on with one."""
    lines = tables.markdown(list(rows[0]), [cells(row, digits) for row in rows]).splitlines()
    return "\n".join(lines if header else lines[2:])


def cells(row: dict[str, Any], digits: int) -> list[str]:
    """One line: numbers to so many digits, how many there are of what is a list, nothing for None."""

    def cell(value: Any) -> str:
        value = len(value) if isinstance(value, list) else value
        return f"{value:.{digits}g}" if isinstance(value, float) else "" if value is None else str(value)

    return [cell(value) for value in row.values()]
