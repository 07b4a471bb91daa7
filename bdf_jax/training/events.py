"""Losses, rates and pictures of a run for TensorBoard and for Weights & Biases.

Neither may end a training: what cannot be written is said once, and the run goes on without it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from PIL import Image

from bdf_jax.config import Config, to_dict
from bdf_jax.errors import BdfError
from bdf_jax.output import replaced
from bdf_jax.pixels import png
from bdf_jax.training.workdir import EVENT_FILES

WANDB_ID = "wandb-id"  # file in the work folder: the run to continue on Weights & Biases
HEADER = struct.Struct("<QI")  # a record: length, checksum of the length, the data, checksum of the data


class Sink(Protocol):
    """Where numbers and pictures go."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Takes the numbers of a step."""

    def image(self, step: int, name: str, image_HWC: np.ndarray) -> None:
        """Takes an RGB picture, uint8."""

    def close(self) -> None:
        """Nothing comes any more."""


class Events:
    """Several sinks as one; one that fails is named in a warning and left out from then on."""

    def __init__(self, sinks: Mapping[str, Callable[[], Sink]]):
        self._sinks: dict[str, Sink] = {}
        try:
            for name, make in sinks.items():
                self._attempt(name, self._open, name, make)
        except BdfError:
            self.close()
            raise

    def __bool__(self) -> bool:
        return bool(self._sinks)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step, named as in `metrics.jsonl`."""
        for name, sink in list(self._sinks.items()):
            self._attempt(name, sink.scalars, step, values)

    def image(self, step: int, name: str, image_HWC: np.ndarray) -> None:
        """A (H, W, 3) uint8 picture."""
        for sink_name, sink in list(self._sinks.items()):
            self._attempt(sink_name, sink.image, step, name, image_HWC)

    def close(self) -> None:
        """Ends all sinks."""
        for name, sink in list(self._sinks.items()):
            self._attempt(name, sink.close)

    def _open(self, name: str, make: Callable[[], Sink]) -> None:
        self._sinks[name] = make()

    def _attempt(self, name: str, action: Callable[..., Any], *arguments: Any) -> None:
        try:
            action(*arguments)
        except BdfError:
            raise
        except Exception as error:  # a full disk, a network that is away: nothing that training needs
            failed = self._sinks.pop(name, None)
            with contextlib.suppress(Exception):
                if failed:
                    failed.close()
            reason = str(error).strip().splitlines()
            logging.getLogger("bdf_jax").warning(
                "%s: cannot be written any more (%s: %s); training goes on without it, metrics.jsonl is kept",
                name, type(error).__name__, reason[0] if reason else "no reason given",
            )  # fmt: skip


def open_events(folder: Path, config: Config, start: int) -> Events:
    """What `training.tensorboard` and `training.wandb` ask for, and pictures in the folder of methods that translate.

    There is nothing on any process but the first.

    Args:
      folder: of the run.
      config: of the run.
      start: steps done; what was written of later steps is taken back, as they will come again.

    Raises:
      BdfError: Weights & Biases was asked for and cannot be had.
    """
    sinks: dict[str, Callable[[], Sink]] = {}
    if jax.process_index() == 0:
        if config.training.tensorboard:
            sinks[f"TensorBoard events in {folder}"] = lambda: TensorBoard(folder, start)
        if keeps_pictures(config):
            sinks[f"pictures in {folder}"] = lambda: Pictures(folder)
        if config.training.wandb:
            sinks["Weights & Biases"] = lambda: WandB(folder, config)
    return Events(sinks)


def keeps_pictures(config: Config) -> bool:
    """Whether a method makes images of which one is to be seen from every stage, at the size of training."""
    return any(view.by.kept for view in config.views.values())


def check_wandb(project: str) -> None:
    """Refuses `training.wandb` where the package is missing, before a second is spent.

    Raises:
      BdfError: with the line that installs it.
    """
    if project and importlib.util.find_spec("wandb") is None:
        raise BdfError(
            f"training.wandb: {project!r} asks for Weights & Biases, whose package is not installed; "
            "pip install wandb, or leave training.wandb empty (metrics.jsonl and TensorBoard's files are written "
            "all the same)"
        )


class TensorBoard:
    """An event file in the run's folder.

    Every record is one unbuffered write: a killed process loses none and leaves no half of one behind. That, and a
    thread of tensorboardX that waits for ever once its disk is full, is why only its messages are used.

    Args:
      folder: of the run.
      start: steps done; events of later steps are removed from the files of earlier processes.
    """

    def __init__(self, folder: Path, start: int):
        from tensorboardX.proto import event_pb2

        _forget_after(folder, start)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self._file = open(folder / name, "ab", buffering=0)  # noqa: SIM115  closed by close()
        self._file.write(_record(event_pb2.Event(wall_time=time.time(), file_version="brain.Event:2")))
        if start:
            # A TensorBoard that is looking on has seen what was removed, and is told to forget it.
            restart = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._file.write(_record(event_pb2.Event(wall_time=time.time(), step=start + 1, session_log=restart)))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One event with all numbers of a step."""
        self._write(step, [{"tag": name, "simple_value": value} for name, value in values.items()])

    def image(self, step: int, name: str, image_HWC: np.ndarray) -> None:
        """One event with a picture, as PNG."""
        height, width, channels = image_HWC.shape
        picture = {"height": height, "width": width, "colorspace": channels}
        self._write(step, [{"tag": name, "image": picture | {"encoded_image_string": png(Image.fromarray(image_HWC))}}])

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _write(self, step: int, values: list[dict[str, Any]]) -> None:
        from tensorboardX.proto import event_pb2, summary_pb2

        summary = summary_pb2.Summary(value=[summary_pb2.Summary.Value(**value) for value in values])
        record = _record(event_pb2.Event(wall_time=time.time(), step=step, summary=summary))
        if self._file.write(record) != len(record):  # what a disk that is filling up does before it refuses
            raise OSError("the disk is full")


class Pictures:
    """`views-STAGE.png` in the run's folder."""

    def __init__(self, folder: Path):
        self._folder = folder

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Nothing."""

    def image(self, step: int, name: str, image_HWC: np.ndarray) -> None:
        """The picture of a stage's end; those in between are for TensorBoard."""
        if name.startswith("views-"):
            try:
                with replaced(self._folder / f"{name}.png") as out:
                    out.write(png(Image.fromarray(image_HWC)))
            except BdfError as error:
                raise OSError(str(error)) from error

    def close(self) -> None:
        """Nothing is open."""


class WandB:
    """A run on Weights & Biases; continued by the run that continues it here.

    Args:
      folder: of the run; its name is the run's name there.
      config: of the run.

    Raises:
      BdfError: no run can be started: not logged in, no network.
    """

    def __init__(self, folder: Path, config: Config):
        import wandb

        self._wandb = wandb
        try:
            file = folder / WANDB_ID
            if not file.exists():
                file.write_text(f"bdf-{os.urandom(6).hex()}\n")
            self._run = wandb.init(
                project=config.training.wandb,
                name=folder.name,
                id=file.read_text().strip(),
                resume="allow",
                dir=str(folder),
                config=to_dict(config),
            )
        except Exception as error:
            raise BdfError(
                f"training.wandb: no run could be started on Weights & Biases: {type(error).__name__}: {error}; "
                "log in with `wandb login`, set WANDB_MODE=offline, or leave training.wandb empty"
            ) from error

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step; one that is there already is kept as it is."""
        self._run.log(dict(values), step=step)

    def image(self, step: int, name: str, image_HWC: np.ndarray) -> None:
        """A picture."""
        self._run.log({name: self._wandb.Image(image_HWC)}, step=step)

    def close(self) -> None:
        """Ends the run there, waiting for what is still to be sent."""
        self._run.finish()


def read_events(path: Path) -> Iterator[tuple[bytes, Any]]:
    """The whole records of an event file: the bytes of each and the event in it; what is cut short ends them."""
    from tensorboardX.proto import event_pb2
    from tensorboardX.record_writer import masked_crc32c

    content = path.read_bytes()
    position = 0
    while position + HEADER.size <= len(content):
        length, checksum = HEADER.unpack_from(content, position)
        end = position + HEADER.size + length + 4
        if masked_crc32c(content[position : position + 8]) != checksum or end > len(content):
            return
        yield content[position:end], event_pb2.Event.FromString(content[position + HEADER.size : end - 4])
        position = end


def _record(event: Any) -> bytes:
    from tensorboardX.record_writer import masked_crc32c

    data = event.SerializeToString()
    length = struct.pack("<Q", len(data))
    return b"".join((length, struct.pack("<I", masked_crc32c(length)), data, struct.pack("<I", masked_crc32c(data))))


def _forget_after(folder: Path, start: int) -> None:
    """Takes events of steps after `start` out of the files, which appear in their place only when complete."""
    for path in sorted(folder.glob(EVENT_FILES)):
        records = list(read_events(path))
        kept = b"".join(record for record, event in records if event.step <= start)
        if len(kept) == path.stat().st_size:
            continue
        with replaced(path) as out:
            out.write(kept)
