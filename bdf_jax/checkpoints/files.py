"""What lies in a folder of checkpoints, read without Orbax: it opens every array first, and is loud where it cannot."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bdf_jax import config as configs
from bdf_jax.digests import digests_of, json_digest
from bdf_jax.errors import BdfError
from bdf_jax.trouble import Trouble, refuse_trouble

METADATA = "_CHECKPOINT_METADATA"  # Orbax's file; what we have in it carries a digest of its own
# Orbax writes these once more after the digests: a mark that nobody reads on a local disk, and the file of the
# metadata, to add the time.
WRITTEN_LAST = ("commit_success.txt", METADATA)


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What a checkpoint says of itself.

    Attributes:
      config: of the run.
      fingerprint: of the data set's splits (`data.dataset.Dataset.fingerprint`).
      num_classes: C, identities in the training split.
      converted: the file of another program that it was made of; empty: it was trained here. What it was trained on is
        not known then, and `fingerprint` is empty.
    """

    config: configs.Config
    fingerprint: str
    num_classes: int
    converted: str = ""

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {
            "config": configs.to_dict(self.config),
            "fingerprint": self.fingerprint,
            "num_classes": self.num_classes,
            **({"converted": self.converted} if self.converted else {}),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Metadata:
        """The inverse of `to_json`; raises BdfError where something is missing."""
        missing = [name for name in ("config", "fingerprint", "num_classes") if name not in values]
        if missing:
            raise BdfError(f"its metadata lacks {', '.join(missing)}; not a checkpoint of this project, or not whole")
        config = configs.from_dict(values["config"])
        return cls(config, values["fingerprint"], values["num_classes"], values.get("converted", ""))


def read(path: Path) -> tuple[Metadata, float | None]:
    """What the checkpoint in `path` says of itself, and its validation score.

    Raises:
      BdfError: it makes no sense, or is not of this checkpoint; the path is not named.
      Trouble: it cannot be read, and may be whole; or it is whole, and its configuration cannot be understood here.
    """
    try:
        values = dict(json.loads((path / METADATA).read_text())["custom_metadata"])
    except FileNotFoundError as error:
        raise BdfError(f"{METADATA} is missing") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        refuse_trouble(error, f"{METADATA} cannot be read")
        raise BdfError(f"{METADATA} cannot be read ({first_line(error)})") from error
    digest = values.pop("sha256", None)
    if digest not in (None, json_digest(values)):
        raise BdfError(f"{METADATA} is not what was written")
    try:
        metadata = Metadata.from_json(values)
    except BdfError as error:
        if digest is None:
            raise
        # As it was written: of another version, or with parts of a user's file that is not at hand.
        raise Trouble(str(error)) from error
    if values.get("step", int(path.name)) != int(path.name):
        raise BdfError(f"it holds the state of step {values['step']}")
    return metadata, values.get("score")


def newest_metadata(workdir: Path) -> tuple[int, Metadata] | None:
    """Step and metadata of the newest checkpoint of a work folder that is not damaged; None where there is none.

    Raises:
      Trouble: it cannot be read, and may be whole.
    """
    root = workdir / "checkpoints"
    for step in reversed(finished(root)):
        try:
            return step, read(root / str(step))[0]
        except Trouble:
            raise
        except BdfError:
            continue
    return None


def finished(root: Path) -> list[int]:
    """Steps of the checkpoints in a folder, where anything else may lie too, or nothing.

    Raises:
      Trouble: the folder cannot be looked into.
    """
    try:
        names = [child.name for child in root.iterdir() if child.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        refuse_trouble(error, f"{root}: cannot be looked into")
        raise
    return sorted(int(name) for name in names if name.isascii() and name.isdecimal() and name == str(int(name)))


def best(root: Path) -> int | None:
    """The step with the best validation score; raises BdfError where that cannot be told."""
    scores: dict[int, float] = {}
    for step in finished(root):
        try:
            _, score = read(root / str(step))
        except BdfError as error:
            raise unusable(root, step, error) from error
        if score is not None:
            scores[step] = score
    return max(scores, key=lambda step: scores[step]) if scores else None


def unusable(root: Path, step: int, error: Exception) -> BdfError:
    """The error for one checkpoint that cannot be used: what is wrong, and which others there are."""
    others = [str(other) for other in finished(root) if other != step]
    hint = f"; name another with --step={others[-1]}" if others else "; there is no other one here"
    hint += f" ({', '.join(others)} are there)" if len(others) > 1 else ""
    if isinstance(error, Trouble):
        return Trouble(f"{root / str(step)}: {error}{hint}")
    what = str(error) if isinstance(error, BdfError) else first_line(error)
    return BdfError(f"{root / str(step)}: damaged checkpoint: {what}{hint}")


def refuse_undamaged(path: Path, error: Exception) -> None:
    """Raises an error for a checkpoint that cannot be loaded and is not damaged; returns where it may be.

    Raises:
      Trouble: of the machine.
      BdfError: every file is as it was written (whoever asks has compared the digests), so something else is wrong.
    """
    refuse_trouble(error, f"{path}: cannot be loaded")
    if digests_of(path):
        raise BdfError(
            f"{path}: every file is as it was written, but this program cannot load it: {first_line(error)}; nothing "
            "was changed. Load it with the version that wrote it, or move it elsewhere to go on without it"
        ) from error


def none_left(directory: Path, failures: Mapping[int, str]) -> BdfError:
    """The error for a folder in which every checkpoint is damaged."""
    listed = "; ".join(f"step {step}: {damage}" for step, damage in sorted(failures.items()))
    return BdfError(
        f"{directory}: no checkpoint can be read ({listed}); nothing was changed. Rename or remove that folder to "
        "start anew"
    )


def first_line(error: BaseException) -> str:
    """An error of any library, short enough for a message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
