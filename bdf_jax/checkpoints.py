"""Checkpoints: the only file that knows Orbax.

A checkpoint is self-contained: the state of training, and beside it what is needed to use it elsewhere, the
configuration, the fingerprint of the split it was trained on, and the number of classes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from bdf_jax import config as configs
from bdf_jax import distributed
from bdf_jax.digests import check_digests, json_digest, write_digests
from bdf_jax.errors import BdfError

KEEP = 2  # the last, and the one before in case the last is damaged
# Orbax writes these once more after the digests: a mark that nobody reads on a local disk, and the file of the
# metadata, to add the time. What we have in that file carries a digest of its own.
METADATA = "_CHECKPOINT_METADATA"
WRITTEN_LAST = ("commit_success.txt", METADATA)
FULL = ("No space left", "Disk quota exceeded")  # the system's words, inside those of several libraries


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
    def from_json(cls, values: Mapping[str, Any]) -> Metadata:
        """The inverse of `to_json`; raises BdfError where something is missing."""
        missing = [field.name for field in dataclasses.fields(cls) if field.name not in values]
        if missing:
            raise BdfError(f"its metadata lacks {', '.join(missing)}; not a checkpoint of this project, or not whole")
        return cls(configs.from_dict(values["config"]), values["fingerprint"], values["num_classes"])


class Checkpoints:
    """The sequence of checkpoints of a run, in `workdir/checkpoints`.

    Opening it moves a damaged checkpoint out of the way and says so, as long as a whole one is left. Saving is
    asynchronous and atomic: a checkpoint that was not finished is not there. The last ones and, where a validation
    score is given, the best one are kept. Beside the arrays lie the digests of all files (`SHA256SUMS`).

    Attributes:
      directory: where they lie.
      saved: how many were given to `save`.
      held_seconds: for how long `save`, `wait` and `close` held their caller.

    Raises:
      BdfError: the folder cannot be used, or no checkpoint in it can be read; nothing was changed then.
    """

    def __init__(self, workdir: Path):
        self.directory = workdir.absolute() / "checkpoints"
        self.saved, self.held_seconds = 0, 0.0
        self._saving: int | None = None  # the step that is being written, or was last
        distributed.on_first(self._pass_over_damaged)
        context = ocp.Context()
        # A function, because Orbax copies its context deeply, and with a method the object that it is bound to.
        context.async_options.post_finalization_callback = lambda: self._seal()
        policies = ocp.training.preservation_policies
        best = policies.BestN(get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False)
        try:
            self._orbax = ocp.training.Checkpointer(
                self.directory,
                context=context,
                preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(KEEP), best]),
                cleanup_tmp_directories=True,
            )
        except Exception as error:
            raise BdfError(
                f"{self.directory}: cannot keep checkpoints here: {_first_line(error)}; nothing was changed. Mend "
                "that, or name another --workdir"
            ) from error

    def steps(self) -> list[int]:
        """Steps of the finished checkpoints, ascending."""
        return [checkpoint.step for checkpoint in self._orbax.checkpoints]

    def best_step(self) -> int | None:
        """The step with the best validation score; None where nothing was validated."""
        return _best(self.directory)

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
        self._saving = step
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
            saved, _ = _read(self.directory / str(step))
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
        failures: dict[int, str] = {}
        for step in reversed(self.steps()):
            try:
                restored = self._orbax.load(step, jax.tree.map(_abstract, state))
            except Exception as error:
                failures[step] = _first_line(error)
                continue
            if failures:
                distributed.on_first(lambda: self._move_aside(failures))
                self._orbax.reload()
            return restored, step
        if failures:
            raise _none_left(self.directory, failures)
        return state, 0

    def close(self) -> None:
        """Waits for the last save and stops Orbax's threads."""
        with self._held():
            self._orbax.close()

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        """Times what holds the caller, and turns what can go wrong into an error that says what is still there."""
        began = time.perf_counter()
        try:
            yield
        except Exception as error:
            finished = _finished(self.directory) if self.directory.is_dir() else []
            kept = f"the checkpoint of step {finished[-1]} is whole" if finished else "there is no earlier checkpoint"
            full = any(words in str(error) for words in FULL)
            what, advice = ("the disk is full", "make room") if full else (_first_line(error), "mend that")
            of_step = "" if self._saving is None else f" of step {self._saving}"
            raise BdfError(
                f"{self.directory}: the checkpoint{of_step} could not be saved: {what}; {kept}; {advice} and start "
                "the same command again"
            ) from error
        finally:
            self.held_seconds += time.perf_counter() - began

    def _seal(self) -> None:
        """Writes the digests of a checkpoint that is complete but for its name; Orbax calls this in the background."""
        if distributed.is_first():
            for unfinished in self.directory.glob(f"{self._saving}.*tmp*"):
                write_digests(unfinished, leave_out=WRITTEN_LAST)

    def _pass_over_damaged(self) -> None:
        """Before Orbax looks: it cannot open a folder with some kinds of damage, and would keep the wrong ones."""
        steps = _finished(self.directory) if self.directory.is_dir() else []
        failures: dict[int, str] = {}
        for step in steps:
            try:
                check_digests(self.directory / str(step))
                _read(self.directory / str(step))
            except BdfError as error:
                failures[step] = str(error)
        if failures and len(failures) == len(steps):
            raise _none_left(self.directory, failures)
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


def _read(path: Path) -> tuple[Metadata, float | None]:
    """What the checkpoint in `path` says of itself, and its validation score.

    Its JSON is read directly: Orbax opens every array first, and is loud where it cannot.

    Raises:
      BdfError: it cannot be read, or is not of this checkpoint; the path is not named.
    """
    try:
        values = dict(json.loads((path / METADATA).read_text())["custom_metadata"])
    except FileNotFoundError as error:
        raise BdfError(f"{METADATA} is missing") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BdfError(f"{METADATA} cannot be read ({_first_line(error)})") from error
    digest = values.pop("sha256", None)
    metadata = Metadata.from_json(values)
    if digest not in (None, json_digest(values)):
        raise BdfError(f"{METADATA} is not what was written")
    if values.get("step", int(path.name)) != int(path.name):
        raise BdfError(f"it holds the state of step {values['step']}")
    return metadata, values.get("score")


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
    return _load(path, step, ("params", "batch_stats"))


def load_state(path: str | Path, step: int | None = None) -> tuple[Metadata, dict[str, Any], int]:
    """As `load_variables`, with everything that was saved: the optimiser's state too, as nested dictionaries."""
    return _load(path, step, None)


def load_metadata(path: str | Path, step: int | None = None) -> Metadata:
    """What a checkpoint says of itself, without its arrays; arguments and errors as for `load_variables`."""
    root, step = _find(path, step)
    try:
        return _read(root / str(step))[0]
    except BdfError as error:
        raise _unusable(root, step, error) from error


def newest_metadata(workdir: Path) -> tuple[int, Metadata] | None:
    """Step and metadata of the newest checkpoint of a work folder that has any to read; None where there is none."""
    root = workdir / "checkpoints"
    for step in reversed(_finished(root) if root.is_dir() else []):
        with contextlib.suppress(BdfError):
            return step, _read(root / str(step))[0]
    return None


def _find(path: str | Path, step: int | None) -> tuple[Path, int]:
    """The folder of the checkpoints and the step that is meant."""
    given = Path(path).expanduser().absolute()
    try:
        return _look_for(given, step)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BdfError(
            f"{given}: no such folder; expected the --workdir of a training run or one of its checkpoints"
        ) from error
    except OSError as error:
        raise BdfError(f"{given}: cannot be read: {error}") from error


def _look_for(given: Path, step: int | None) -> tuple[Path, int]:
    os.listdir(given)  # raises where there is no folder, or none that we may look into
    if (given / "checkpoints").is_dir():  # before the name is looked at: a run may be called 1 too
        root = given / "checkpoints"
    elif given.name.isdecimal() and step is None:
        step, root = int(given.name), given.parent
    else:
        root = given
    steps = _finished(root)
    if not steps:
        entries = ", ".join(sorted(child.name for child in given.iterdir())[:5]) or "nothing"
        raise BdfError(f"{given}: expected a training run with finished checkpoints, found {entries}")
    if step is not None and step not in steps:
        raise BdfError(f"{given}: no checkpoint of step {step}; there are {', '.join(map(str, steps))}")
    return root, (_best(root) or steps[-1]) if step is None else step


def _finished(root: Path) -> list[int]:
    """Steps of the checkpoints in a folder, where anything else may lie too."""
    names = (child.name for child in root.iterdir() if child.is_dir())
    return sorted(int(name) for name in names if name.isascii() and name.isdecimal() and name == str(int(name)))


def _best(root: Path) -> int | None:
    """The step with the best validation score; raises BdfError where that cannot be told."""
    scores: dict[int, float] = {}
    for step in _finished(root):
        try:
            _, score = _read(root / str(step))
        except BdfError as error:
            raise _unusable(root, step, error) from error
        if score is not None:
            scores[step] = score
    return max(scores, key=lambda step: scores[step]) if scores else None


def _unusable(root: Path, step: int, error: Exception) -> BdfError:
    others = [str(other) for other in _finished(root) if other != step]
    hint = f"; name another with --step={others[-1]}" if others else ""
    hint += f" ({', '.join(others)} are there)" if len(others) > 1 else ""
    what = str(error) if isinstance(error, BdfError) else _first_line(error)
    return BdfError(f"{root / str(step)}: damaged checkpoint: {what}{hint}")


def _none_left(directory: Path, failures: Mapping[int, str]) -> BdfError:
    listed = "; ".join(f"step {step}: {damage}" for step, damage in sorted(failures.items()))
    return BdfError(
        f"{directory}: no checkpoint can be read ({listed}); nothing was changed. Rename or remove that folder to "
        "start anew"
    )


def _load(path: str | Path, step: int | None, names: Collection[str] | None) -> tuple[Metadata, dict[str, Any], int]:
    root, step = _find(path, step)
    try:
        check_digests(root / str(step))
        metadata, _ = _read(root / str(step))
        return metadata, _load_arrays(root / str(step), names), step
    except Exception as error:
        raise _unusable(root, step, error) from error


def _load_arrays(path: Path, names: Collection[str] | None) -> dict[str, Any]:
    tree: Any = ocp.metadata(path).metadata
    if not tree:
        raise BdfError("its list of arrays cannot be read")
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    wanted = {
        name: jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), tree[name])
        for name in names or tree
    }
    context = ocp.Context()
    context.pytree.loading.partial_load = True  # what is not asked for stays on the disk
    with context:
        return ocp.load(path, wanted, checkpointable_name="state")


def _abstract(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _score(metrics: Any) -> float:
    return metrics["score"]


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
