"""Loading: parameters of any checkpoint on any machine."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from bdf_jax.checkpoints.arrays import how_to_rescue, unjoined
from bdf_jax.checkpoints.files import METADATA, Metadata, best, finished, read, refuse_undamaged, unusable
from bdf_jax.digests import check_digests
from bdf_jax.errors import BdfError
from bdf_jax.paths import UNREADABLE, bucket_address, check_name, local_path
from bdf_jax.trouble import check_platform


def load_variables(path: str | os.PathLike[str], step: int | None = None) -> tuple[Metadata, dict[str, Any], int]:
    """Parameters and batch statistics of a checkpoint on this machine's first device, whatever it was saved on.

    Args:
      path: a work folder, its `checkpoints` folder, or one checkpoint; also in a bucket.
      step: which checkpoint; None: the best on validation where there was one, else the last.

    Returns:
      Its metadata, `{"params": ..., "batch_stats": ...}`, and its step.

    Raises:
      BdfError: no such folder, no checkpoint in it, no such step, or a damaged one.
      Trouble: of the machine, which says nothing against the checkpoint.
    """
    return _load(path, step, ("params", "batch_stats"))


def load_state(path: str | os.PathLike[str], step: int | None = None) -> tuple[Metadata, dict[str, Any], int]:
    """As `load_variables`, with everything that was saved: the optimiser's state too, as nested dictionaries."""
    return _load(path, step, None)


def load_metadata(path: str | os.PathLike[str], step: int | None = None) -> Metadata:
    """What a checkpoint says of itself, without its arrays; arguments and errors as for `load_variables`."""
    with _at_hand(path, step, arrays=False) as (root, step):
        try:
            return read(root / str(step))[0]
        except BdfError as error:
            raise unusable(root, step, error) from error


@contextlib.contextmanager
def _at_hand(path: str | os.PathLike[str], step: int | None, *, arrays: bool = True) -> Iterator[tuple[Path, int]]:
    """The folder of the checkpoints and the step that is meant; of those in a bucket a copy, of that step alone."""
    address = bucket_address(path)
    if not address:
        yield _find(path, step)
        return
    from bdf_jax.buckets.copies import copied

    with copied(address) as copy:
        copy.outline()
        copy.fetch(lambda name: name.rpartition("/")[2] == METADATA)  # without it a checkpoint is none
        root, found = _find(copy.folder, step)
        if arrays:
            inside = (root / str(found)).relative_to(copy.folder).as_posix()
            copy.fetch(lambda name: inside == "." or name.startswith(f"{inside}/"))
        yield root, found


def _find(path: str | os.PathLike[str], step: int | None) -> tuple[Path, int]:
    """The folder of the checkpoints and the step that is meant."""
    given = local_path(path, expected="the path of a work folder or a checkpoint", utf8=True).absolute()
    check_name(given, UNREADABLE)
    try:
        return _look_for(given, step)
    except NotADirectoryError as error:
        raise BdfError(
            f"{given}: expected the --workdir of a training run or one of its checkpoints, found a file; of one "
            "that the authors of a method published, `python -m bdf_jax convert FILE --out=DIR` makes such a folder"
        ) from error
    except FileNotFoundError as error:
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
    steps = finished(root)
    if not steps:
        entries = ", ".join(sorted(child.name for child in given.iterdir())[:5]) or "nothing"
        raise BdfError(f"{given}: expected a training run with finished checkpoints, found {entries}")
    if step is not None and step not in steps:
        raise BdfError(f"{given}: no checkpoint of step {step}; there are {', '.join(map(str, steps))}")
    return root, (best(root) or steps[-1]) if step is None else step


def _load(
    path: str | os.PathLike[str], step: int | None, names: Collection[str] | None
) -> tuple[Metadata, dict[str, Any], int]:
    with _at_hand(path, step) as (root, step):
        return _load_step(root, step, names)


def _load_step(root: Path, step: int, names: Collection[str] | None) -> tuple[Metadata, dict[str, Any], int]:
    folder = root / str(step)
    if unjoined(folder):
        raise BdfError(f"{folder}: {how_to_rescue(root)}")
    check_platform()
    try:
        check_digests(folder)
        metadata, _ = read(folder)
    except BdfError as error:
        raise unusable(root, step, error) from error
    try:
        return metadata, _load_arrays(folder, names), step
    except Exception as error:
        refuse_undamaged(folder, error)
        raise unusable(root, step, error) from error


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
