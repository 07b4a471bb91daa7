"""The arrays of a checkpoint as its storage lists them, without their values; and joining those that were never joined.

Every process of a run writes its arrays into a folder of its own, `state/ocdbt.process_N`; saving ends with one list of
all of them, `state/manifest.ocdbt`. Without that list none of them is found.
"""

from __future__ import annotations

import glob
import os
import shlex
from pathlib import Path
from typing import Any

import tensorstore

from bdf_jax.checkpoints.files import WRITTEN_LAST, finished, first_line, read
from bdf_jax.digests import check_digests, digests_of, write_digests
from bdf_jax.errors import BdfError

LIST = "manifest.ocdbt"
PART = "ocdbt.process_*"
ABOUT = "/zarr.json"  # how the key of an array's shape and type ends


def check_arrays(step: Path, expected: int | None = None) -> None:
    """Opens every array of a checkpoint once, without its values.

    Args:
      step: folder of the checkpoint.
      expected: how many there are; None: as many as there are in the folders of the processes.

    Raises:
      BdfError: some are not there, or cannot be opened.
    """
    state, context = step / "state", tensorstore.Context()
    try:
        if expected is None:
            expected = len(set().union(*(_names(part, context) for part in state.glob(PART))))
        names = _names(state, context)
        opening = [
            tensorstore.open({"driver": "zarr3", "kvstore": _store(state, f"{name}/")}, open=True, context=context)
            for name in names
        ]
        for each in opening:
            each.result()
    except Exception as error:
        raise BdfError(f"its arrays cannot be opened again ({first_line(error)})") from error
    if len(names) != expected:
        raise BdfError(f"of {expected} arrays that were written {len(names)} can be found again")


def unjoined(step: Path) -> bool:
    """Whether the arrays of a checkpoint were written, but not the list of them all; no where that cannot be read."""
    state = step / "state"
    without = not os.path.exists(state / LIST) and glob.glob(f"{glob.escape(str(state))}/{PART}/{LIST}")
    return bool(without) and f"state/{LIST}" not in digests_of(step)  # else it was there and was lost later: damage


def rescue(workdir: Path) -> dict[int, str]:
    """Joins the arrays of those checkpoints of a work folder that were saved without their list.

    Every file's digest is compared before and every array opened after; nothing is removed or moved.

    Returns:
      What became of each step: "rescued", "whole before", or why it cannot be rescued.

    Raises:
      BdfError: the folder holds no checkpoints.
    """
    root = workdir / "checkpoints"
    steps = finished(root) if root.is_dir() else []
    if not steps:
        raise BdfError(f"{workdir}: expected the --workdir of a training run with checkpoints, found none")
    return {step: _rescue(root / str(step)) for step in steps}


def how_to_rescue(root: Path) -> str:
    """What to say of checkpoints in a folder `checkpoints` that are `unjoined`."""
    return (
        "its arrays are there, but the list of them was never written, as its folder had a name with one of * ? [; "
        f"nothing is lost: python -m bdf_jax rescue --workdir={shlex.quote(str(root.parent))}"
    )


def _rescue(step: Path) -> str:
    try:
        check_digests(step)
        read(step)
        if not unjoined(step):
            return "whole before"
        _join(step / "state")
        check_arrays(step)
        write_digests(step, leave_out=WRITTEN_LAST)
    except BdfError as error:
        return f"cannot be rescued: {error}"
    return "rescued"


def _join(state: Path) -> None:
    """Writes the list of all arrays, which refers to the files of the processes; it comes last or not at all."""
    context = tensorstore.Context()  # one for all: what refers to another's file must read it in the same way
    together, transaction = _opened(state, context), tensorstore.Transaction(atomic=True)
    try:
        for part in sorted(state.glob(PART)):
            _opened(part, context).experimental_copy_range_to(together.with_transaction(transaction)).result()
        transaction.commit_sync()
    except Exception as error:
        raise BdfError(f"the list of its arrays cannot be written ({first_line(error)})") from error


def _names(folder: Path, context: tensorstore.Context) -> list[str]:
    keys = [key.decode() for key in _opened(folder, context).list().result()]
    return [key.removesuffix(ABOUT) for key in keys if key.endswith(ABOUT)]


def _opened(folder: Path, context: tensorstore.Context) -> tensorstore.KvStore:
    return tensorstore.KvStore.open(_store(folder), context=context).result()


def _store(folder: Path, path: str = "") -> dict[str, Any]:
    return {"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder}/"}, "path": path}
