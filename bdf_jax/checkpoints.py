"""Checkpoints: the only file that knows Orbax.

A checkpoint is self-contained: the state of training, and beside it what is needed to use it elsewhere, the
configuration, the fingerprint of the split it was trained on, and the number of classes.
"""

from __future__ import annotations

import dataclasses
import errno
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from bdf_jax import config as configs
from bdf_jax.errors import BdfError

KEEP = 2  # the last, and the one before in case the last is damaged


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What a checkpoint says of itself.

    Attributes:
      config: of the run.
      fingerprint: of the data set's splits (`data.dataset.Dataset.fingerprint`).
      num_classes: C, identities in the training split.
    """

    config: configs.Config
    fingerprint: str
    num_classes: int

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {
            "config": configs.to_dict(self.config),
            "fingerprint": self.fingerprint,
            "num_classes": self.num_classes,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any], path: Path) -> Metadata:
        """The inverse of `to_json`; raises BdfError where something is missing."""
        missing = [field.name for field in dataclasses.fields(cls) if field.name not in values]
        if missing:
            raise BdfError(f"{path}: not a checkpoint of this project; its metadata lacks {', '.join(missing)}")
        return cls(configs.from_dict(values["config"]), values["fingerprint"], values["num_classes"])


class Checkpoints:
    """The sequence of checkpoints of a run, in `workdir/checkpoints`.

    Saving is asynchronous and atomic: a checkpoint that was not finished is not there. The last ones and, where a
    validation score is given, the best one are kept.
    """

    def __init__(self, workdir: Path):
        self.directory = workdir.absolute() / "checkpoints"
        policies = ocp.training.preservation_policies
        best = policies.BestN(get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False)
        try:
            self._orbax = ocp.training.Checkpointer(
                self.directory,
                preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(KEEP), best]),
                cleanup_tmp_directories=True,
            )
        except OSError as error:
            raise BdfError(f"{self.directory}: cannot keep checkpoints here: {error}") from error

    def steps(self) -> list[int]:
        """Steps of the finished checkpoints, ascending."""
        return [checkpoint.step for checkpoint in self._orbax.checkpoints]

    def best_step(self) -> int | None:
        """The step with the best validation score; None where nothing was validated."""
        return _best(self._orbax)

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
        with self._failures(step):
            self._orbax.save_async(
                step,
                state,
                force=True,  # the loop decides when; Orbax's own policy would skip silently
                metrics=None if score is None else {"score": score},
                custom_metadata=metadata.to_json(),
            )

    def wait(self) -> None:
        """Returns when the last save is on the disk; raises BdfError where it failed."""
        with self._failures(None):
            self._orbax.wait()

    def expect(self, metadata: Metadata) -> None:
        """Refuses to continue on data that are divided differently from those of the checkpoints here.

        Raises:
          BdfError: other splits, or another number of classes.
        """
        for checkpoint in self._orbax.checkpoints[-1:]:
            saved = Metadata.from_json(self._orbax.metadata(checkpoint.step).custom_metadata or {}, self.directory)
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
          BdfError: there are checkpoints, and none can be read.
        """
        failures = []
        for step in reversed(self.steps()):
            try:
                restored = self._orbax.load(step, jax.tree.map(_abstract, state))
            except Exception as error:
                failures.append(f"step {step}: {_first_line(error)}")
                logging.getLogger("bdf_jax").warning(
                    "checkpoint of step %d cannot be read and is passed over: %s", step, _first_line(error)
                )
                continue
            # What cannot be read must not stand in the way of the run reaching that step again.
            for damaged in [s for s in self.steps() if s > step]:
                shutil.move(self.directory / str(damaged), self.directory.parent / f"damaged-checkpoint-{damaged}")
                self._orbax.reload()
            return restored, step
        if failures:
            raise BdfError(
                f"{self.directory}: no checkpoint can be read ({'; '.join(failures)}); remove the folder to start anew"
            )
        return state, 0

    def close(self) -> None:
        """Waits for the last save and stops Orbax's threads."""
        with self._failures(None):
            self._orbax.close()

    def _failures(self, step: int | None) -> _SaveFailures:
        return _SaveFailures(self.directory, step)


class _SaveFailures:
    """Turns what can go wrong while saving into an error that says what is still there."""

    def __init__(self, directory: Path, step: int | None):
        self.directory, self.step = directory, step

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or not isinstance(error, Exception):
            return
        full = "No space left" in str(error) or getattr(error, "errno", None) == errno.ENOSPC
        finished = _finished(self.directory)
        kept = f"the checkpoint of step {finished[-1]} is whole" if finished else "there is no earlier checkpoint"
        what = "the disk is full" if full else _first_line(error)
        advice = "make room" if full else "mend that"
        of_step = "" if self.step is None else f" of step {self.step}"
        raise BdfError(
            f"{self.directory}: the checkpoint{of_step} could not be saved: {what}; {kept}; {advice} and start the "
            "same command again"
        ) from error


def load_variables(path: str | Path, step: int | None = None) -> tuple[Metadata, dict[str, Any], int]:
    """Parameters and batch statistics of a checkpoint on this machine's first device, whatever it was saved on.

    Args:
      path: a work folder, its `checkpoints` folder, or one checkpoint.
      step: which checkpoint; None: the best on validation where there was one, else the last.

    Returns:
      Its metadata, `{"params": ..., "batch_stats": ...}`, and its step.

    Raises:
      BdfError: no such folder, no checkpoint in it, no such step, or a damaged one.
    """
    root, step = _find(path, step)
    with ocp.training.Checkpointer(root) as checkpointer:
        metadata, tree = _describe(checkpointer, root, step)
        try:
            return metadata, _load_two(root / str(step), tree), step
        except Exception as error:
            raise _damaged(root, step, error) from error


def load_metadata(path: str | Path, step: int | None = None) -> Metadata:
    """What a checkpoint says of itself, without its arrays; arguments and errors as for `load_variables`."""
    root, step = _find(path, step)
    with ocp.training.Checkpointer(root) as checkpointer:
        return _describe(checkpointer, root, step)[0]


def _find(path: str | Path, step: int | None) -> tuple[Path, int]:
    """The folder of the checkpoints and the step that is meant."""
    given = Path(path).expanduser().absolute()
    if not given.is_dir():
        raise BdfError(f"{given}: no such folder; expected the --workdir of a training run or one of its checkpoints")
    if given.name.isdigit() and step is None:
        step, root = int(given.name), given.parent
    else:
        root = given / "checkpoints" if (given / "checkpoints").is_dir() else given
    steps = _finished(root)
    if not steps:
        entries = ", ".join(sorted(child.name for child in given.iterdir())[:5]) or "nothing"
        raise BdfError(f"{given}: expected a training run with finished checkpoints, found {entries}")
    if step is not None and step not in steps:
        raise BdfError(f"{given}: no checkpoint of step {step}; there are {', '.join(map(str, steps))}")
    if step is None:
        with ocp.training.Checkpointer(root) as checkpointer:
            step = _best(checkpointer) or steps[-1]
    return root, step


def _finished(root: Path) -> list[int]:
    return sorted(int(child.name) for child in root.iterdir() if child.name.isdigit() and child.is_dir())


def _best(checkpointer: Any) -> int | None:
    scored = [checkpoint for checkpoint in checkpointer.checkpoints if checkpoint.metrics]
    return max(scored, key=lambda checkpoint: _score(checkpoint.metrics)).step if scored else None


def _describe(checkpointer: Any, root: Path, step: int) -> tuple[Metadata, Any]:
    try:
        saved = checkpointer.metadata(step)
    except Exception as error:
        raise _damaged(root, step, error) from error
    return Metadata.from_json(saved.custom_metadata or {}, root / str(step)), saved.metadata


def _damaged(root: Path, step: int, error: Exception) -> BdfError:
    others = ", ".join(str(s) for s in _finished(root) if s != step)
    hint = f"; try --step with one of {others}" if others else ""
    return BdfError(f"{root / str(step)}: damaged checkpoint: {_first_line(error)}{hint}")


def _load_two(path: Path, tree: Any) -> dict[str, Any]:
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    wanted = {
        name: jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), tree[name])
        for name in ("params", "batch_stats")
    }
    context = ocp.Context()
    context.pytree.loading.partial_load = True  # the optimiser's state stays on the disk
    with context:
        return ocp.load(path, wanted, checkpointable_name="state")


def _abstract(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _score(metrics: Any) -> float:
    return metrics["score"]


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
