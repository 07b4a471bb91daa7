"""The work folder of a run: whose it is, that nobody else writes into it, and its metrics."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bdf_jax import config as configs
from bdf_jax.config import Config
from bdf_jax.errors import BdfError

# What may differ when a run is continued: where things lie, how fast they go, how often something is written, and
# how the result is compared. None of it changes the numbers of a step.
FREE = (
    "data.root",
    "data.dir",
    "data.workers",
    "data.prefetch",
    "data.decoded_cache",
    "model.remat",
    "training.compiler",
    "training.tensorboard",
    "training.wandb",
    "training.log_every",
    "training.checkpoint_every",
    "evaluation",
)


@contextlib.contextmanager
def claimed(workdir: str | Path, config: Config) -> Iterator[Path]:
    """The work folder, made where it is missing, for this process alone until the block ends.

    Raises:
      BdfError: the folder cannot be written, belongs to another configuration, or another process is using it.
    """
    path = Path(workdir).expanduser().absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = open(path / ".lock", "w")  # noqa: SIM115  open for as long as the folder is ours
    except OSError as error:
        raise BdfError(f"--workdir={workdir}: cannot write into this folder: {error}; name another") from error
    with lock:
        try:
            # The system lets go of the lock when the process ends, however it ends: no stale lock, no clock.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BdfError(
                f"--workdir={workdir}: another run is using this folder; wait for it to end, stop it, or name another "
                "folder"
            ) from error
        _check_owner(path, config)
        yield path


def _check_owner(path: Path, config: Config) -> None:
    """Refuses a folder of another configuration; writes the configuration into a new one."""
    file = path / "config.json"
    if not file.exists():
        # Written beside and renamed: a run that is killed here leaves no half of it.
        temporary = file.with_suffix(".tmp")
        temporary.write_text(json.dumps(configs.to_dict(config), indent=2) + "\n")
        os.replace(temporary, file)
        return
    try:
        # Through the schema, so that a field younger than the folder has the value that it had without being there.
        before = configs.to_dict(configs.from_dict(json.loads(file.read_text())))
    except (ValueError, BdfError) as error:
        raise BdfError(f"{file}: not the configuration of a run ({error}); name another --workdir") from error
    differences = list(_differences(before, configs.to_dict(config)))
    if differences:
        listed = "\n".join(f"  {name}: {old!r} there, {new!r} now" for name, old, new in differences)
        raise BdfError(
            f"--workdir={path}: the folder holds a run of another configuration:\n{listed}\n"
            "name another --workdir, or start with the configuration of the folder to continue it"
        )


def _differences(before: Any, now: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    if prefix.rstrip(".") in FREE:
        return
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in sorted({*before, *now}):
            yield from _differences(before.get(name), now.get(name), f"{prefix}{name}.")
    elif before != now:
        yield prefix.rstrip("."), before, now


class MetricsFile:
    """`metrics.jsonl`: one JSON object a logged step, every step once, whatever happened in between.

    Args:
      path: of the file.
      start: step of the checkpoint that training continues from; lines after it are of steps that will come again.
    """

    def __init__(self, path: Path, start: int):
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        kept = [line for line in lines if _step(line) <= start]
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(kept))
        os.replace(temporary, path)
        self._file = open(path, "a")  # noqa: SIM115  closed by close()

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Appends one line and hands it to the system, so that a killed process loses none.

        Raises:
          BdfError: the disk does not take it.
        """
        try:
            self._file.write(json.dumps({"step": step, **metrics}) + "\n")
            self._file.flush()
        except OSError as error:
            raise BdfError(
                f"{self._file.name}: step {step} could not be written: {error.strerror or error}; training stops, and "
                "the last checkpoint is kept. Mend that (make room, say) and start the same command again"
            ) from error

    def close(self) -> None:
        """Closes the file."""
        with contextlib.suppress(OSError):  # what could not be written has been told
            self._file.close()


def _step(line: str) -> float:
    """The step of a line; later than any where a crash cut the line short."""
    try:
        return int(json.loads(line)["step"]) if line.endswith("\n") else float("inf")
    except (ValueError, KeyError, TypeError):
        return float("inf")
