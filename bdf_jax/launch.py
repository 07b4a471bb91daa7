"""How this process was launched: alone, or as one of several that flags, the environment or a launcher name.

A run has one process for each host, or for each device, as the launcher likes.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import AbstractContextManager

from absl import flags

from bdf_jax.errors import BdfError
from bdf_jax.peers import SILENCE_SECONDS, START_SECONDS, Launch, session

flags.disclaim_key_flags()  # they are the entry file's, and in its --help


def define_flags() -> Mapping[str, flags.FlagHolder]:
    """The flags of a program that may run in several processes."""
    several = "Several processes: "
    return {
        "coordinator": flags.DEFINE_string(
            "coordinator", "", several + "HOST:PORT of process 0. Default: JAX_COORDINATOR_ADDRESS."
        ),
        "processes": flags.DEFINE_integer(
            "processes", None, several + "how many. Default: JAX_NUM_PROCESSES."
        ),
        "process": flags.DEFINE_integer(
            "process", None, several + "which this one is, from 0. Default: JAX_PROCESS_ID."
        ),
        "detect": flags.DEFINE_enum(
            "distributed", "auto", ["auto", "on", "off"],
            several + "auto: also under srun, Open MPI and on TPU pods; on: wherever JAX finds out; off: never.",
        ),
        "silence_seconds": flags.DEFINE_integer(
            "silence_timeout", SILENCE_SECONDS, several + "seconds after which one that is not heard of counts as dead."
        ),
        "start_seconds": flags.DEFINE_integer(
            "start_timeout", START_SECONDS, several + "seconds for which they wait for each other at the start."
        ),
    }  # fmt: skip


def joined(holders: Mapping[str, flags.FlagHolder]) -> AbstractContextManager[None]:
    """`session` as the flags of `define_flags` say; raises BdfError where they contradict each other."""
    values = {name: holder.value for name, holder in holders.items()}
    limits = {name: values.pop(name) for name in ("silence_seconds", "start_seconds")}
    for name, flag in (("silence_seconds", "silence_timeout"), ("start_seconds", "start_timeout")):
        if limits[name] < 1:
            raise BdfError(f"--{flag}={limits[name]}: expected at least 1 second")
    return session(find(**values), **limits)


def find(
    coordinator: str = "",
    processes: int | None = None,
    process: int | None = None,
    *,
    detect: str = "auto",
    environ: Mapping[str, str] = os.environ,
) -> Launch | None:
    """How this process was launched; None where it is the only one.

    Args:
      coordinator: flag --coordinator; empty: JAX_COORDINATOR_ADDRESS.
      processes: flag --processes; None: JAX_NUM_PROCESSES.
      process: flag --process; None: JAX_PROCESS_ID.
      detect: "auto": also under SLURM with several tasks, Open MPI, and on TPU pods; "on": JAX must find out; "off":
        a single process, whatever the environment says.
      environ: the environment.

    Raises:
      BdfError: a value is missing or impossible.
    """
    if detect == "off":
        return None
    coordinator = coordinator or environ.get("JAX_COORDINATOR_ADDRESS", "")
    processes = _number("JAX_NUM_PROCESSES", environ) if processes is None else processes
    process = _number("JAX_PROCESS_ID", environ) if process is None else process
    launcher = _launcher(environ)
    if not coordinator and processes is None and process is None:
        return Launch() if detect == "on" or launcher is not None else None
    count_of, index_of = launcher or ("", "")
    processes = _number(count_of, environ) if processes is None else processes
    process = _number(index_of, environ) if process is None else process
    _check(coordinator, processes, process, addressed=launcher is not None)
    return None if processes == 1 else Launch(coordinator or None, processes, process)


def _number(name: str, environ: Mapping[str, str]) -> int | None:
    value = environ.get(name, "")
    if value and not value.isdigit():
        raise BdfError(f"{name}={value} in the environment: expected a whole number")
    return int(value) if value else None


def _launcher(environ: Mapping[str, str]) -> tuple[str, str] | None:
    """Where a launcher that started several processes says how many and which; names may be unset on TPU pods."""

    def several(name: str) -> bool:
        return (_number(name, environ) or 0) > 1

    # A step list is only there under srun: the batch script itself also has SLURM_NTASKS, and is alone.
    if several("SLURM_NTASKS") and {"SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NODELIST"} <= environ.keys():
        return "SLURM_NTASKS", "SLURM_PROCID"
    if several("OMPI_COMM_WORLD_SIZE"):
        return "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"
    hosts = environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES", "")
    if "," in hosts or several("MEGASCALE_NUM_SLICES"):
        return "", ""
    return None


def _check(coordinator: str, processes: int | None, process: int | None, *, addressed: bool) -> None:
    if processes is not None and processes < 1:
        raise BdfError(f"--processes={processes}: expected at least 1")
    if processes == 1 and not process:
        return
    given = {"--coordinator=HOST:PORT": coordinator or None, "--processes=N": processes, "--process=I": process}
    missing = [flag for flag, value in given.items() if value is None]
    if missing and not addressed:
        raise BdfError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing: a run of several processes needs "
            "the address of process 0, their number and the index of this one, as flags or as JAX_COORDINATOR_ADDRESS, "
            "JAX_NUM_PROCESSES and JAX_PROCESS_ID in the environment; --distributed=off runs this process alone"
        )
    if process is not None and processes is not None and not 0 <= process < processes:
        raise BdfError(f"--process={process}: expected 0 to {processes - 1}, for there are --processes={processes}")
    if coordinator:
        host, _, port = coordinator.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise BdfError(f"--coordinator={coordinator}: expected HOST:PORT, such as 10.0.0.1:1234")
        try:
            socket.getaddrinfo(host.strip("[]"), int(port))
        except OSError as error:
            raise BdfError(f"--coordinator={coordinator}: the host is not known here: {error}") from error
