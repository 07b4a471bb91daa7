"""Pictures of a comparison as PNG, on a light and on a dark ground."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import style

from bdf_jax.comparison.columns import title
from bdf_jax.evaluation.report.figures import PALETTES, STYLES, THEMES, figure_of, look, png

COSTS = {"seconds": "seconds a step", "gflop": "GFLOP an image"}


def interval_figure(summary: Mapping[str, Any], theme: str) -> bytes:
    """mAP of every row: the mean over seeds with its 95 % interval over queries, a small dot for each seed."""
    rows, protocols = summary["rows"], summary["protocols"]
    with style.context(look(THEMES[theme])):
        drawn, axes = figure_of(1, len(protocols), height=0.9 + 0.32 * len(rows))
        for p, (axis, protocol) in enumerate(zip(axes, protocols, strict=True)):
            places = range(len(rows), 0, -1)
            for place, row in zip(places, rows, strict=True):
                found = row["results"][p]["mAP"]
                colour = PALETTES[theme][1 if row["name"] == summary["reference"] else 0]
                axis.plot(found["ci"], [place, place], color=colour, linewidth=2)
                axis.plot(found["values"], [place] * len(found["values"]), "o", color=colour, markersize=3, alpha=0.6)
                axis.plot([found["mean"]], [place], "o", color=colour, markersize=6)
            for number, row in enumerate(summary["baselines"]):
                axis.axvline(row["results"][p]["mAP"], color=THEMES[theme]["text"], linewidth=1, label=row["name"],
                             linestyle=STYLES[1 + number % 3])  # fmt: skip
            axis.set_yticks(list(places), [row["name"] for row in rows])
            axis.set_xlabel("mAP, %")
            axis.set_title(title(protocol))
            if summary["baselines"]:
                axis.legend(fontsize=7, loc="lower right", framealpha=0.8)
        return png(drawn)


def cost_figure(summary: Mapping[str, Any], theme: str) -> bytes:
    """mAP of the first protocol over seconds a step and over GFLOP of an image."""
    rows = summary["rows"]
    with style.context(look(THEMES[theme])):
        drawn, axes = figure_of(1, 2, height=4.4)
        for axis, (key, label) in zip(axes, COSTS.items(), strict=True):
            xs = [row["cost"][key] for row in rows]
            ys = [row["results"][0]["mAP"]["mean"] for row in rows]
            axis.plot(xs, ys, "o", color=PALETTES[theme][0])
            _label(axis, xs, ys, [row["name"] for row in rows])
            axis.margins(0.15)
            axis.set_xlim(left=0)
            axis.set_xlabel(label)
            axis.set_ylabel(f"mAP, % ({title(summary['protocols'][0])})")
        return png(drawn)


def _label(axis: Any, xs: Sequence[float], ys: Sequence[float], names: Sequence[str]) -> None:
    for x, y, name in zip(xs, ys, names, strict=True):
        axis.annotate(name, (x, y), xytext=(4, 3), textcoords="offset points", fontsize=7)
