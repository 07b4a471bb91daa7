"""A comparison from configurations to files: train, measure, write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bdf_jax.comparison import columns, grid, tables
from bdf_jax.comparison.jobs import Stopped
from bdf_jax.config import Config
from bdf_jax.errors import BdfError
from bdf_jax.output import write_json, write_text


def compare(
    configs: Mapping[str, Config], seeds: Sequence[int], folder: Path, *, reference: str, equal_time: bool = False
) -> dict[str, Any]:
    """Trains every row with every seed, and leaves the comparison in `folder`: `comparison.json` and so on.

    What is finished is not done again. When a run fails or the command is stopped, what is finished is compared.

    Args:
      configs: name of a row -> what is trained; all on the same data.
      seeds: of training.
      folder: of the comparison; every row and seed has a work folder in it.
      reference: the row that the others are compared with.
      equal_time: every row once more with the steps that the reference's time allows.

    Returns:
      what `comparison.json` holds, see `grid.summary`.

    Raises:
      BdfError: rows on different data, a folder of another run; or some runs failed, after all others were done.
      Stopped: by SIGTERM or Ctrl-C, after what was finished has been written.
    """
    rows = grid.rows_of(configs, seeds, folder)
    if equal_time:
        for row in rows:
            grid.steps_of(row)
    failures: list[str] = []
    stopped: Stopped | None = None
    try:
        failures += grid.train(rows)
        if equal_time:
            longer = grid.with_equal_time(rows, reference, seeds, folder)
            rows += longer
            failures += grid.train(longer) if longer else []
    except Stopped as reason:
        stopped = reason
    found = write(rows, folder, reference=reference, failures=failures)
    if stopped:
        raise stopped
    if failures:
        raise BdfError("; ".join(failures) + "; the same command does only what is missing")
    return found


def write(rows: Sequence[grid.Row], folder: Path, *, reference: str, failures: Sequence[str] = ()) -> dict[str, Any]:
    """Measures what is finished, writes the comparison in all its forms, prints it; {} where nothing is finished."""
    from bdf_jax.comparison.page import write_page  # brings matplotlib

    found, dataset, protocols = grid.measured(rows)
    if not found:
        return {}
    summary = grid.summary(found, protocols, reference) | {"missing": _missing(rows, found), "failures": list(failures)}
    shown = columns.columns(summary)
    note = columns.NOTE.format(reference=summary["reference"] or "the reference, which is not finished")
    write_json(folder / "comparison.json", summary)
    write_text(folder / "comparison.csv", tables.as_csv(shown))
    write_text(folder / "comparison.md", f"{tables.as_markdown(shown)}\n\n{note}.\n")
    write_text(folder / "comparison.tex", tables.as_latex(shown, f"{dataset.name}: {note}."))
    write_page(folder / "comparison.html", summary, found, dataset, protocols, shown, note)
    print()
    for title, part in columns.parts(shown):
        tables.show(part, title)
    print(f"{note}.")
    for name in summary["missing"]:
        print(f"not finished: {name}")
    print(f"{folder / 'comparison.html'} (and .md, .tex, .csv, .json)")
    return summary


def _missing(rows: Sequence[grid.Row], found: Sequence[grid.Compared]) -> list[str]:
    done = {each.row.name: set(each.seeds) for each in found}
    return [job.name for row in rows for job in row.jobs if job.config.training.seed not in done.get(row.name, set())]
