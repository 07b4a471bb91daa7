"""Several runs one after another, each in a process and a work folder of its own.

A process gives all its memory back, and one that fails takes no other with it. What is finished is not done again, so
a sequence that was stopped continues where it was.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bdf_jax.config import Config, to_dict
from bdf_jax.datasets import tree_root
from bdf_jax.errors import BdfError
from bdf_jax.paths import check_data_places
from bdf_jax.signals import stopping
from bdf_jax.training.workdir import claimed
from bdf_jax.trouble import refuse_trouble

RESULT = "result.json"  # in the work folder of a finished run: its rows, and what a step costs
FEATURES = "features.npz"  # beside it: of the test images
PREEMPTED = 75


@dataclasses.dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
      name: what messages call it.
      workdir: its folder.
      config: what to train.
      uses: which views represent an image, in further evaluations beside that of the configuration.
      features: whether the features of the test images are kept, in `FEATURES`.
      cost: whether a step is timed, and its memory asked of the compiler, after the training.
    """

    name: str
    workdir: Path
    config: Config
    uses: tuple[str, ...] = ()
    features: bool = False
    cost: bool = False

    def about(self) -> dict[str, Any]:
        """What a result must say of itself to be the result of this job."""
        return {
            "uses": list(self.uses),
            "features": self.features,
            "costs": self.cost,
            "evaluation": [to_dict(self.config)[name] for name in ("retrieve", "evaluation")],
        }


class Stopped(BdfError):
    """SIGTERM, SIGHUP or Ctrl-C: the run in work was saved, and the same command continues."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


class _Signal(BaseException):
    """SIGTERM or SIGHUP, in the midst of waiting."""


def run_jobs(jobs: Sequence[Job]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Runs what is not finished yet.

    Nothing starts before every tree is known to be there, and every work folder to be free and of its job's own
    configuration.

    Returns:
      name -> result of the jobs that are finished: `rows` of evaluation by use, and `cost` (see `cost.measure`); and
      what to say of those that failed.

    Raises:
      BdfError: no tree at a job's `data.root`, or a work folder of another run or in use.
      Stopped: by SIGTERM or Ctrl-C.
    """
    for job in jobs:
        check_data_places(job.config.data)
    for dataset, root in dict.fromkeys((job.config.data.dataset, job.config.data.root) for job in jobs):
        if root:
            tree_root(dataset, root)
    for job in jobs:
        with claimed(job.workdir, job.config):
            pass
    results: dict[str, dict[str, Any]] = {}
    failures = []
    for number, job in enumerate(jobs, start=1):
        found = _finished(job)
        title = f"[{number}/{len(jobs)}] {job.name}"
        if found is None:
            print(f"{title}: {job.workdir}", flush=True)
            code = _in_a_process(job)
            found = _finished(job)
            if code == PREEMPTED:
                raise Stopped(f"{job.name} was preempted and saved; the same command continues", PREEMPTED)
            if found is None:
                failures.append(f"{job.name} ended with code {code}; its messages are above")
                rest = ", the next one starts" if number < len(jobs) else ""
                print(f"{title}: failed{rest}", file=sys.stderr, flush=True)
                continue
        else:
            print(f"{title}: finished before, {job.workdir}", flush=True)
        results[job.name] = found
    return results, failures


def results_of(jobs: Sequence[Job]) -> dict[str, dict[str, Any]]:
    """name -> result of the jobs that are finished; see `run_jobs`."""
    found = {job.name: _finished(job) for job in jobs}
    return {name: result for name, result in found.items() if result is not None}


def _finished(job: Job) -> dict[str, Any] | None:
    """The result of a finished run; None where there is none, or one of other settings of evaluation."""
    try:
        found = json.loads((job.workdir / RESULT).read_text())
        whole = not job.features or (job.workdir / FEATURES).is_file()
        return found if whole and {name: found[name] for name in job.about()} == job.about() else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        refuse_trouble(error, f"{job.workdir / RESULT}: cannot be read")  # what is finished is not trained again
        return None


def _in_a_process(job: Job) -> int:
    """Its exit code."""
    task = {
        "config": to_dict(job.config),
        "workdir": str(job.workdir),
        "result": str(job.workdir / RESULT),
        "features": str(job.workdir / FEATURES) if job.features else "",
        "uses": list(job.uses),
        "cost": job.cost,
        "about": job.about(),
    }
    package_parent = str(Path(__file__).resolve().parents[2])
    paths = [package_parent, os.environ.get("PYTHONPATH", "")]
    with _stopping_raises():
        process = subprocess.Popen(
            [sys.executable, "-m", "bdf_jax.comparison.single"],
            stdin=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            start_new_session=True,  # Ctrl-C comes here, and is passed on as a request to save
        )
        assert process.stdin is not None
        try:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write((json.dumps(task) + "\n").encode())
                process.stdin.flush()
            return process.wait()
        except (KeyboardInterrupt, _Signal) as reason:
            _stop(process)
            code = PREEMPTED if isinstance(reason, _Signal) else 130
            message = f"stopped during {job.name}, which was asked to save; the same command continues"
            raise Stopped(message, code) from None
        finally:
            with contextlib.suppress(OSError):
                process.stdin.close()


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Lets the run save; a second Ctrl-C ends it at once."""
    print("stopping: the run saves what it has (Ctrl-C once more to end it at once)", file=sys.stderr, flush=True)
    process.terminate()
    try:
        process.wait()
    except (KeyboardInterrupt, _Signal):
        process.kill()
        process.wait()


@contextlib.contextmanager
def _stopping_raises() -> Iterator[None]:
    def interrupt(*_: Any) -> None:
        raise _Signal

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    with stopping(interrupt):
        yield
