"""Curves of runs side by side: `metrics.jsonl` of several work folders in, one PNG out."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bdf_jax.errors import BdfError
from bdf_jax.output import replaced
from bdf_jax.paths import bucket_address, local_path
from bdf_jax.training.workdir import METRICS

BEFORE, AFTER = ("loss",), ("accuracy", "deviation", "learning_rate", "validation")  # and between them each loss
FEW = 12  # points; so few are drawn one by one and not smoothed
EXACT = ("learning_rate", "validation/mAP")  # no noise to be smoothed away
UNITS = {"learning_rate": "learning rate", "validation/mAP": "mAP, validation identities, %"}
# Okabe and Ito's colours, which colour-blind readers tell apart; lines of other strokes follow when they are used up.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STROKES = ("-", "--", ":", "-.")
WIDE = 3  # panels in a row
PANEL = (4.6, 3.0)  # (width, height), inches


@dataclasses.dataclass(frozen=True)
class Curves:
    """What one run wrote.

    Attributes:
      name: in the legend.
      path: of its metrics file.
      series: metric -> (steps, values), steps ascending.
    """

    name: str
    path: Path
    series: dict[str, tuple[np.ndarray, np.ndarray]]


def read_curves(workdirs: Sequence[str | Path]) -> list[Curves]:
    """The metrics of runs: work folders or their `metrics.jsonl`, also in buckets.

    A last line that was cut short, as a killed process may leave it, is passed over with a note.

    Raises:
      BdfError: no such folder or file, nothing in it yet, a line that is no metrics.
    """
    with contextlib.ExitStack() as copies:
        paths = [_find(_at_hand(workdir, copies)) for workdir in workdirs]
        return [Curves(name, path, _read(path)) for name, path in zip(_names(paths), paths, strict=True)]


def choose(runs: Sequence[Curves], wanted: Sequence[str] = ()) -> list[str]:
    """The metrics to draw, a panel each.

    Args:
      runs: of which at least one must have each metric.
      wanted: names such as `loss` and `mdl/V>I`, or groups: `accuracy` is all of `accuracy/...`. Empty: a default.

    Raises:
      BdfError: a name that no run has, with the nearest.
    """
    known = list(dict.fromkeys(name for run in runs for name in run.series))
    chosen: list[str] = []
    losses = [name for name in known if "/" not in name and name not in (*BEFORE, *AFTER, "gradient_norm")]
    for name in wanted or (*BEFORE, *losses, *AFTER):
        group = [other for other in known if other.startswith(f"{name}/")]
        # `did` is a number of its own as well as the group of its terms; a name means the number where there is one.
        found = [name] if name in known else group
        if not found and wanted:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
            hint = f"nearest: {', '.join(near)}" if near else f"there are {', '.join(sorted(known))}"
            raise BdfError(f"--metrics: no run has {name!r}; {hint}")
        chosen += found
    if not chosen:
        raise BdfError(f"--metrics: none of the usual metrics was found; there are {', '.join(sorted(known))}")
    return list(dict.fromkeys(chosen))


def smoothed(steps: np.ndarray, values: np.ndarray, width: float) -> np.ndarray:
    """An average over the steps before and after, with weights that fall exponentially, for steps at any distance.

    Over the steps before alone a falling curve would run above its own values.

    Args:
      steps: (N,) ascending.
      values: (N,).
      width: steps after which a value counts 1/e; 0: no smoothing.
    """
    if width <= 0:
        return values
    before, weight_before = _sums(steps, values, width)
    after, weight_after = (sums[::-1] for sums in _sums(-steps[::-1], values[::-1], width))
    return (before + after - values) / (weight_before + weight_after - 1)


def _sums(steps: np.ndarray, values: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray]:
    """At each step the weighted sum of the values up to it, and of the weights."""
    sums, weights, total, weight = np.empty(len(values)), np.empty(len(values)), 0.0, 0.0
    for i, value in enumerate(values):
        decay = math.exp(-(steps[i] - steps[i - 1]) / width) if i else 0.0
        sums[i], weights[i] = total, weight = decay * total + value, decay * weight + 1
    return sums, weights


def draw_curves(runs: Sequence[Curves], metrics: Sequence[str], out: str | Path, *, smooth: float = 0.02) -> Path:
    """Draws a panel for each metric with a line for each run that has it.

    Args:
      runs: from `read_curves`.
      metrics: from `choose`.
      out: the PNG file; what was there stays whole until the new one is.
      smooth: width of the average as a share of the longest run's steps; the unsmoothed line stays visible, faintly.

    Raises:
      BdfError: another ending than .png, an impossible width, a file that cannot be written.
    """
    path = local_path(out, "--out").absolute()
    if path.suffix.lower() != ".png":
        raise BdfError(f"--out={out}: expected a name that ends with .png")
    if not 0 <= smooth < 1:
        raise BdfError(f"--smooth: expected a share of the run from 0 to below 1, found {smooth}")
    from matplotlib.figure import Figure  # slow to import; a figure of its own needs no display
    from matplotlib.lines import Line2D

    drawn = [(i, run) for i, run in enumerate(runs) if any(metric in run.series for metric in metrics)]
    columns = min(WIDE, len(metrics))
    rows = -(-len(metrics) // columns)
    # A name takes about a twelfth of an inch a letter, and half an inch for its line.
    letters = int((PANEL[0] * columns - 0.6) * 12)
    labels = [_plain(run.name if len(run.name) <= letters else "..." + run.name[3 - letters :]) for _, run in drawn]
    beside = max(1, int(PANEL[0] * columns / (max(map(len, labels)) / 12 + 0.5)))
    height = PANEL[1] * rows + 0.25 * -(-len(labels) // beside) + 0.2
    figure = Figure(figsize=(PANEL[0] * columns, height), dpi=110, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    width = smooth * max(steps[-1] for run in runs for steps, _ in run.series.values())
    for panel, metric in zip(panels, metrics, strict=False):
        for i, run in drawn:
            if metric in run.series:
                _line(panel, i, *run.series[metric], 0 if metric in EXACT else width)
        _label(panel, metric)
    for panel in panels[len(metrics) :]:
        panel.set_visible(False)
    handles = [Line2D([], [], **_style(i)) for i, _ in drawn]
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), beside), frameon=False)
    return _save(figure, path)


def _style(number: int) -> dict[str, Any]:
    return {"color": COLOURS[number % len(COLOURS)], "linestyle": STROKES[number // len(COLOURS) % len(STROKES)]}


def _line(panel: Any, number: int, steps: np.ndarray, values: np.ndarray, width: float) -> None:
    style = _style(number)
    if len(values) <= FEW:
        panel.plot(steps, values, marker="o", markersize=4, **style)
        return
    if width > 0:
        panel.plot(steps, values, alpha=0.22, linewidth=0.8, **style)
    panel.plot(steps, smoothed(steps, values, width), linewidth=1.6, **style)


def _label(panel: Any, metric: str) -> None:
    panel.set_title(_plain(metric), fontsize=10)
    panel.set_xlabel("step")
    panel.set_ylabel(UNITS.get(metric, _plain(metric)))
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
    panel.set_xlim(left=0)
    if metric.startswith(("accuracy/", "active/")):
        panel.set_ylim(-0.03, 1.03)
    elif metric == "learning_rate":
        panel.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))


def _plain(name: str) -> str:
    """A name as text: matplotlib takes dollars for formulas, and hides a legend's names that begin with "_"."""
    return (" " if name.startswith("_") else "") + name.replace("$", r"\$")


def _save(figure: Any, path: Path) -> Path:
    with replaced(path, f"--out={path}: the picture could not be written") as out:
        figure.savefig(out, format="png", facecolor="white")
    return path


def _at_hand(workdir: str | Path, copies: contextlib.ExitStack) -> str | Path:
    """A copy of what is in a bucket, which `copies` ends; anything else as it is."""
    address = bucket_address(workdir)
    if not address:
        return workdir
    from bdf_jax.buckets.copies import copied

    folder, _, name = address.rpartition("/")
    of_file = name == METRICS
    copy = copies.enter_context(copied(folder if of_file else address))
    copy.outline()
    copy.fetch(lambda name: name == METRICS)
    return copy.folder / METRICS if of_file else copy.folder


def _find(workdir: str | Path) -> Path:
    given = local_path(workdir)
    path = given / METRICS if given.is_dir() else given
    if path.is_file():
        return path
    if not given.exists():
        raise BdfError(f"{given}: no such folder; expected the --workdir of a training run")
    held = ", ".join(sorted(child.name for child in given.iterdir())[:8]) or "nothing"
    raise BdfError(f"{given}: expected a training run with {METRICS}, found {held}; has its first step been logged?")


def _read(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as error:
        raise BdfError(f"{path}: cannot be read as metrics: {error}") from error
    points: dict[str, dict[int, float]] = {}
    for number, line in enumerate(lines, start=1):
        try:
            values = json.loads(line)
            step = int(values.pop("step"))
            numbers = {str(name): float(value) for name, value in values.items()}
        except (ValueError, TypeError, KeyError, AttributeError):
            if number == len(lines) and not line.endswith("\n"):
                print(f"note: {path}: its last line is half-written and passed over", file=sys.stderr)
                break
            raise BdfError(
                f"{path}, line {number}: expected an object with a step and numbers, found {line.strip()[:60]!r}; "
                "is this the metrics file of a run?"
            ) from None
        for name, value in numbers.items():
            if math.isfinite(value):
                points.setdefault(name, {})[step] = value
    if not points:
        raise BdfError(f"{path}: no step is logged in it yet; expected one JSON object a line")
    return {
        name: (np.array(sorted(series)), np.array([series[step] for step in sorted(series)]))
        for name, series in points.items()
    }


def _names(paths: Sequence[Path]) -> list[str]:
    """The folders' names; with as many parents as it takes to tell them apart."""
    parts = [path.absolute().parent.parts if path.name == METRICS else path.absolute().parts for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    repeated = next(path for i, path in enumerate(paths) if path in paths[:i])
    raise BdfError(f"{repeated.parent}: the same run is given twice")
