"""The processes of a run connect, watch each other, and end together.

What must not happen is that one process ends and the others wait for it, as XLA's collectives know no time limit. So
every process says every few seconds that it is there, process 0 listens, and whoever falls out ends the others with a
message.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from bdf_jax import streams
from bdf_jax.errors import BdfError
from bdf_jax.trouble import status

SILENCE_SECONDS = 30  # after which a process that is not heard of counts as dead
START_SECONDS = 120  # for which the processes wait for each other at the start
LAST_WORDS_SECONDS = 10  # for which process 0, which the others hear of each other through, outlives its own error
FAILED, ALIVE, LEFT = "bdf_jax/failed", "bdf_jax/alive", "bdf_jax/left"  # keys of the coordination service
# What the errors of collectives have in common when the other side is gone: Gloo, NCCL, the coordination service.
CONNECTION = ("Gloo", "NCCL", "Connection reset", "Connection closed", "UNAVAILABLE", "Socket closed", "heartbeat")


@dataclasses.dataclass(frozen=True)
class Launch:
    """Several processes of one run, as this one sees them. None: JAX asks the launcher.

    Attributes:
      coordinator: HOST:PORT at which process 0 is reached.
      processes: how many there are.
      process: which this one is, from 0.
      launcher: what says so, where no flag does; for messages.
    """

    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None
    launcher: str = dataclasses.field(default="", compare=False)


@contextlib.contextmanager
def session(
    launch: Launch | None, *, silence_seconds: int = SILENCE_SECONDS, start_seconds: int = START_SECONDS
) -> Iterator[None]:
    """A block in which the processes of a run are connected. An error in one of them ends all.

    Must begin before the first array. In a run of several processes an error does not leave the block: it is printed
    and the process ends at once, because JAX's own way out would wait for the others.

    Raises:
      BdfError: in a run of one process whatever the block raises; else only what all raise together
        (`distributed.Together`).
    """
    if launch is None:
        yield
        return
    import jax

    where, hint = _at(launch), ""
    if launch.launcher:
        which = f"process {launch.process} of {launch.processes}" if launch.processes else "one process of several"
        streams.tell(
            f"this is {which}, says {launch.launcher}: waiting up to {start_seconds} s for the others "
            "(--distributed=off runs it alone)\n"
        )
        hint = (
            f". That there are several is what {launch.launcher} says: start all of them, or run this one alone with "
            "--distributed=off"
        )
    elif launch.coordinator is None:
        hint = ". With --distributed=on JAX asks the launcher; --distributed=off runs this process alone"
    abort = _Abort(
        lambda cause: (
            f"the processes of this run did not find each other within {start_seconds} s{where}: {cause}{hint}"
        )
    )
    try:
        _connect(launch, abort, silence_seconds, start_seconds)
        jax.devices()  # the processes exchange what devices they have
    except (RuntimeError, ValueError, AssertionError) as error:
        # JAX asserts, without a word, that the package of the platform is installed.
        cause = str(error) or f"JAX has no device of JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')} here"
        _leave(abort.message(cause.splitlines()[0]), 1)
    from bdf_jax import distributed

    peers = _Peers(distributed.client(), jax.process_index(), jax.process_count(), silence_seconds)
    abort.message = lambda _: peers.lost("another process of this run died (process 0, or the connection to it)")
    try:
        distributed.barrier("connected")  # from here on all of them listen
        _open_channels()
        yield
        distributed.barrier("end")
    except BaseException as error:
        if not isinstance(error, distributed.Together):
            peers.fail(error)
        distributed.barrier("stopped together")
        peers.close()
        abort.close()
        jax.distributed.shutdown()
        raise
    peers.close()
    abort.close()
    jax.distributed.shutdown()


def _at(launch: Launch) -> str:
    if launch.coordinator is None:
        return ""
    return f" at {launch.coordinator} (this is process {launch.process} of {launch.processes})"


def _connect(launch: Launch, abort: _Abort, silence_seconds: int, start_seconds: int) -> None:
    import jax

    _check_port(launch)
    # SIGTERM is handled by the train loop, in which it has a meaning; elsewhere it ends the process as ever.
    jax.config.update("jax_enable_preemption_service", False)
    with abort.instead_of_its_output():
        jax.distributed.initialize(
            launch.coordinator,
            launch.processes,
            launch.process,
            initialization_timeout=start_seconds,
            heartbeat_timeout_seconds=max(100, 3 * silence_seconds),  # JAX's own watch, should this one fail
            shutdown_timeout_seconds=60,
        )


def _check_port(launch: Launch) -> None:
    """Raises BdfError where process 0 cannot listen; JAX would end by a segmentation fault, without a word."""
    if launch.process != 0 or launch.coordinator is None or os.environ.get("JAX_COORDINATOR_BIND_ADDRESS"):
        return
    port, both = int(launch.coordinator.rpartition(":")[2]), socket.has_dualstack_ipv6()
    try:
        family = socket.AF_INET6 if both else socket.AF_INET
        socket.create_server(("", port), family=family, dualstack_ipv6=both).close()
    except OSError as error:
        raise BdfError(
            f"--coordinator={launch.coordinator}: process 0 cannot listen at this port: "
            f"{os.strerror(error.errno or 0)}; wait for the run that uses it to end, or name another one in all "
            "processes"
        ) from error


def _open_channels() -> None:
    """One small collective of each kind, as long as the processes are close to each other.

    Gloo gives processes 30 seconds to meet for their first one, and compiling can keep them apart for longer.
    """
    import jax
    import numpy as np
    from jax.experimental import multihost_utils
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    multihost_utils.process_allgather(np.zeros(1, np.float32), tiled=True)
    multihost_utils.broadcast_one_to_all(np.zeros(1, np.float32))
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    mesh = Mesh(np.array(devices), ("all",))
    zeros = jax.make_array_from_process_local_data(
        NamedSharding(mesh, PartitionSpec("all")), np.zeros(jax.local_device_count(), np.float32)
    )
    jax.block_until_ready(jax.jit(lambda x: x.sum(), out_shardings=NamedSharding(mesh, PartitionSpec()))(zeros))


class _Peers:
    """Watches the other processes, and tells them why this one ends."""

    def __init__(self, client: Any, process: int, processes: int, silence_seconds: float):
        self._client, self._process, self._processes = client, process, processes
        self._silence, self._beat = silence_seconds, max(0.5, silence_seconds / 6)
        self._over, self._speaking = threading.Event(), threading.Lock()
        self._heard = self._awake = time.monotonic()
        self._stood_still = 0.0  # seconds: the longest time in which no thread of this process ran
        self._counts: dict[int, tuple[str, float]] = {}
        self._gone = 0  # processes that say nothing any more
        targets = (self._listen, self._watch_coordinator)
        self._threads = [threading.Thread(target=target, name=target.__name__, daemon=True) for target in targets]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Ends watching: from here on processes may go. All of them have to come here."""
        self._over.set()
        if self._process == 0:
            self._publish("")  # wakes those who listen
        for thread in self._threads:  # one that is left in a native call when Python ends would abort
            thread.join()

    def fail(self, error: BaseException) -> None:
        """Ends this process because of an error in it, and the others too. Does not return."""
        code, said = 1, ""
        if isinstance(error, BdfError):
            code, said = error.exit_code, str(error)
        elif isinstance(error, KeyboardInterrupt):
            code, said = 130, "interrupted"
        elif isinstance(error, SystemExit):
            code, said = (error.code if isinstance(error.code, int) else 1), f"exit {error.code}"
        elif any(word in str(error) for word in CONNECTION):
            # The connection broke before the reason for it came round; mostly the other process is just dead.
            time.sleep(2)
            self._gone = max(1, self._gone)
            said = f"{self.lost('another process of this run died')} ({str(error).splitlines()[0][:200]})"
        shown = said or f"{type(error).__name__}: {str(error).splitlines()[0][:300] if str(error) else ''}"
        with self._speaking:
            # What ends one process for a while, such as SIGTERM, ends the others with the same exit code.
            self._publish(f"process {self._process} of {self._processes} stopped: {shown}", code)
            if not said:
                traceback.print_exception(error)
            _leave(said, code, before=self._take_leave)

    def _publish(self, message: str, code: int = 1) -> None:
        said = json.dumps([message, code])
        _within(LAST_WORDS_SECONDS, lambda: self._client.key_value_set(FAILED, said))

    def _take_leave(self) -> None:
        """The last thing, after this process has said why it ends: once all took leave, process 0 takes JAX down."""
        self._wait_for_others()
        if self._process:
            _within(2, lambda: self._client.key_value_set(f"{LEFT}/{self._process}", ""))

    def _wait_for_others(self) -> None:
        """Process 0 takes the connection between all others with it, so it goes last."""
        ends = time.monotonic() + LAST_WORDS_SECONDS
        while self._process == 0 and time.monotonic() < ends:
            with contextlib.suppress(Exception):
                if len(self._client.key_value_dir_get(LEFT)) >= self._processes - 1 - self._gone:
                    return
            time.sleep(0.1)

    def _listen(self) -> None:
        for count in range(1 << 62):
            try:
                message, code = json.loads(self._client.blocking_key_value_get(FAILED, int(1000 * self._beat)))
            except Exception as error:
                if self._over.is_set():
                    return
                if status(error) != "DEADLINE_EXCEEDED":
                    self._stop(self.lost("another process of this run died: process 0 cannot be reached"))
            else:
                if not message:
                    return
                self._stop(message, code)
            with contextlib.suppress(Exception):  # the next round finds out what it is
                self._client.key_value_set(f"{ALIVE}/{self._process}", str(count), allow_overwrite=True)
                self._heard = time.monotonic()
                if self._process == 0:
                    self._look_at_others()

    def _silent(self, processes: str) -> str:
        return self.lost(
            f"another process of this run died or hangs: nothing was heard of process {processes} for "
            f"{self._silence:g} s"
        )

    def lost(self, seen: str) -> str:
        """What to say when the others are gone: what was seen of it, or that this process was the one that left."""
        from bdf_jax import distributed

        still = max(self._stood_still, time.monotonic() - self._awake)
        if still <= self._silence:
            return distributed.died(seen)
        return distributed.died(
            f"this process itself stood still for {still:.0f} s; the others take it for dead after {self._silence:g} s"
        )

    def _look_at_others(self) -> None:
        now, found = time.monotonic(), dict(self._client.key_value_dir_get(ALIVE))
        counts = {int(key.rsplit("/", 1)[-1]): count for key, count in found.items()}
        for process in range(1, self._processes):
            count, since = self._counts.get(process, ("", now))
            self._counts[process] = (count, since) if counts.get(process, "") == count else (counts[process], now)
        silent = [process for process, (_, since) in self._counts.items() if now - since > self._silence]
        if silent and not self._over.is_set():
            self._gone = len(silent)
            message = self._silent(", ".join(map(str, silent)))
            self._publish(message)
            self._stop(message)

    def _watch_coordinator(self) -> None:
        while not self._over.wait(min(1.0, self._beat)):
            now = time.monotonic()
            self._stood_still, self._awake = max(self._stood_still, now - self._awake), now
            if self._stood_still > self._silence:
                self._gone = self._processes - 1  # the others have ended meanwhile
            # Calls to a process that is stopped, not dead, do not return.
            if now - self._heard > self._silence + self._beat:
                self._stop(self._silent("0"))

    def _stop(self, message: str, code: int = 1) -> None:
        """From a thread: the main one may wait for a collective that never ends."""
        with self._speaking:
            if not self._over.is_set():
                _leave(message, code, before=self._take_leave)


def _leave(message: str, code: int, before: Any = lambda: None) -> None:
    """Says why and ends the process at once, whatever its threads are doing."""
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    if message:
        streams.tell(f"error: {message}\n")
    before()
    os._exit(code)


def _within(seconds: float, function: Any) -> None:
    """Waits for a call that may never return for so long only."""

    def attempt() -> None:
        with contextlib.suppress(Exception):  # the first error is the one that counts, and process 0 may be gone
            function()

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)


class _Abort:
    """JAX ends a process by abort() when the coordination service is lost; this is what is said then.

    Attributes:
      message: from JAX's status to what to say.
    """

    def __init__(self, message: Callable[[str], str]):
        self.message = message
        self._stderr, self._kept = 2, -1
        self._libc = ctypes.CDLL(None)
        self._libc.signal.restype = ctypes.c_void_p
        # Python's own handlers run only after abort() would have ended the process.
        self._handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(self._say)
        self._libc.signal(int(signal.SIGABRT), self._handler)

    def close(self) -> None:
        """abort() means what it always means."""
        self._libc.signal(int(signal.SIGABRT), None)

    @contextlib.contextmanager
    def instead_of_its_output(self) -> Iterator[None]:
        """A block in which an abort prints the message alone, without JAX's native stack; other output comes later."""
        with tempfile.TemporaryFile() as kept:
            sys.stderr.flush()
            self._stderr, self._kept = os.dup(2), kept.fileno()
            os.dup2(self._kept, 2)
            try:
                yield
            finally:
                sys.stderr.flush()
                os.dup2(self._stderr, 2)
                os.close(self._stderr)
                self._stderr, self._kept = 2, -1
                kept.seek(0)
                streams.tell(kept.read().decode(errors="replace"))

    def _say(self, _: int) -> None:
        cause = "the connection failed"
        if self._kept >= 0:
            text = os.pread(self._kept, 1 << 16, 0).decode(errors="replace")
            cause = text.partition("absl::Status: ")[2].partition("\n")[0][:200] or cause
        streams.tell(f"error: {self.message(cause)}\n", self._stderr)
        os._exit(1)
