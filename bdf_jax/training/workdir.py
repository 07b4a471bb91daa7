"""The work folder of a run: whose it is, that nobody else writes into it, and its metrics."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bdf_jax import config as configs
from bdf_jax.config import Config
from bdf_jax.errors import BdfError
from bdf_jax.locks import locked
from bdf_jax.output import write_json, write_text
from bdf_jax.paths import UNWRITABLE, check_name, local_path

CONFIG, LOCK, METRICS = "config.json", ".lock", "metrics.jsonl"
EVENT_FILES = "events.out.tfevents.*"  # TensorBoard's
_LOG = logging.getLogger("bdf_jax")

# What may differ when a run is continued: where things lie, how fast they go, how often something is written, and
# how the result is compared. None of it changes the numbers of a step.
FREE = (
    "data.root",
    "data.dir",
    "data.workers",
    "data.prefetch",
    "data.decoded_cache",
    "network.remat",
    "training.compiler",
    "training.tensorboard",
    "training.wandb",
    "training.log_every",
    "training.checkpoint_every",
    "retrieve",
    "evaluation",
)


@contextlib.contextmanager
def claimed(workdir: str | Path, config: Config) -> Iterator[Path]:
    """The work folder, made where it is missing, for this process alone until the block ends.

    Raises:
      BdfError: the folder cannot be written, belongs to another configuration or another program, or another process
        is using it.
    """
    path = local_path(workdir, "--workdir", utf8=True).absolute()
    check_name(path, UNWRITABLE, "--workdir")
    try:
        path.mkdir(parents=True, exist_ok=True)
        (path / LOCK).touch()
    except FileExistsError as error:
        raise BdfError(f"--workdir={workdir}: expected a folder, found a file of that name; name another") from error
    except OSError as error:
        raise BdfError(f"--workdir={workdir}: cannot write into this folder: {error}; name another") from error

    def busy() -> None:
        raise BdfError(
            f"--workdir={workdir}: another run is using this folder; wait for it to end, stop it, or name another "
            "folder"
        )

    def impossible(error: OSError) -> None:
        _LOG.warning("--workdir=%s: cannot be locked (%s); see to it that no other run uses it", workdir, error)

    with locked(path / LOCK, busy, impossible):
        new = not (path / CONFIG).exists()
        _check_owner(path, config)
        try:
            yield path
        except BaseException:
            if new and _nothing_done(path):
                (path / CONFIG).unlink(missing_ok=True)  # refused data, say: the folder is free for other settings
            raise


def _nothing_done(path: Path) -> bool:
    """Whether a folder has nothing but what claiming it wrote, and empty files and folders."""
    files = (file for file in path.rglob("*") if file.is_file() and file.name not in (CONFIG, LOCK))
    return not any(map(_holds_something, files))


def _holds_something(path: Path) -> bool:
    """Whether a file has contents, or a folder a file with some."""
    files = path.rglob("*") if path.is_dir() else [path]
    return any(file.stat().st_size for file in files if file.is_file())


def _check_owner(path: Path, config: Config) -> None:
    """Refuses a folder of another configuration; writes the configuration into a new one."""
    file = path / CONFIG
    try:
        before = _configuration_of(file)
        if before is not None:
            _compare(path, before, config)
        if file.exists():
            return
        if before is None:
            _check_free(path)
        write_json(file, configs.to_dict(config))
    except OSError as error:
        raise BdfError(f"{file}: cannot be read or written: {error}; mend that, or name another --workdir") from error


def _check_free(path: Path) -> None:
    """Refuses a folder without a run in which there is what a run would continue, cut or clean up."""
    held = [path / METRICS, *path.glob(EVENT_FILES), *path.glob("checkpoints/*")]
    found = sorted(str(file.relative_to(path)) for file in held if _holds_something(file))
    if found:
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        raise BdfError(
            f"--workdir={path}: expected a new folder or that of a run, found {', '.join(found[:5])}{more} and no "
            f"{CONFIG}; name another, or move these away"
        )


def _configuration_of(file: Path) -> Config | None:
    """The configuration of the folder's run; None where it has none yet.

    Without a readable file it is that of the newest checkpoint, so that nobody continues a run with other settings.
    """
    if file.exists():
        try:
            # Through the schema: a field younger than the folder has the value that it had without being there.
            return configs.from_dict(json.loads(file.read_text()))
        except (ValueError, BdfError) as error:
            damage = f"not the configuration of a run ({str(error) or type(error).__name__})"
    else:
        damage = "missing"
    from bdf_jax.checkpoints import newest_metadata  # brings JAX and Orbax

    newest = newest_metadata(file.parent)
    if newest is None:
        if damage == "missing":
            return None
        raise BdfError(f"{file}: {damage}; name another --workdir, or remove that file if the folder holds no run")
    step, metadata = newest
    aside = f"; the file is now {_set_aside(file).name}" if damage != "missing" else ""
    _LOG.warning("%s: %s; the configuration of the checkpoint of step %d counts%s", file, damage, step, aside)
    return metadata.config


def _compare(path: Path, before: Config, now: Config) -> None:
    differences = list(_differences(configs.to_dict(before), configs.to_dict(now)))
    if differences:
        listed = "\n".join(f"  {name}: {old!r} there, {new!r} now" for name, old, new in differences)
        raise BdfError(
            f"--workdir={path}: the folder holds a run of another configuration:\n{listed}\n"
            "name another --workdir, or start with the configuration of the folder to continue it"
        )


def _set_aside(file: Path) -> Path:
    """Renames a damaged file of the work folder to a name that is free."""
    names = (f"damaged-{number}{file.name}" for number in ("", *(f"{n}-" for n in range(2, 10_000))))
    aside = next(path for path in map(file.parent.joinpath, names) if not path.exists())
    os.replace(file, aside)
    return aside


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
        try:
            kept = _lines_until(path, start)
            write_text(path, "".join(kept))
            self._file = open(path, "a")  # noqa: SIM115  closed by close()
        except OSError as error:
            raise BdfError(
                f"{path}: cannot be written: {error}; nothing was lost. Mend that and start the same command again"
            ) from error

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


def _lines_until(path: Path, start: int) -> list[str]:
    """The lines of steps up to `start`. What else is there comes again, or is kept in a file of its own."""
    text = path.read_bytes().decode(errors="replace") if path.exists() else ""
    kept: dict[Any, str] = {}
    damaged = 0
    for line in text.split("\n")[:-1]:  # a crash cuts the last line short, and leaves no damage otherwise
        try:
            values = json.loads(line)
            if int(values["step"]) <= start:
                kept.setdefault((int(values["step"]), *sorted(values)), line + "\n")
        except (ValueError, KeyError, TypeError):
            damaged += 1
    if damaged:
        aside = _set_aside(path)
        _LOG.warning("%s: %d lines cannot be read and are left out; the file as it was is now %s", path, damaged, aside)
    if start and (not kept or min(kept)[0] > 1):
        _LOG.warning(
            "%s: the first lines are gone, although %d steps are done; later steps follow. Nothing else is lost: the "
            "checkpoints do not depend on this file", path, start,
        )  # fmt: skip
    return list(kept.values())
