"""How this process was launched: alone, or as one of several that flags, the environment or a launcher name.

A run has one process for each host, or for each device, as the launcher likes.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import socket
from collections.abc import Mapping
from contextlib import AbstractContextManager

from bdf_jax.errors import BdfError
from bdf_jax.peers import SILENCE_SECONDS, START_SECONDS, Launch, session

# Where launchers say how many processes they started and which one this is; the last name must be set as well, as the
# others are too common, or there without a launcher. MPI comes first: it may have been started by a step of SLURM's.
LAUNCHERS = (
    ("Open MPI", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", ""),
    ("MVAPICH", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK", ""),
    ("an MPI launcher", "PMI_SIZE", "PMI_RANK", ""),
    ("SLURM", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_STEP_NODELIST"),
    ("SLURM", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_STEP_NODELIST"),
    ("torchrun", "WORLD_SIZE", "RANK", "TORCHELASTIC_RUN_ID"),
)
# Steps that SLURM itself makes have numbers from here on: an interactive shell, the batch script, what adopts a login.
SLURM_OWN_STEPS = 0xFFFFFFFA


@dataclasses.dataclass(frozen=True)
class Launcher:
    """What started several processes of which this is one.

    Attributes:
      name: for messages.
      variables: of the environment that say so, for messages.
      processes: how many; None: JAX finds out.
      process: which this one is; None: JAX finds out.
      addressed: whether JAX finds process 0 by itself.
    """

    name: str
    variables: str
    processes: int | None
    process: int | None
    addressed: bool

    def __str__(self) -> str:
        return f"{self.name} ({self.variables})"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of a command that may run in several processes."""
    group = parser.add_argument_group("several processes")
    group.add_argument(
        "--coordinator", default="", metavar="HOST:PORT", help="of process 0; default: JAX_COORDINATOR_ADDRESS"
    )
    group.add_argument("--processes", type=int, metavar="N", help="how many; default: JAX_NUM_PROCESSES")
    group.add_argument("--process", type=int, metavar="I", help="which this one is, from 0; default: JAX_PROCESS_ID")
    group.add_argument(
        "--distributed",
        choices=("auto", "on", "off"),
        default="auto",
        help="auto: also under srun, Open MPI and on TPU pods; on: wherever JAX finds out; off: never",
    )
    group.add_argument(
        "--silence-timeout",
        type=int,
        default=SILENCE_SECONDS,
        metavar="SECONDS",
        help="after which one that is not heard of counts as dead",
    )
    group.add_argument(
        "--start-timeout",
        type=int,
        default=START_SECONDS,
        metavar="SECONDS",
        help="for which they wait for each other at the start",
    )


def joined(arguments: argparse.Namespace) -> AbstractContextManager[None]:
    """`session` as the flags of `add_arguments` say; raises BdfError where they contradict each other."""
    for flag in ("silence_timeout", "start_timeout"):
        if getattr(arguments, flag) < 1:
            raise BdfError(f"--{flag.replace('_', '-')}={getattr(arguments, flag)}: expected at least 1 second")
    launch = find(arguments.coordinator, arguments.processes, arguments.process, detect=arguments.distributed)
    return session(launch, silence_seconds=arguments.silence_timeout, start_seconds=arguments.start_timeout)


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
      detect: "auto": also where a launcher has started several (`LAUNCHERS`, a TPU pod); "on": JAX must find out;
        "off": a single process, whatever the environment says.
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
        if launcher is None:
            return Launch() if detect == "on" else None
        if not launcher.addressed and detect == "auto":
            raise BdfError(
                f"{launcher} has started several processes, and JAX cannot find out where process 0 is: name "
                "--coordinator=HOST:PORT of it in all of them, or run this one alone with --distributed=off"
            )
    if launcher is not None:
        processes = launcher.processes if processes is None else processes
        process = launcher.process if process is None else process
    _check(coordinator, processes, process, addressed=launcher is not None and launcher.addressed)
    found = "" if launcher is None or coordinator else str(launcher)
    return None if processes == 1 else Launch(coordinator or None, processes, process, found)


def _number(name: str, environ: Mapping[str, str]) -> int | None:
    value = environ.get(name, "")
    if value and not value.isdigit():
        raise BdfError(f"{name}={value} in the environment: expected a whole number")
    return int(value) if value else None


def _launcher(environ: Mapping[str, str]) -> Launcher | None:
    """What started several processes; None where nothing did."""
    found = []
    for name, count_of, index_of, also in LAUNCHERS:
        if not {count_of, index_of, also or count_of} <= environ.keys():
            continue
        if name == "SLURM" and not _says_of_itself(count_of, environ):
            continue
        processes, process = _number(count_of, environ), _number(index_of, environ)
        if processes is not None and processes > 1 and process is not None:
            shown = ", ".join(f"{key}={environ[key]}" for key in (count_of, index_of, also) if key)
            addressed = name == "SLURM" or (name == "Open MPI" and "OMPI_MCA_orte_hnp_uri" in environ)
            found.append(Launcher(name, shown, processes, process, addressed))
    # Under `srun --mpi=pmi2`, say, two of them say the same, and JAX can ask one.
    same = [each for each in found if (each.processes, each.process) == (found[0].processes, found[0].process)]
    return next((each for each in same if each.addressed), found[0]) if found else _tpu_pod(environ)


def _says_of_itself(count_of: str, environ: Mapping[str, str]) -> bool:
    """Whether SLURM's number of tasks is that of the step in which this process runs.

    The job's number is there in the batch script, in a shell of `salloc` and in a step of fewer tasks as well.
    """
    if (_number("SLURM_STEP_ID", environ) or 0) >= SLURM_OWN_STEPS:
        return False
    return count_of == "SLURM_STEP_NUM_TASKS" or "SLURM_STEP_NUM_TASKS" not in environ


def _tpu_pod(environ: Mapping[str, str]) -> Launcher | None:
    platforms = environ.get("JAX_PLATFORMS", "")
    if platforms and "tpu" not in platforms:
        return None
    hosts = "TPU_PROCESS_ADDRESSES" if environ.get("TPU_PROCESS_ADDRESSES") else "TPU_WORKER_HOSTNAMES"
    if "," in environ.get(hosts, ""):
        return Launcher("a TPU pod", f"{hosts}={environ[hosts]}", None, None, addressed=True)
    slices = "MEGASCALE_NUM_SLICES"
    if (_number(slices, environ) or 0) > 1:
        return Launcher("a TPU pod", f"{slices}={environ[slices]}", None, None, addressed=True)
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
