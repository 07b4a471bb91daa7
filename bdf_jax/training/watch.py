"""What is seen of a run: progress bar, lines of losses, metrics file, events; and the guard against NaN."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

from bdf_jax.errors import BdfError
from bdf_jax.progress import bar, is_terminal
from bdf_jax.training.events import Events
from bdf_jax.training.step import Metrics
from bdf_jax.training.workdir import MetricsFile

LINES = 20  # lines of losses in the console over a whole run
VALIDATION = "validation/mAP"  # percent

Batch = TypeVar("Batch")


class Watch:
    """Takes every step's metrics as they lie on the device and fetches them late, so that the device never waits.

    Args:
      file: where logged steps are written.
      start: steps done before this process.
      total: steps of the run.
      log_every: steps between two logged ones.
      rate: learning rate as a function of the step.
      progress: whether to draw the bar.
      events: TensorBoard and Weights & Biases, where asked for. They also get what differs from one run of the same
        configuration to the next, and so is not in the file: images per second, and the share of time that the
        device waits for data.
      images_per_step: base images in a batch.
      losses: whose values stand in the line of a step.
    """

    def __init__(
        self,
        file: MetricsFile,
        start: int,
        total: int,
        log_every: int,
        rate: Any,
        progress: bool = True,
        events: Events | None = None,
        images_per_step: int = 0,
        losses: Sequence[str] = (),
    ):
        self._file, self._log_every, self._total, self._rate = file, log_every, total, rate
        self._losses = losses
        self._events, self._speed = events or Events({}), _Speed(images_per_step)
        self._bar = bar(total=total, initial=start, unit="step", disable=not progress)
        self._line_every = max(1, total // LINES)
        self._pending: list[tuple[int, Metrics]] = []
        self._held: dict[str, float] = {}

    def next_batch(self, batches: Iterator[Batch]) -> Batch:
        """The next of `batches`; the time that it takes is the time spent waiting for data."""
        with self._speed.waiting():
            return next(batches)

    def add(self, step: int, metrics: Metrics) -> None:
        """Takes the metrics of a step that was dispatched, and looks at those of earlier steps when it is time."""
        self._bar.update(1)
        self._speed.add()
        if step == 1 or step % self._log_every == 1 or self._log_every == 1:
            self.check()  # all but this step, which the device may still be computing
        self._pending.append((step, metrics))

    def check(self, *, validating: bool = False) -> None:
        """Fetches and writes all pending metrics.

        Args:
          validating: the last step is about to be validated: its line waits for `validated`, for a step has one line.

        Raises:
          BdfError: a loss is not finite; names the step and the terms.
        """
        pending, self._pending = self._pending, []
        last = 0
        for step, device_metrics in pending:
            metrics = {name: float(value) for name, value in sorted(jax.device_get(device_metrics).items())}
            _check_finite(step, metrics)
            metrics["learning_rate"] = float(self._rate(step - 1))
            if validating and step == pending[-1][0]:
                self._held = metrics
            elif step % self._log_every == 0 or step in (1, self._total):
                self._file.write(step, metrics)
                self._events.scalars(step, metrics)
                last = step
            if step % self._line_every == 0 or step in (1, self._total):
                self.say(_line(step, self._total, metrics, self._losses))
        if last and (rates := self._speed.measure()):
            self._events.scalars(last, rates)

    def say(self, line: str) -> None:
        """Writes a line above the bar; nothing where there is none: of several processes only one speaks."""
        if self._bar.disable:
            return
        if is_terminal():
            self._bar.write(line)
        else:  # nothing is above a bar in a file; tqdm would write the bar once more with every line
            print(line, flush=True)

    def validated(self, step: int, mean_ap: float) -> None:
        """Takes the mAP, 0..1, of the validation identities."""
        metrics = self._held | {VALIDATION: 100 * mean_ap}
        self.say(f"step {step}: mAP {metrics[VALIDATION]:.2f} on the validation identities")
        self._file.write(step, metrics)
        self._events.scalars(step, metrics)

    def show(self, step: int, name: str, image_HWC: np.ndarray) -> None:
        """Takes a picture, (H, W, 3) uint8."""
        self._events.image(step, name, image_HWC)

    def pause(self) -> None:
        """What happens until the next batch, such as validation, is not training and does not count as its time."""
        self._speed.measure()

    def close(self) -> None:
        """Ends the bar and the events."""
        self._bar.close()
        self._events.close()


class _Speed:
    """Images per second and the share of time spent waiting for data, between two looks at the metrics."""

    def __init__(self, images_per_step: int):
        self._images, self._steps, self._waited = images_per_step, 0, 0.0
        self._since: float | None = None
        self._compiled = False

    def waiting(self) -> _Speed:
        """A block whose time is spent waiting."""
        return self

    def __enter__(self) -> None:
        self._began = time.perf_counter()
        if self._since is None:
            self._since = self._began

    def __exit__(self, *_: Any) -> None:
        self._waited += time.perf_counter() - self._began

    def add(self) -> None:
        """A step was dispatched."""
        self._steps += 1
        if not self._compiled:  # the first step compiles the program while it is dispatched
            self._compiled = True
            self._since, self._steps, self._waited = time.perf_counter(), 0, 0.0

    def measure(self) -> dict[str, float]:
        """The rates since the last look, and a new beginning at the next batch."""
        since, steps, waited = self._since, self._steps, self._waited
        self._since, self._steps, self._waited = None, 0, 0.0
        seconds = 0.0 if since is None else time.perf_counter() - since
        if not steps or not seconds:
            return {}
        return {"rate/images_per_second": steps * self._images / seconds, "rate/waiting_for_data": waited / seconds}


def _line(step: int, total: int, metrics: dict[str, float], names: Sequence[str]) -> str:
    accuracies = [value for name, value in metrics.items() if name.startswith("accuracy/")]
    accuracy = f"  accuracy {100 * sum(accuracies) / len(accuracies):3.0f} %" if accuracies else ""
    losses = "  ".join(f"{name} {metrics[name]:7.3f}" for name in ("loss", *names) if name in metrics)
    return f"step {step:>{len(str(total))}}/{total}  {losses}{accuracy}"


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
