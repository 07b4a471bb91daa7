"""Several runs one after another, each in a process and a work folder of its own.

A process gives all its memory back, and one that fails takes no other with it. What is finished is not done again, so
a sequence that was stopped continues where it was.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bdf_jax.config import Config, to_dict
from bdf_jax.datasets import tree_root
from bdf_jax.errors import BdfError
from bdf_jax.output import write_json
from bdf_jax.paths import check_data_places
from bdf_jax.signals import stopping
from bdf_jax.training.workdir import claimed
from bdf_jax.trouble import refuse_trouble

RESULT = "result.json"  # in the work folder of a finished run: its rows
PREEMPTED = 75


@dataclasses.dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
      name: what messages call it.
      workdir: its folder.
      config: what to train.
      uses: which views represent an image, in further evaluations beside that of the configuration.
    """

    name: str
    workdir: Path
    config: Config
    uses: tuple[str, ...] = ()

    def about(self) -> dict[str, Any]:
        """What a result must say of itself to be the result of this job."""
        return {
            "uses": list(self.uses),
            "evaluation": [to_dict(self.config)[name] for name in ("retrieve", "evaluation")],
        }


class Stopped(BdfError):
    """SIGTERM, SIGHUP or Ctrl-C: the run in work was saved, and the same command continues."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


class _Signal(BaseException):
    """SIGTERM or SIGHUP, in the midst of waiting."""


def run_jobs(jobs: Sequence[Job]) -> tuple[dict[str, dict[str, list[dict[str, Any]]]], list[str]]:
    """Runs what is not finished yet.

    Nothing starts before every tree is known to be there, and every work folder to be free and of its job's own
    configuration.

    Returns:
      name -> use -> rows of evaluation, of the jobs that are finished; and what to say of those that failed.

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
    results: dict[str, dict[str, list[dict[str, Any]]]] = {}
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


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean ± standard deviation (n - 1), or the one value."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean + (f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else "")


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; the first column to the left, the others to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def write_summary(path: Path, summary: Mapping[str, Any]) -> None:
    """Writes a JSON file; one that was there stays whole until the new one is.

    Raises:
      BdfError: it cannot be written.
    """
    write_json(path, summary, f"{path}: the results could not be written")


def _finished(job: Job) -> dict[str, list[dict[str, Any]]] | None:
    """The rows of a finished run; None where there are none, or those of other settings of evaluation."""
    try:
        found = json.loads((job.workdir / RESULT).read_text())
        return found["rows"] if {name: found[name] for name in job.about()} == job.about() else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        refuse_trouble(error, f"{job.workdir / RESULT}: cannot be read")  # what is finished is not trained again
        return None


def _in_a_process(job: Job) -> int:
    """Its exit code."""
    task = {
        "config": to_dict(job.config),
        "workdir": str(job.workdir),
        "result": str(job.workdir / RESULT),
        "uses": list(job.uses),
        "about": job.about(),
    }
    package_parent = str(Path(__file__).resolve().parents[2])
    paths = [package_parent, os.environ.get("PYTHONPATH", "")]
    with _stopping_raises():
        process = subprocess.Popen(
            [sys.executable, "-m", "bdf_jax.training.single"],
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
