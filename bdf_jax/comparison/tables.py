"""A table once, as Markdown, LaTeX, CSV and on the terminal."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import statistics
from collections.abc import Sequence

from bdf_jax import output


@dataclasses.dataclass(frozen=True)
class Column:
    """A column: its cells as text, one a row.

    Attributes:
      group: what stands above several columns; empty: nothing does.
      name: of the column.
      cells: texts.
      number: whether they are set to the right.
    """

    group: str
    name: str
    cells: Sequence[str]
    number: bool = True

    @property
    def title(self) -> str:
        """The name with its group before it."""
        return f"{self.group} {self.name}".strip()


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean ± standard deviation (n - 1), or the one value."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean + (f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else "")


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; the first column to the left, the others to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def as_markdown(columns: Sequence[Column]) -> str:
    """All columns in one table."""
    return markdown([column.title for column in columns], rows_of(columns))


def as_csv(columns: Sequence[Column]) -> str:
    """All columns, comma-separated, with one line of titles."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([[column.title for column in columns], *rows_of(columns)])
    return out.getvalue()


def as_latex(columns: Sequence[Column], caption: str) -> str:
    """A `table*` with the rules of the package booktabs, groups above their columns; wide ones are scaled to the page.

    It needs `\\usepackage{booktabs,graphicx}`.
    """
    groups = [(group, list(members)) for group, members in itertools.groupby(columns, lambda column: column.group)]
    above, rules, first = [], [], 1
    for group, members in groups:
        last = first + len(members) - 1
        above.append(f"\\multicolumn{{{len(members)}}}{{c}}{{{_latex(group)}}}" if group else " &" * (len(members) - 1))
        rules += [f"\\cmidrule(lr){{{first}-{last}}}"] if group else []
        first = last + 1
    lines = [
        "% needs \\usepackage{booktabs,graphicx}",
        "\\begin{table*}",
        "\\centering",
        f"\\caption{{{_latex(caption)}}}",
        "\\resizebox{\\textwidth}{!}{%",
        f"\\begin{{tabular}}{{{''.join('r' if column.number else 'l' for column in columns)}}}",
        "\\toprule",
        *([" & ".join(above) + " \\\\", " ".join(rules)] if rules else []),
        " & ".join(_latex(column.name) for column in columns) + " \\\\",
        "\\midrule",
        *(" & ".join(map(_latex, row)) + " \\\\" for row in rows_of(columns)),
        "\\bottomrule",
        "\\end{tabular}}",
        "\\end{table*}",
    ]
    return "\n".join(lines) + "\n"


def show(columns: Sequence[Column], title: str = "", caption: str = "") -> None:
    """Prints the columns as one table; no cell is cut."""
    from rich.table import Table  # not before something is shown

    table = Table(title=title or None, caption=caption or None)
    for column in columns:
        table.add_column(column.title, justify="right" if column.number else "left", no_wrap=True)
    for row in rows_of(columns):
        table.add_row(*row)
    output.print_whole(table)


def rows_of(columns: Sequence[Column]) -> list[tuple[str, ...]]:
    """The cells row by row."""
    return list(zip(*(column.cells for column in columns), strict=True))


SPECIAL = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}",
    "±": "$\\pm$", "<": "$<$", ">": "$>$", "|": "$|$",
}  # fmt: skip


def _latex(text: str) -> str:
    return "".join(SPECIAL.get(sign, sign) for sign in text)
