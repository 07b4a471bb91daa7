"""The page of a comparison: one HTML file that needs no network, with table, plots and ranked lists side by side."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bdf_jax.comparison import figures
from bdf_jax.comparison.columns import title
from bdf_jax.comparison.grid import Compared
from bdf_jax.comparison.tables import Column, rows_of
from bdf_jax.data.dataset import Dataset
from bdf_jax.evaluation import baselines, report
from bdf_jax.evaluation.protocols import Protocol
from bdf_jax.evaluation.report import measures, pictures
from bdf_jax.evaluation.report.figures import Curve, cmc_figure
from bdf_jax.evaluation.report.measures import Evaluated, RankedList
from bdf_jax.names import legible
from bdf_jax.output import write_text
from bdf_jax.pixels import png, sheet

EACH, LENGTH = 2, 8  # queries of a kind, gallery images of a list
TILE = (96, 48)  # (height, width) of an image of a list, pixels


def write_page(
    path: Path,
    summary: Mapping[str, Any],
    found: Sequence[Compared],
    dataset: Dataset,
    protocols: Sequence[Protocol],
    columns: Sequence[Column],
    note: str,
) -> None:
    """Writes the page.

    Args:
      path: of the file.
      summary: see `grid.summary`.
      found: what was measured.
      dataset: whose test images the lists show.
      protocols: of the summary.
      columns: of the table.
      note: below it.
    """
    groups = [(group, len(list(members))) for group, members in itertools.groupby(columns, lambda column: column.group)]
    context = {
        "mark": "bdf_jax comparison",
        "title": f"{len(found)} rows on {dataset.name}",
        "root": Path(dataset.root).name,
        "groups": groups,
        "columns": columns,
        "rows": rows_of(columns),
        "note": note,
        "missing": summary.get("missing", []),
        "intervals": _shown(lambda theme: figures.interval_figure(summary, theme)),
        "costs": _shown(lambda theme: figures.cost_figure(summary, theme)),
        "cmc": _shown(lambda theme: cmc_figure(_curves(found, dataset, protocols), theme)),
        "lists": _lists(found, dataset, protocols, summary["reference"]),
        "protocol": f"{title(summary['protocols'][0])}, trial {protocols[0].trials[0]}",
        "length": LENGTH,
    }
    folders = Path(__file__).parent, Path(report.__file__).parent
    write_text(path, legible(report.environment(*folders).get_template("comparison.html").render(context)))


def _shown(draw: Any) -> report.Shown:
    return report.Shown(*(pictures.data_uri(draw(theme)) for theme in ("light", "dark")))


def _curves(found: Sequence[Compared], dataset: Dataset, protocols: Sequence[Protocol]) -> list[Curve]:
    """CMC of every row, mean over seeds, and chance."""
    ranks, curves = list(range(1, measures.DEPTH + 1)), []
    for p, chance in enumerate(baselines.chance_rows(dataset.test.index, protocols)):
        panel = title(chance)
        for each in found:
            percent = np.mean([measures.cmc_curve(splits) for splits in each.measured[p]], axis=0)
            curves.append(Curve(panel, each.row.name, ranks, percent.tolist()))
        curves.append(Curve(panel, "chance", baselines.RANKS, [chance[f"R{r}"] for r in baselines.RANKS], whole=False))
    return curves


def _lists(
    found: Sequence[Compared], dataset: Dataset, protocols: Sequence[Protocol], reference: str | None
) -> list[dict[str, Any]]:
    """Best, median and worst queries of the reference, and what every row (its first seed) finds for them."""
    first = next((each for each in found if each.row.name == reference), found[0])
    protocol, index = protocols[0], dataset.test.index
    measured = first.measured[0][0][0]
    chosen = measures.choose_queries(measured.ap_TQ[0], measured.valid_TQ[0], index.pids[protocol.query_rows], EACH)
    by_row = {
        each.row.name: measures.ranked_lists(_evaluated(each, protocols), length=LENGTH, chosen=chosen)
        for each in found
    }
    return [
        {
            "kind": ranked.kind,
            "pid": int(index.pids[ranked.query]),
            "rows": [(name, lists[i].ap, lists[i].first, _strip(lists[i], dataset)) for name, lists in by_row.items()],
        }
        for i, ranked in enumerate(by_row[first.row.name])
    ]


def _evaluated(each: Compared, protocols: Sequence[Protocol]) -> Evaluated:
    file = each.features
    return Evaluated(
        file.features_ND, file.index, file.similarity or "cosine", False, protocols, [runs[0] for runs in each.measured]
    )


def _strip(ranked: RankedList, dataset: Dataset) -> str:
    """The query and its list as one picture."""
    rows = [ranked.query, *ranked.rows.tolist()]
    colours = [pictures.QUERY, *(pictures.HIT if hit else pictures.MISS for hit in ranked.hits)]
    tiles = [pictures.framed(dataset.test.pixels(row, TILE), c, TILE) for row, c in zip(rows, colours, strict=True)]
    return pictures.data_uri(png(sheet([tiles], report.GAP)))
