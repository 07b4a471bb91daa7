"""Saving: asynchronous, atomic, with digests, and past what is damaged."""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from bdf_jax import distributed
from bdf_jax.checkpoints.arrays import check_arrays, how_to_rescue, unjoined
from bdf_jax.checkpoints.files import (
    WRITTEN_LAST,
    Metadata,
    best,
    finished,
    first_line,
    none_left,
    read,
    refuse_undamaged,
)
from bdf_jax.digests import check_digests, json_digest, write_digests
from bdf_jax.errors import BdfError
from bdf_jax.trouble import Trouble

KEEP = 2  # the last, and the one before in case the last is damaged
FULL = ("No space left", "Disk quota exceeded")  # the system's words, inside those of several libraries


class Checkpoints:
    """The sequence of checkpoints of a run, in `workdir/checkpoints`.

    Opening it moves a damaged checkpoint out of the way and says so, as long as a whole one is left. Saving is
    asynchronous and atomic: a checkpoint that was not finished is not there. The last ones and, where a validation
    score is given, the best one are kept. Beside the arrays lie the digests of all files (`SHA256SUMS`).

    Args:
      workdir: of the run.
      settle: returns when what was saved lies where it is kept, if that is elsewhere too; a checkpoint counts as saved
        then.

    Attributes:
      directory: where they lie.
      saved: how many were given to `save`.
      held_seconds: for how long `save`, `wait` and `close` held their caller.

    Raises:
      BdfError: the folder cannot be used, or no checkpoint in it can be read; nothing was changed then.
    """

    def __init__(self, workdir: Path, settle: Callable[[], None] = lambda: None):
        self._settle = settle
        self.directory = workdir.absolute() / "checkpoints"
        logging.getLogger("absl").addFilter(_ours)
        self.saved, self.held_seconds = 0, 0.0
        self._saving: int | None = None  # the step that is being written, or was last
        self._arrays = 0  # in it
        distributed.on_first(self._pass_over_damaged)
        context = ocp.Context()
        # A function, because Orbax copies its context deeply, and with a method the object that it is bound to.
        context.async_options.post_finalization_callback = lambda: self._seal()
        policies = ocp.training.preservation_policies
        best_one = policies.BestN(get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False)
        try:
            self._orbax = ocp.training.Checkpointer(
                self.directory,
                context=context,
                preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(KEEP), best_one]),
                cleanup_tmp_directories=True,
            )
        except Exception as error:
            raise BdfError(
                f"{self.directory}: cannot keep checkpoints here: {first_line(error)}; nothing was changed. Mend "
                "that, or name another --workdir"
            ) from error

    def steps(self) -> list[int]:
        """Steps of the finished checkpoints, ascending."""
        return [checkpoint.step for checkpoint in self._orbax.checkpoints]

    def best_step(self) -> int | None:
        """The step with the best validation score; None where nothing was validated."""
        return best(self.directory)

    def save(self, step: int, state: Any, metadata: Metadata, score: float | None = None) -> None:
        """Starts saving `state` and returns; the state may be donated at once.

        Args:
          step: steps done.
          state: a pytree of arrays.
          metadata: see `Metadata`.
          score: of validation, higher is better.

        Raises:
          BdfError: this save cannot start, or the one before has failed.
        """
        with self._held():  # Orbax would wait too, and this save would be blamed for the failure of the one before
            self._orbax.wait()
        self._keep()
        self._saving, self._arrays = step, len(jax.tree.leaves(state))
        values = {**metadata.to_json(), "step": step, "score": score}
        with self._held():
            self._orbax.save_async(
                step,
                state,
                force=True,  # the loop decides when; Orbax's own policy would skip silently
                metrics=None if score is None else {"score": score},
                custom_metadata={**values, "sha256": json_digest(values)},
            )
        self.saved += 1

    def wait(self) -> None:
        """Returns when the last save is on the disk; raises BdfError where it failed."""
        with self._held():
            self._orbax.wait()
        self._keep()

    def summary(self) -> str:
        """What saving has cost, when the last save is on the disk; raises BdfError where it failed."""
        held = self.held_seconds
        self.wait()
        return (
            f"{self.saved} checkpoint{'s' * (self.saved != 1)} held the loop for {held:.2f} s, and its end for "
            f"{self.held_seconds - held:.2f} s"
        )

    def expect(self, metadata: Metadata) -> None:
        """Refuses to continue on data that are divided differently from those of the checkpoints here.

        Raises:
          BdfError: other splits, or another number of classes.
        """
        for step in self.steps()[-1:]:
            saved, _ = read(self.directory / str(step))
            if (saved.fingerprint, saved.num_classes) != (metadata.fingerprint, metadata.num_classes):
                raise BdfError(
                    f"{self.directory}: these checkpoints were trained on other splits ({saved.num_classes} "
                    f"identities, fingerprint {saved.fingerprint[:12]}) than those of the data set given "
                    f"({metadata.num_classes} identities, fingerprint {metadata.fingerprint[:12]}); give the data of "
                    "that run, or name another --workdir"
                )

    def restore(self, state: Any) -> tuple[Any, int]:
        """The newest checkpoint that can be read, placed as `state` is.

        Returns:
          The state and its step; `state` itself and 0 where there is no checkpoint.

        Raises:
          BdfError: there are checkpoints, and none can be read; or the newest cannot, and is not damaged.
        """
        failures: dict[int, str] = {}
        for step in reversed(self.steps()):
            try:
                restored = self._orbax.load(step, jax.tree.map(_abstract, state))
            except Exception as error:
                refuse_undamaged(self.directory / str(step), error)
                failures[step] = first_line(error)
                continue
            if failures:
                distributed.on_first(lambda: self._move_aside(failures))
                self._orbax.reload()
            return restored, step
        if failures:
            raise none_left(self.directory, failures)
        return state, 0

    def close(self) -> None:
        """Waits for the last save and stops Orbax's threads."""
        with self._held():
            self._orbax.close()

    def _keep(self) -> None:
        """Holds the caller until what was saved lies where it is kept."""
        began = time.perf_counter()
        try:
            self._settle()
        finally:
            self.held_seconds += time.perf_counter() - began

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        """Times what holds the caller, and turns what can go wrong into an error that says what is still there."""
        began = time.perf_counter()
        try:
            yield
        except Exception as error:
            whole = finished(self.directory)
            kept = f"the checkpoint of step {whole[-1]} is whole" if whole else "there is no earlier checkpoint"
            full = any(words in str(error) for words in FULL)
            said = str(error) if isinstance(error, BdfError) else first_line(error)
            what, advice = ("the disk is full", "make room") if full else (said, "mend that")
            of_step = "" if self._saving is None else f" of step {self._saving}"
            raise BdfError(
                f"{self.directory}: the checkpoint{of_step} could not be saved: {what}; {kept}; {advice} and start "
                "the same command again"
            ) from error
        finally:
            self.held_seconds += time.perf_counter() - began

    def _seal(self) -> None:
        """Looks whether a checkpoint that is complete but for its name can be read, and writes its digests.

        Orbax calls this in the background. An error leaves the checkpoint unfinished, and comes out of the next `save`.
        """
        if distributed.is_first():
            for unfinished in self.directory.glob(f"{self._saving}.*tmp*"):
                check_arrays(unfinished, self._arrays)
                write_digests(unfinished, leave_out=WRITTEN_LAST)

    def _pass_over_damaged(self) -> None:
        """Before Orbax looks: it cannot open a folder with some kinds of damage, and would keep the wrong ones."""
        steps = finished(self.directory)
        failures: dict[int, str] = {}
        for step in steps:
            if unjoined(self.directory / str(step)):
                raise BdfError(f"{self.directory / str(step)}: {how_to_rescue(self.directory)}; then start again")
            try:
                check_digests(self.directory / str(step))
                read(self.directory / str(step))
            except Trouble as error:
                raise Trouble(
                    f"{self.directory / str(step)}: {error}; nothing was changed. Mend that and start again"
                ) from error
            except BdfError as error:
                failures[step] = str(error)
        if failures and len(failures) == len(steps):
            raise none_left(self.directory, failures)
        self._move_aside(failures)

    def _move_aside(self, failures: Mapping[int, str]) -> None:
        """Renames what cannot be read, so that it does not stand in the way of the run reaching that step again."""
        for step, damage in failures.items():
            names = (f"damaged-checkpoint-{step}{suffix}" for suffix in ("", *(f"-{n}" for n in range(2, 10_000))))
            aside = next(path for path in map(self.directory.parent.joinpath, names) if not path.exists())
            try:
                shutil.move(self.directory / str(step), aside)
            except OSError as error:
                raise BdfError(
                    f"{self.directory / str(step)}: damaged ({damage}), and cannot be moved aside: {error}; move it"
                ) from error
            logging.getLogger("bdf_jax").warning(
                "checkpoint of step %d cannot be read and is passed over: %s; it is now %s", step, damage, aside
            )


def _abstract(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _ours(record: logging.LogRecord) -> bool:
    """Not of Orbax with a traceback: that failure comes out of the next call, and is told once."""
    return not (record.exc_info and "orbax" in record.pathname)


def _score(metrics: Any) -> float:
    return metrics["score"]
