"""CMC curves and histograms as PNG, on a light and on a dark ground; Matplotlib's own state stays as it was."""

from __future__ import annotations

import dataclasses
import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bdf_jax.evaluation.report.measures import DEPTH, PairSimilarities
from bdf_jax.evaluation.similarity import TITLES as SIMILARITIES

# Okabe and Ito's palette, which colour-blind readers can tell apart, without its black and yellow.
PALETTES = {
    "light": ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"),
    "dark": ("#56b4e9", "#e69f00", "#00b886", "#cc79a7", "#2f8fd0", "#e8703a"),
}
THEMES = {
    "light": {"ground": "#ffffff", "text": "#1d2329", "faint": "#d9dee4"},
    "dark": {"ground": "#1a1e24", "text": "#e4e8ec", "faint": "#39414b"},
}
STYLES = ("-", "--", "-.", ":")
BINS = 60


@dataclasses.dataclass(frozen=True)
class Curve:
    """A CMC curve.

    Attributes:
      panel: title of the axes it belongs to.
      label: what the legend calls it.
      ranks: where it is known.
      percent: its values there.
      whole: whether every rank is known; else points joined by dots.
    """

    panel: str
    label: str
    ranks: Sequence[int]
    percent: Sequence[float]
    whole: bool = True


def cmc_figure(curves: Sequence[Curve], theme: str) -> bytes:
    """One panel for each direction and mode, percent of the queries over rank 1 to 20, as PNG."""
    with style.context(look(THEMES[theme])):
        return png(_draw_cmc(curves, theme))


def similarity_figure(pairs: Mapping[str, PairSimilarities], similarity: str, theme: str) -> bytes:
    """One panel for each kind of pair, on one scale: densities of true and of false pairs, as PNG."""
    with style.context(look(THEMES[theme])):
        return png(_draw_similarities(pairs, similarity, theme))


def _draw_cmc(curves: Sequence[Curve], theme: str) -> Figure:
    colours = len(PALETTES[theme])
    panels = list(dict.fromkeys(curve.panel for curve in curves))
    columns = min(2, len(panels))
    figure, axes = figure_of(-(-len(panels) // columns), columns, height=4.2)
    for axis, panel in zip(axes, panels, strict=False):
        members = [curve for curve in curves if curve.panel == panel]
        lines = []
        for number, curve in enumerate(members):
            chance = curve.label == "chance"
            look: dict[str, Any] = {
                "color": THEMES[theme]["text"] if chance else PALETTES[theme][number % colours],
                "linestyle": STYLES[number // colours % len(STYLES)],
                "linewidth": 1.8,
            }
            if not curve.whole:
                look |= {"linestyle": ":", "linewidth": 1.2, "marker": "o", "markersize": 3.5}
            lines += axis.plot(curve.ranks, curve.percent, **look)
        axis.set_title(panel)
        axis.set_xlabel("rank")
        axis.set_ylabel("queries found, %")
        axis.set_xlim(0.5, DEPTH + 0.5)
        axis.set_ylim(0, 101)
        axis.set_xticks([1, 5, 10, 15, 20])
        legend = axis.legend(lines, [curve.label for curve in members], fontsize=8, loc="best")
        legend.get_frame().set(alpha=0.8, linewidth=0)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    return figure


def _draw_similarities(pairs: Mapping[str, PairSimilarities], similarity: str, theme: str) -> Figure:
    true, false = PALETTES[theme][:2]
    figure, axes = figure_of(1, len(pairs), height=3.4)
    values = np.concatenate([side for kind in pairs.values() for side in (kind.true_P, kind.false_P)])
    low, high = (float(values.min()), float(values.max())) if len(values) else (-1.0, 1.0)
    if high - low < 1e-6:  # all features alike: a scale is still needed
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, BINS + 1)
    for axis, (kind, found) in zip(axes, pairs.items(), strict=True):
        for side, colour, name in (
            (found.false_P, false, "false pairs"),
            (found.true_P, true, "true pairs"),
        ):
            if not len(side):
                continue
            density = np.histogram(side, edges)[0] / len(side) / (edges[1] - edges[0])
            axis.stairs(density, edges, fill=True, color=colour, alpha=0.4)
            axis.stairs(density, edges, color=colour, linewidth=1.4, label=name)
            axis.axvline(float(side.mean()), color=colour, linewidth=1.2, linestyle="--")
        axis.set_title(kind)
        axis.set_xlabel(SIMILARITIES[similarity])
        axis.set_ylabel("density")
        axis.set_xlim(low, high)
        axis.set_ylim(0, 1.25 * max(axis.get_ylim()[1], 1e-3))  # room for the legend
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8, loc="best", framealpha=0.8)
    return figure


def figure_of(rows: int, columns: int, *, height: float) -> tuple[Figure, list[Axes]]:
    """A figure and its axes, row by row; `height` of a row in inches."""
    width = 5.6 if columns < 3 else 4.2
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    return figure, np.atleast_1d(figure.subplots(rows, columns)).ravel().tolist()


def look(colours: Mapping[str, str]) -> list[Any]:
    """For Matplotlib's `style.context`: its own style first, so that a user's settings do not change the report."""
    text = {
        f"{name}color": colours["text"]
        for name in ("text.", "axes.label", "axes.title", "xtick.", "ytick.", "xtick.label", "ytick.label")
    }
    return [
        "default",
        {
            **text,
            "axes.facecolor": colours["ground"],
            "figure.facecolor": colours["ground"],
            "legend.facecolor": colours["ground"],
            "axes.edgecolor": colours["faint"],
            "grid.color": colours["faint"],
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 11,
            "axes.labelsize": 9,
            "xtick.labelsize": 9,
            "ytick.labelsize": 9,
            "font.family": "DejaVu Sans",
            "text.parse_math": False,  # a file's name may hold dollar signs
        },
    ]


def png(figure: Figure) -> bytes:
    """The figure as a PNG without any metadata."""
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a name in a script that the font lacks: boxes will do
        figure.savefig(out, format="png", dpi=160, metadata={"Software": None})
    return out.getvalue()
