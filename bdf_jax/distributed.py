"""What the processes of one run say to each other beside the arrays: who is first, who waits, who agrees, who stops.

Short messages go through JAX's coordination service, which process 0 hosts, and not through the devices: a process may
wait there for minutes while another one writes or ranks. In a run of one process every function here returns at once.
`bdf_jax.peers` connects the processes; after a `jax.distributed.initialize` of one's own these functions work as well.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax._src import distributed  # jax.distributed shows no client; Orbax takes it from here too
from jax.experimental import multihost_utils

from bdf_jax.errors import BdfError
from bdf_jax.signals import stopping
from bdf_jax.trouble import status

PREFIX = "bdf_jax"
FOREVER_MS = 7 * 24 * 3600 * 1000  # a process that fell out ends waiting earlier, see `peers`
ASK_SECONDS = 1.0  # between two looks whether another process was asked to stop

T = TypeVar("T")


class Together(BdfError):
    """An error that all processes raise at the same point, so that each of them can end in its own time."""


# All processes come to the same calls in the same order, so the same number means the same call.
_calls = itertools.count()


def client() -> Any:
    """Of the coordination service; None in a run of one process."""
    return distributed.global_state.client


def is_first() -> bool:
    """Whether this process is the one that prints and writes."""
    return client() is None or distributed.global_state.process_id == 0


def barrier(name: str) -> None:
    """Returns when all processes are here.

    Raises:
      BdfError: another one fell out.
    """
    if client() is None:
        return
    failures: list[Exception] = []

    def wait(key: str) -> None:
        try:
            client().wait_at_barrier(key, FOREVER_MS)
        except Exception as error:
            failures.append(error)

    # In the background, because Python handles no signal while it is in a native call.
    waiting = threading.Thread(target=wait, args=(f"{PREFIX}/{next(_calls)}/{name}",), daemon=True)
    waiting.start()
    while waiting.is_alive():
        waiting.join(ASK_SECONDS)
    with _lost():
        for failure in failures:
            raise failure


def on_first(function: Callable[[], T]) -> T:
    """What process 0 computes, in all processes. The value is one that JSON can hold.

    Raises:
      Together: a BdfError of process 0, in all processes.
    """
    if client() is None:
        return function()
    key = f"{PREFIX}/{next(_calls)}/first"
    if is_first():
        try:
            value = function()
        except BdfError as error:
            client().key_value_set(key, json.dumps({"error": str(error)}))
            raise Together(str(error)) from error
        client().key_value_set(key, json.dumps({"value": value}))
        return value
    outcome = json.loads(_value_of(key))
    if "error" in outcome:
        raise Together(outcome["error"])
    return outcome["value"]


def _value_of(key: str) -> str:
    """Waits for a value as long as it takes; a second at a time, between which Python handles signals."""
    while True:
        with _lost():
            try:
                return client().blocking_key_value_get(key, 1000)
            except jax.errors.JaxRuntimeError as error:
                if status(error) != "DEADLINE_EXCEEDED":
                    raise


def agree(what: str, values: Mapping[str, Any]) -> None:
    """Checks that these values are the same in all processes.

    Args:
      what: they describe, for the message.
      values: names to what JSON can hold.

    Raises:
      Together: naming the processes that differ from process 0, and in what.
    """
    if client() is None:
        return
    folder = f"{PREFIX}/{next(_calls)}/agree"
    client().key_value_set(f"{folder}/{distributed.global_state.process_id}", json.dumps(values))
    barrier("agree")

    def compare() -> None:
        stored = {int(key.rsplit("/", 1)[-1]): json.loads(value) for key, value in client().key_value_dir_get(folder)}
        first = stored.pop(0)
        differences = [
            f"  {name}: {first.get(name)!r} in process 0, {theirs.get(name)!r} in process {process}"
            for process, theirs in sorted(stored.items())
            for name in sorted({*first, *theirs})
            if first.get(name) != theirs.get(name)
        ]
        if differences:
            listed = "\n".join(differences[:10]) + ("\n  ..." if len(differences) > 10 else "")
            raise BdfError(
                f"the processes of this run differ in {what}:\n{listed}\n"
                "start all of them with the same command on the same data"
            )

    on_first(compare)


def share(rows: np.ndarray) -> np.ndarray:
    """This process's part of `rows`: all of them in a run of one process, else a contiguous part."""
    size = -(-len(rows) // distributed.global_state.num_processes)
    return rows[distributed.global_state.process_id * size :][:size]


def gather(values_RD: np.ndarray, rows_R: np.ndarray, total: int) -> np.ndarray:
    """(total, D): every row of it from the process that has it.

    Args:
      values_RD: this process's rows.
      rows_R: their places among the `total`.
      total: number of rows of all processes.
    """
    whole_ND = np.empty((total, *values_RD.shape[1:]), values_RD.dtype)
    if client() is None:
        whole_ND[rows_R] = values_RD
        return whole_ND
    # Equally many from each; the places travel along, so the order of processes among the devices does not matter.
    size = -(-total // distributed.global_state.num_processes) + 1  # visible and infrared rows are shared out apart
    places = np.full(size, -1, np.int32)
    places[: len(rows_R)] = rows_R
    padded = np.zeros((size, *values_RD.shape[1:]), values_RD.dtype)
    padded[: len(rows_R)] = values_RD
    places, padded = multihost_utils.process_allgather((places, padded), tiled=True)
    whole_ND[places[places >= 0]] = padded[places >= 0]
    return whole_ND


def from_first(tree: Any) -> Any:
    """The arrays of process 0, in all processes."""
    return tree if client() is None else multihost_utils.broadcast_one_to_all(tree)


def local(tree: Any) -> Any:
    """Arrays that lie whole on every device as arrays of this process alone, without a copy."""
    return jax.tree.map(
        lambda x: x if not isinstance(x, jax.Array) or x.is_fully_addressable else x.addressable_data(0), tree
    )


class Termination:
    """SIGTERM or SIGHUP in any process, and the step after which all of them stop.

    A process that is asked to stop tells the others. Each then halts for a moment before its next step, in the
    background, and says how far it has come; all stop after the step that follows the furthest of them, which none has
    done yet. Steps cost one look at a number.
    """

    def __init__(self) -> None:
        self._asked, self._wake, self._over = threading.Event(), threading.Event(), False
        self._lock = threading.Lock()
        self._step, self._last = 0, float("inf")
        self._key = f"{PREFIX}/{next(_calls)}/terminated"
        self.reason = "SIGTERM"

    def reached(self, step: int) -> bool:
        """Whether to stop after this step; asked once at each step, in all processes."""
        if client() is None:
            return self._asked.is_set()
        with self._lock:
            self._step = step
            return step >= self._last

    def asked_in_any(self) -> bool:
        """Whether any process was asked, in time or too late for a step; the same answer in all processes."""
        barrier("steps done")  # until here the others may need this process's answer
        return on_first(lambda: self._asked.is_set() or self._last < float("inf"))

    def ask(self, number: int = signal.SIGTERM, _: object = None) -> None:
        """Asks all processes to stop; a signal handler."""
        self.reason = signal.Signals(number).name
        self._asked.set()
        self._wake.set()

    def listen(self) -> None:
        """Settles the last step once a process was asked to stop; runs in the background."""
        while not self._over:
            self._wake.wait(ASK_SECONDS)
            try:
                if self._asked.is_set():
                    client().key_value_set(self._key, "", allow_overwrite=True)
                client().key_value_try_get(self._key)
                self._settle()
                return
            except jax.errors.JaxRuntimeError as error:
                if status(error) != "NOT_FOUND":  # there is no key, as nobody was asked
                    return  # the service is gone, and with it the run

    def close(self) -> None:
        """Ends `listen`."""
        self._over = True
        self._wake.set()

    def _settle(self) -> None:
        state = distributed.global_state
        with self._lock:
            client().key_value_set(f"{self._key}-at/{state.process_id}", str(self._step))
            keys = [f"{self._key}-at/{process}" for process in range(state.num_processes)]
            self._last = 1 + max(int(client().blocking_key_value_get(key, FOREVER_MS)) for key in keys)


@contextlib.contextmanager
def termination() -> Iterator[Termination]:
    """SIGTERM, the usual notice of preemption, and SIGHUP are noted instead of ending the process."""
    watched = Termination()
    listener = threading.Thread(target=watched.listen, name="termination", daemon=True)
    if client() is not None:
        listener.start()
    main = threading.current_thread() is threading.main_thread()  # only this one may handle signals
    try:
        with stopping(watched.ask) if main else contextlib.nullcontext():
            yield watched
    finally:
        watched.close()
        if client() is not None:
            listener.join(2 * ASK_SECONDS)


@contextlib.contextmanager
def _lost() -> Iterator[None]:
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        raise BdfError(f"{died()} ({str(error).splitlines()[0][:200]})") from error


def died(process: str = "another process of this run died") -> str:
    """The message of a process whose run cannot go on because another one fell out."""
    return f"{process}; start the same command again in all processes to continue from the last checkpoint"
