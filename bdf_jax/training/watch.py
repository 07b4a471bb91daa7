"""What is seen of a run: progress bar, lines of losses, metrics file; and the guard against NaN."""

from __future__ import annotations

import math
from typing import Any

import jax

from bdf_jax.errors import BdfError
from bdf_jax.progress import bar
from bdf_jax.training.step import Metrics
from bdf_jax.training.workdir import MetricsFile

LINES = 20  # lines of losses in the console over a whole run


class Watch:
    """Takes every step's metrics as they lie on the device and fetches them late, so that the device never waits.

    Args:
      file: where logged steps are written.
      start: steps done before this process.
      total: steps of the run.
      log_every: steps between two logged ones.
      rate: learning rate as a function of the step.
      progress: whether to draw the bar.
    """

    def __init__(self, file: MetricsFile, start: int, total: int, log_every: int, rate: Any, progress: bool = True):
        self._file, self._log_every, self._total, self._rate = file, log_every, total, rate
        self._bar = bar(total=total, initial=start, unit="step", disable=not progress)
        self._line_every = max(1, total // LINES)
        self._pending: list[tuple[int, Metrics]] = []

    def add(self, step: int, metrics: Metrics) -> None:
        """Takes the metrics of a step that was dispatched, and looks at those of earlier steps when it is time."""
        self._bar.update(1)
        if step == 1 or step % self._log_every == 1 or self._log_every == 1:
            self.check()  # all but this step, which the device may still be computing
        self._pending.append((step, metrics))

    def check(self) -> None:
        """Fetches and writes all pending metrics.

        Raises:
          BdfError: a loss is not finite; names the step and the terms.
        """
        pending, self._pending = self._pending, []
        for step, device_metrics in pending:
            metrics = {name: float(value) for name, value in sorted(jax.device_get(device_metrics).items())}
            _check_finite(step, metrics)
            if step % self._log_every == 0 or step in (1, self._total):
                self._file.write(step, metrics | {"learning_rate": float(self._rate(step - 1))})
            if step % self._line_every == 0 or step in (1, self._total):
                self._bar.write(_line(step, self._total, metrics))

    def say(self, line: str) -> None:
        """Writes a line above the bar."""
        self._bar.write(line)

    def close(self) -> None:
        """Ends the bar."""
        self._bar.close()


def _line(step: int, total: int, metrics: dict[str, float]) -> str:
    accuracies = [value for name, value in metrics.items() if name.startswith("accuracy/")]
    accuracy = 100 * sum(accuracies) / len(accuracies)
    losses = "  ".join(f"{name} {metrics[name]:7.3f}" for name in ("loss", "did", "mml", "mdl"))
    return f"step {step:>{len(str(total))}}/{total}  {losses}  accuracy {accuracy:3.0f} %"


def _check_finite(step: int, metrics: dict[str, float]) -> None:
    bad = [name for name, value in metrics.items() if not math.isfinite(value)]
    if not bad:
        return
    terms = [name for name in bad if "/" in name] or bad
    raise BdfError(
        f"step {step}: {', '.join(f'{name} = {metrics[name]}' for name in terms)}; training stops, and the last "
        "checkpoint is kept. A lower --config.optimiser.learning_rate or a longer "
        "--config.optimiser.warmup_epochs is the usual remedy"
    )
