"""What a run writes on this machine, copied to its work folder in a bucket as it is written.

A checkpoint is copied once it is whole here, file by file, and last the file without which it is none
(`_CHECKPOINT_METADATA`); one that is given up loses that file first. So whatever ends a run, and at whatever moment,
what the bucket calls a checkpoint is whole.
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

from bdf_jax.buckets.claim import Claim
from bdf_jax.buckets.store import Store, Unreachable
from bdf_jax.checkpoints.files import METADATA, finished
from bdf_jax.errors import BdfError

STEPS = "checkpoints"
ASIDE = "damaged-"  # how the names of what was set aside begin
NOT_COPIED = (".lock",)
POLL_SECONDS = 1.0
FILES_SECONDS = 30.0  # between two copies of metrics and events, which grow all the time
PATIENCE_SECONDS = 300.0  # for which a storage that cannot be reached is tried again


class Mirror:
    """A folder of this machine and the place in a bucket that it is copied to.

    Args:
      store: the place.
      folder: of this machine; `pull` fills it.
      claim: on the place, looked at before a checkpoint is made or given up.
    """

    def __init__(self, store: Store, folder: Path, claim: Claim):
        self._store, self._folder, self._claim = store, folder, claim
        self._files: dict[str, tuple[int, int]] = {}  # name -> size and time of what was copied
        self._steps: dict[int, set[str]] = {}  # whole in the bucket -> its names there
        self._aside: set[str] = set()
        self._turn = threading.Lock()
        self._over = threading.Event()
        self._files_at, self._failing_since, self._told = time.monotonic(), 0.0, False
        self._thread = threading.Thread(target=self._follow, name="mirror", daemon=True)

    def pull(self) -> None:
        """Fills the folder with what the bucket has of the run; takes what is left of unfinished copies out of it.

        Raises:
          Trouble: the storage refuses.
        """
        names = self._store.list()
        steps: dict[str, set[str]] = {}
        for name in names:
            top, _, rest = name.partition("/")
            if top == STEPS and "/" in rest:
                steps.setdefault(rest.partition("/")[0], set()).add(name)
        whole = {
            step: held for step, held in steps.items() if step.isdecimal() and f"{STEPS}/{step}/{METADATA}" in held
        }
        self._store.remove([name for step in steps.keys() - whole.keys() for name in sorted(steps[step])])
        files = [name for name in names if "/" not in name and not name.startswith((ASIDE, *NOT_COPIED))]
        self._store.fetch([*files, *(name for held in whole.values() for name in sorted(held))], self._folder)
        self._steps = {int(step): held for step, held in whole.items()}
        self._files = {name: _signature(self._folder / name) for name in files}
        # Of what was set aside the names alone, so that nothing else gets them.
        self._aside = {name.partition("/")[0] for name in names if name.startswith(ASIDE)}
        for name in self._aside:
            (self._folder / name).mkdir()

    def start(self) -> None:
        """From now on what changes in the folder is copied in the background."""
        self._thread.start()

    def settle(self) -> None:
        """Returns when the bucket has everything that is finished here.

        Raises:
          BdfError: it cannot be had, or another run has taken the place over; once, as the run then ends.
        """
        while not self._told:
            try:
                with self._turn:
                    self._copy(everything=True)
                return
            except BdfError as error:
                if isinstance(error, Unreachable) and not self._given_up():
                    time.sleep(POLL_SECONDS)
                    continue
                self._told = True
                raise type(error)(self._story(error)) from error

    def close(self) -> None:
        """Ends copying in the background."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def _follow(self) -> None:
        told = False
        while not self._over.wait(POLL_SECONDS):
            try:
                with self._turn:
                    self._copy()
                told = False
            except BdfError as error:  # who waits for a checkpoint says so; until then training goes on
                if not told:
                    logging.getLogger("bdf_jax").warning("%s; trying again", error)
                told = True
                self._given_up()

    def _given_up(self) -> bool:
        """Whether the storage has been out of reach for too long."""
        self._failing_since = self._failing_since or time.monotonic()
        return time.monotonic() - self._failing_since >= PATIENCE_SECONDS

    def _story(self, error: BdfError) -> str:
        whole = max(self._steps, default=None)
        kept = "there is no earlier checkpoint" if whole is None else f"the checkpoint of step {whole} is whole there"
        newer = [step for step in finished(self._folder / STEPS) if step not in self._steps]
        what = f"the checkpoint of step {newer[-1]}" if newer else "what the run has written"
        return f"{what} could not be copied: {error}; {kept}; mend that and start the same command again"

    def _copy(self, *, everything: bool = False) -> None:
        """Makes the bucket as the folder is: what is new first, then what is given up."""
        here = finished(self._folder / STEPS)
        new = [step for step in here if step not in self._steps]
        gone = self._steps.keys() - set(here)
        if not (everything or new or gone or time.monotonic() - self._files_at >= FILES_SECONDS):
            return
        self._claim.check()
        for step in new:
            self._copy_step(step)
        self._copy_files()
        self._files_at = time.monotonic()
        for step in sorted(gone):
            mark = f"{STEPS}/{step}/{METADATA}"
            self._store.remove([mark])
            self._store.remove(sorted(self._steps.pop(step) - {mark}))
        self._failing_since = 0.0

    def _copy_step(self, step: int) -> None:
        folder = self._folder / STEPS / str(step)
        names = {path.relative_to(self._folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        mark = f"{STEPS}/{step}/{METADATA}"
        self._store.remove([mark])  # of a checkpoint of this step that was moved aside
        self._store.send(self._folder, sorted(names - {mark}))
        self._claim.check()
        self._store.send(self._folder, [mark])
        self._steps[step] = names

    def _copy_files(self) -> None:
        """Files beside the checkpoints, and what was set aside."""
        here: dict[str, tuple[int, int]] = {}
        for path in sorted(self._folder.iterdir()):
            if path.is_dir():
                if path.name.startswith(ASIDE) and path.name not in self._aside:
                    self._store.send(self._folder, _below(path, self._folder))
                    self._aside.add(path.name)
            elif not path.name.endswith(".partial") and path.name not in NOT_COPIED:
                here[path.name] = _signature(path)
                if self._files.get(path.name) != here[path.name]:
                    self._store.write(path.name, path.read_bytes())  # as it is now: it may be growing
        self._store.remove(sorted(self._files.keys() - here.keys()))
        self._files = here


def _below(folder: Path, root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in folder.rglob("*") if path.is_file())


def _signature(path: Path) -> tuple[int, int]:
    about = path.stat()
    return about.st_size, about.st_mtime_ns
