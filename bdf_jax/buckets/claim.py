"""Whose a work folder in a bucket is. There are no locks there, and no process tells when another one was killed.

A run creates the object `.claims/N`, which the storage lets only one do, and writes it anew every few seconds for as
long as it lives. One that stays as it is for a minute belongs to nobody any more: another run creates `.claims/N+1`
and the folder is its own. The highest number counts. No clocks are compared: whoever asks watches with its own.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from bdf_jax.buckets.store import Store
from bdf_jax.errors import BdfError
from bdf_jax.trouble import Trouble

FOLDER = ".claims"
BEAT_SECONDS = 10.0  # between two signs of life
ABANDONED_SECONDS = 60.0  # without one: nobody's
LOOK_SECONDS = 1.0
_LOG = logging.getLogger("bdf_jax")


class Claim:
    """A work folder that is this process's own; made by `claimed_place`."""

    def __init__(self, store: Store, number: int, owner: str):
        self._store, self._number, self._owner = store, number, owner
        self._beats, self._over = 0, threading.Event()
        self._seen = time.monotonic()  # when the storage last agreed
        self._taken_by = ""
        self._thread = threading.Thread(target=self._live, name="claim", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Before anything counts: looks again where the last look is long ago.

        Raises:
          BdfError: another run has taken the folder over, because this one gave no sign of life.
          Trouble: the storage cannot be asked.
        """
        if not self._taken_by and time.monotonic() - self._seen > ABANDONED_SECONDS / 2:
            self._beat()
        if self._taken_by:
            raise BdfError(
                f"{self._store.address}: another run ({self._taken_by}) has taken this folder over, as this one could "
                f"give no sign of life for {ABANDONED_SECONDS:.0f} s; it stops, and changes nothing there any more"
            )

    def release(self) -> None:
        """The folder is free again."""
        self._over.set()
        self._thread.join()
        if not self._taken_by:
            with contextlib.suppress(Trouble):  # it is free in a minute, then
                self._store.remove([_name(self._number)])

    def _live(self) -> None:
        while not self._over.wait(BEAT_SECONDS) and not self._taken_by:
            with contextlib.suppress(Trouble):  # whoever writes there says so
                self._beat()

    def _beat(self) -> None:
        highest, now = _highest(self._store)
        if highest > self._number or (highest == self._number and now.get("owner") != self._owner):
            self._taken_by = _who(now)
            return
        self._beats += 1
        self._store.write(_name(self._number), _content(self._owner, self._beats))
        self._seen = time.monotonic()


@contextlib.contextmanager
def claimed_place(store: Store, what: str) -> Iterator[Claim]:
    """The folder as this process's own until the block ends.

    Raises:
      BdfError: another run is using it.
      Trouble: the storage refuses.
    """
    owner = uuid.uuid4().hex
    number, before = _highest(store)
    if before:
        _wait_until_abandoned(store, what, number, before)
    name = _name(number + 1)
    won = store.create(name, _content(owner, 0)) and _owner(store.read(name)) == owner  # not all storage knows "create"
    if not won:
        raise _busy(what, store, _highest(store)[1])
    store.remove([other for other in _names(store) if other != name])
    claim = Claim(store, number + 1, owner)
    try:
        yield claim
    finally:
        claim.release()


def _wait_until_abandoned(store: Store, what: str, number: int, before: dict) -> None:
    """Returns when the run that holds the claim is known to be dead."""
    if _is_here(before):
        if not _alive(before):
            return
        raise _busy(what, store, before)
    _LOG.warning(
        "%s=%s: a run (%s) was here and has not said that it is over; looking for %.0f s whether it lives", what,
        store.address, _who(before), ABANDONED_SECONDS,
    )  # fmt: skip
    until = time.monotonic() + ABANDONED_SECONDS
    while time.monotonic() < until:
        time.sleep(LOOK_SECONDS)
        highest, now = _highest(store)
        if highest == 0:
            return
        if (highest, now) != (number, before):
            raise _busy(what, store, now)


def _busy(what: str, store: Store, claim: dict) -> BdfError:
    return BdfError(
        f"{what}={store.address}: another run is using this folder ({_who(claim)}); wait for it to end, stop it, or "
        "name another folder"
    )


def _names(store: Store) -> list[str]:
    return sorted(name for name in store.list(FOLDER) if name.rpartition("/")[2].isdecimal())


def _highest(store: Store) -> tuple[int, dict]:
    """Number and contents of the claim that counts; 0 and nothing where there is none."""
    for name in reversed(_names(store)):
        content = store.read(name)
        if content is not None:
            try:
                return int(name.rpartition("/")[2]), dict(json.loads(content))
            except (ValueError, TypeError):
                return int(name.rpartition("/")[2]), {"host": "unknown"}
    return 0, {}


def _name(number: int) -> str:
    return f"{FOLDER}/{number:09d}"


def _content(owner: str, beat: int) -> bytes:
    about = {"owner": owner, "beat": beat, "host": socket.gethostname(), "boot": _boot(), "pid": os.getpid()}
    return json.dumps(about | {"started": _started(os.getpid())}).encode()


def _owner(content: bytes | None) -> str:
    try:
        return json.loads(content or b"{}").get("owner", "")
    except ValueError:
        return ""


def _who(claim: dict) -> str:
    return f"process {claim.get('pid', '?')} on {claim.get('host', 'another machine')}"


def _is_here(claim: dict) -> bool:
    """Whether it is of this machine, since it was started last."""
    return bool(_boot()) and (claim.get("host"), claim.get("boot")) == (socket.gethostname(), _boot())


def _alive(claim: dict) -> bool:
    return bool(claim.get("started")) and _started(int(claim.get("pid", 0))) == claim["started"]


def _boot() -> str:
    """What tells one start of this machine, or container, from another; empty where that is unknown."""
    with contextlib.suppress(OSError):
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _started(pid: int) -> str:
    """When a process began, in the system's ticks; empty where there is none of that number."""
    with contextlib.suppress(OSError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]  # killed, and its parent has not looked yet
    return ""
