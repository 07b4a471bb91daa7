"""Seeing an evaluation: one HTML page that needs no network, and its pictures as PNG beside it.

The page holds everything (styles and pictures are written into it, there is no script), so it can be mailed or kept
with the run. The same inputs give the same bytes: no dates, no paths, fixed seeds.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from PIL import Image

from bdf_jax.errors import BdfError
from bdf_jax.evaluation import baselines
from bdf_jax.evaluation.report import figures, measures, pictures
from bdf_jax.evaluation.report.measures import Evaluated, RankedList
from bdf_jax.evaluation.report.pictures import Derivatives, Picture
from bdf_jax.evaluation.similarity import TITLES as SIMILARITIES
from bdf_jax.evaluation.statistics import METRICS
from bdf_jax.evaluation.table import FLAGS
from bdf_jax.names import legible, printable
from bdf_jax.output import check_output, replaced
from bdf_jax.paths import bucket_address, local_path
from bdf_jax.pixels import png, sheet

if TYPE_CHECKING:
    from bdf_jax.buckets.store import Store

__all__ = ["PAGE", "Evaluated", "check_folder", "write_report"]

PAGE = "index.html"
PROBE = ".probe"  # written and removed where only writing tells whether one may
MARK = "bdf_jax report"  # near the page's beginning, by which a folder is known as that of a report
EACH = 3  # best, median and worst queries
LENGTH = 10  # gallery images of a ranked list
KNOWN = {"dataset", "model", "mode", "shots", "gallery", "direction", "trials", "queries", "queries_without_match"} | {
    "gallery_size", "chance_R1", "chance_mAP", "near_chance", "per_trial", "compare", "notes"
}  # fmt: skip

GAP = 8  # white pixels between two tiles of a strip


@dataclasses.dataclass(frozen=True)
class Shown:
    """A picture on the page: embedded, once for a light and once for a dark ground where that differs."""

    light: str
    dark: str = ""


PICTURES = {f"ranked-{kind}-{i}.png" for kind in ("best", "median", "worst") for i in range(1, EACH + 1)}
PICTURES |= {"cmc.png", "similarities.png", "derivatives.png"}


def check_folder(out: str | Path) -> Path | Store:
    """Makes the folder of a report, so that a wrong name fails before the work; in a bucket it needs no making.

    Raises:
      BdfError: the folder cannot be made or written to; or it holds files by the names of a report's, and no report.
    """
    if bucket_address(out, "--report"):
        from bdf_jax.buckets.store import open_store

        store = open_store(str(out), "--report")
        page = (store.read(PAGE) or b"")[:1000]
        _refuse_foreign(out, [] if MARK.encode() in page else sorted({PAGE, *PICTURES} & store.list().keys()))
        store.write(PROBE, b"")
        store.remove([PROBE])
        return store
    folder = local_path(out, "--report")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        ours = (folder / PAGE).is_file() and MARK.encode() in (folder / PAGE).read_bytes()[:1000]
        foreign = [] if ours else sorted(name for name in (PAGE, *PICTURES) if os.path.lexists(folder / name))
    except OSError as error:
        raise BdfError(f"--report={out}: expected a folder to write to: {error.strerror or error}") from error
    _refuse_foreign(out, foreign)
    check_output(folder / PAGE, "--report")
    return folder


def _refuse_foreign(out: str | Path, foreign: Sequence[str]) -> None:
    """Refuses a folder that has files by the names of a report's."""
    if foreign:
        raise BdfError(
            f"--report={out}: expected a new folder or an earlier report, found {', '.join(foreign[:5])} and no page "
            "of a report; name another"
        )


def write_report(
    out: str | Path,
    rows: Sequence[Mapping[str, Any]],
    evaluated: Sequence[Evaluated],
    *,
    title: str,
    facts: Mapping[str, str],
    notes: Sequence[str] = (),
    picture: Picture | None = None,
    no_pictures: str = "",
    derivatives: Derivatives | None = None,
) -> Path | str:
    """Writes the page and its pictures, overwriting those of an earlier report in the same folder.

    Args:
      out: folder, also in a bucket; made where it is missing.
      rows: of the table. The first belong to `evaluated`, protocol by protocol; further ones are baselines.
      evaluated: what similarities and ranked lists come from (the first) and CMC curves (all).
      title: of the page.
      facts: what the page says of data, checkpoint and features.
      notes: warnings, such as a run near chance, shown first.
      picture: the test image of a row of the first index at the size `pictures.SIZE`; None: lists without pictures.
      no_pictures: why there are none, and what to do.
      derivatives: from `pictures.derivatives_of`; None: without that section.

    Returns:
      the page's path or address.

    Raises:
      BdfError: the folder cannot be written to; an image that cannot be decoded.
    """
    folder = check_folder(out)
    first = evaluated[0]
    files: dict[str, bytes] = {}
    curves = _curves(rows, evaluated)
    similarities = measures.pair_similarities(first)
    context = {
        "mark": MARK,
        "title": title,
        "facts": facts,
        "notes": notes,
        "rows": [_table_row(number, row) for number, row in enumerate(rows, start=1)],
        "metrics": METRICS,
        "headline": _headline(rows[0]),
        "differences": [row for row in rows if row.get("compare")],
        "cmc": _figure(files, "cmc", lambda theme: figures.cmc_figure(curves, theme)),
        "single_panel": len({curve.panel for curve in curves}) == 1,
        "partial_curves": any(not curve.whole and curve.label != "chance" for curve in curves),
        "histograms": _figure(
            files, "similarities", lambda theme: figures.similarity_figure(similarities, first.similarity, theme)
        ),
        "pairs": similarities,
        "pair_limit": measures.PAIRS,
        "similarity": SIMILARITIES[first.similarity],
        "lists": _lists(files, first, measures.ranked_lists(first, each=EACH, length=LENGTH), picture),
        "list_protocol": first.protocols[0].name.split(", ", 1)[1].replace("_", " "),
        "list_trial": first.protocols[0].trials[0],
        "length": LENGTH,
        "rerank": first.rerank,
        "no_pictures": no_pictures if picture is None else "",
        "derivatives": derivatives,
        "examples": _examples(files, first, derivatives) if derivatives else [],
    }
    files[PAGE] = legible(environment(Path(__file__).parent).get_template("page.html").render(context)).encode("utf-8")
    if isinstance(folder, Path):
        _write(folder, files)
        return folder / PAGE
    folder.remove(sorted(PICTURES - set(files)))
    for name, content in sorted(files.items(), key=lambda item: item[0] == PAGE):
        folder.write(name, content)
    return f"{folder.address}/{PAGE}"


def environment(*folders: Path) -> jinja2.Environment:
    """Where the templates of pages are: in these folders."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        autoescape=True,  # names come from files
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = lambda value, digits=2: "-" if math.isnan(value) else f"{value:.{digits}f}"
    environment.filters["signed"] = lambda value: f"{value:+.2f}"
    environment.filters["count"] = lambda value: f"{value:,}"
    return environment


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    """The page last, and whole or not at all; what an earlier report had and this one has not goes."""
    failure = f"the report could not be written to {folder}"
    try:
        for name in PICTURES - set(files):
            (folder / name).unlink(missing_ok=True)
        for name, content in sorted(files.items(), key=lambda item: item[0] == PAGE):
            with replaced(folder / name, failure) as out:
                out.write(content)
    except OSError as error:
        raise BdfError(f"{failure}: {error.strerror or error}") from error


def _figure(files: dict[str, bytes], name: str, draw: Any) -> Shown:
    light, dark = draw("light"), draw("dark")
    files[f"{name}.png"] = light
    return Shown(pictures.data_uri(light), pictures.data_uri(dark))


def _curves(rows: Sequence[Mapping[str, Any]], evaluated: Sequence[Evaluated]) -> list[figures.Curve]:
    measured = [splits for each in evaluated for splits in each.measured]
    ranks = list(range(1, measures.DEPTH + 1))
    curves = []
    for number, row in enumerate(rows, start=1):
        if row["model"] == "chance":
            continue
        splits = measured[number - 1] if number <= len(measured) else None
        shots = "" if row["shots"] is None else f", {row['shots']} shot{'s' * (row['shots'] > 1)}"
        curves.append(
            figures.Curve(
                panel=_panel(row),
                label=f"{number}: {row['model']}{shots}, {row['gallery']}",
                ranks=ranks if splits else baselines.RANKS,
                percent=measures.cmc_curve(splits).tolist() if splits else [row[f"R{r}"] for r in baselines.RANKS],
                whole=splits is not None,
            )
        )
    drawn: set[str] = set()
    for chance in baselines.chance_rows(evaluated[0].index, evaluated[0].protocols):
        if _panel(chance) not in drawn:  # shots and gallery families move chance little: one line a panel
            drawn.add(_panel(chance))
            percent = [chance[f"R{r}"] for r in baselines.RANKS]
            curves.append(figures.Curve(_panel(chance), "chance", baselines.RANKS, percent, whole=False))
    return curves


def _panel(row: Mapping[str, Any]) -> str:
    return f"{str(row['direction']).replace('_', ' ')}, {row['mode']}"


def _table_row(number: int, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as text: metrics with half the interval's width, and every flag the row carries."""
    halves = {m: (row[f"{m}_ci"][1] - row[f"{m}_ci"][0]) / 2 for m in METRICS if row.get(f"{m}_ci")}
    metrics = {*METRICS, *(f"{m}_std" for m in METRICS), *(f"{m}_ci" for m in METRICS)}
    flags = [key for key in FLAGS if key in row] + sorted(set(row) - KNOWN - metrics - set(FLAGS))
    return {
        "near_chance": False,
        "chance_mAP": math.nan,
        **row,
        "number": number,
        "half": halves,
        "flags": [(key, _word(row[key])) for key in flags if row[key] not in (None, "")],
    }


def _headline(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    titles = {"R1": "rank 1", "mAP": "mean average precision", "mINP": "mean inverse negative penalty"}
    return [
        {"metric": m, "title": title, "value": row[m], "ci": row.get(f"{m}_ci"), "chance": row.get(f"chance_{m}")}
        for m, title in titles.items()
    ]


def _lists(
    files: dict[str, bytes], evaluated: Evaluated, lists: Sequence[RankedList], picture: Picture | None
) -> list[dict[str, Any]]:
    """Each ranked list with its tiles; their strip goes into a file."""
    numbers: dict[str, int] = {}
    shown = []
    for ranked in lists:
        numbers[ranked.kind] = numbers.get(ranked.kind, 0) + 1
        rows, tiles = [ranked.query, *ranked.rows.tolist()], []
        colours = [pictures.QUERY, *(pictures.HIT if hit else pictures.MISS for hit in ranked.hits)]
        framed = []
        if picture:
            framed = [pictures.framed(picture(row), colour) for row, colour in zip(rows, colours, strict=True)]
            files[f"ranked-{ranked.kind}-{numbers[ranked.kind]}.png"] = png(sheet([framed], GAP))
        for i, row in enumerate(rows):
            tiles.append(
                {
                    **_who(evaluated, row),
                    "kind": "query" if i == 0 else "hit" if ranked.hits[i - 1] else "miss",
                    "score": None if i == 0 else float(ranked.scores[i - 1]),
                    "image": _embedded(framed[i]) if framed else None,
                }
            )
        shown.append({"list": ranked, "number": numbers[ranked.kind], "query": tiles[0], "tiles": tiles[1:]})
    return shown


def _examples(files: dict[str, bytes], evaluated: Evaluated, derivatives: Derivatives) -> list[dict[str, Any]]:
    """Each identity with its tiles: visible, its derivative, infrared, its derivative."""
    shown, rows = [], []
    for identity in derivatives.examples:
        tiles: list[dict[str, Any]] = []
        framed: list[Image.Image] = []
        for example, modality in zip(identity, pictures.MODALITIES, strict=True):
            for pixels, kind in ((example.base_HWC, modality), (example.derivative_HWC, f"derivative of {modality}")):
                if pixels is not None:
                    framed.append(pictures.framed(pixels, pictures.QUERY))
                    tiles.append({**_who(evaluated, example.row), "kind": kind, "image": _embedded(framed[-1])})
        rows.append(framed)
        shown.append({"pid": tiles[0]["pid"], "tiles": tiles})
    files["derivatives.png"] = png(sheet(rows, GAP))
    return shown


def _who(evaluated: Evaluated, row: int) -> dict[str, Any]:
    index = evaluated.index
    return {"name": printable(str(index.names[row])), "pid": int(index.pids[row]), "cam": int(index.cams[row])}


def _embedded(image: Image.Image) -> str:
    return pictures.data_uri(png(image))


def _word(value: Any) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)
