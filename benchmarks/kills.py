"""A run that is killed again and again against one that is left alone: bit for bit the same, or what differs.

  python benchmarks/kills.py --out=DIR [--kills=20] [--seed=0] [--steps=30] [--workers=1] [--json=OUT]

A tiny run that saves every second step goes through undisturbed. Then the same command is started, killed with SIGKILL
and started again, until as many kills as asked for have happened; a run that reaches its end meanwhile is compared, and
the next one begins in a folder of its own. In turn a kill is aimed at

  saving    a random moment after a checkpoint's temporary folder appears,
  anywhere  a random moment of the life of the process, from its first instruction to its last,
  training  a random moment after a random step,

and hits either the main process alone or its whole group, decoding processes included. Compared are the parameters,
batch statistics and optimiser state of the last checkpoint, bit for bit, and metrics.jsonl, line for line. Exit code 1
on any difference, and where a process outlives the one that started it.

Both start with an empty compilation cache, so that compiling is killed too; --cache=DIR names one to save time.
"""

from __future__ import annotations

import collections
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # from a checkout that is not installed

from bdf_jax.errors import BdfError
from bdf_jax.progress import bar
from benchmarks import command

AIMS = ("saving", "anywhere", "training")
LIFE_SECONDS = 900  # after which a process counts as hanging
CHANGES = {
    "data.image_size": "32,16", "data.identities": 4, "data.images": 2, "data.world.train_ids": 6,
    "data.world.test_ids": 3, "data.world.images": 2, "data.world.size": "32,16", "augment.pad": 2,
    "augment.erase": 0.5, "network.pool.stripes": 1, "training.log_every": 1, "training.checkpoint_every": 2,
    "evaluation.baselines": False, "evaluation.batch_size": 16,
}  # fmt: skip


def main(_: Sequence[str]) -> int:
    """Runs, kills, compares, prints."""
    out = Path(command.required(OUT)).absolute()
    if (out / "whole").exists():
        raise BdfError(f"--out={OUT.value}: holds runs already; name another folder")
    whole = _run(out, "whole")
    seconds = whole.live(lambda: False)
    rng, rows, ended = random.Random(SEED.value), [], []
    run = None
    with bar(total=KILLS.value, unit="kill") as progress:
        while len(rows) < KILLS.value or run:
            run = run or _run(out, f"killed-{len(ended) + 1}")
            if len(rows) < KILLS.value and (row := kill(run, AIMS[len(rows) % len(AIMS)], rng, seconds)):
                rows.append(row)
                progress.update(1)
                continue
            if len(rows) == KILLS.value:
                run.live(lambda: False)
            ended.append(run)
            run = None
    outcome = _compare(whole, ended)
    _print(rows, outcome)
    if JSON.value:
        Path(JSON.value).write_text(json.dumps({"kills": rows, "runs": outcome}, indent=2) + "\n")
    return int(any(run[n] for run in outcome for n in ("left_behind", "arrays_that_differ", "lines_that_differ")))


def _run(out: Path, name: str) -> Run:
    """A run of the flags' settings. Those that are killed share a cache, which a kill must not spoil either."""
    out.mkdir(parents=True, exist_ok=True)
    changes = CHANGES | {"data.dir": out / "data", "data.workers": WORKERS.value, "training.steps": STEPS.value}
    command = [
        sys.executable, str(ROOT / "train.py"), f"--config={ROOT / 'configs' / 'demo.py'}", f"--workdir={out / name}",
        *(f"--config.{field}={value}" for field, value in changes.items()),
    ]  # fmt: skip
    cache = CACHE.value or str(out / ("cache" if name == "whole" else "cache-killed"))
    environment = {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    return Run(out / name, STEPS.value, command, os.environ | environment)


class Run:
    """A work folder and the command that is started in it until it ends."""

    def __init__(self, folder: Path, steps: int, command: list[str], environment: Mapping[str, str] = os.environ):
        self.folder, self.steps = folder, steps
        self.log = folder.with_suffix(".log")
        self._command, self._environment = command, environment
        self._groups: list[int] = []  # of processes, one for each life

    def live(self, now: Callable[[], bool], whole_group: bool = True) -> float | None:
        """Starts the command and kills it when `now` says so.

        Returns:
          For how many seconds it lived until its own end; None where it was killed.
        """
        began = time.monotonic()
        with (
            self.log.open("a") as log,
            subprocess.Popen(
                self._command,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
                cwd=self.log.parent,
            ) as process,
        ):
            self._groups.append(process.pid)
            while process.poll() is None:
                if time.monotonic() - began > LIFE_SECONDS:
                    os.killpg(process.pid, signal.SIGKILL)
                    raise BdfError(f"{self.folder}: hangs; see {self.log}")
                if now():
                    (os.killpg if whole_group else os.kill)(process.pid, signal.SIGKILL)
                    process.wait()
                    break
                time.sleep(0.001)
        if process.returncode == -signal.SIGKILL:
            return None
        if process.returncode:
            raise BdfError(f"{self.folder}: exit code {process.returncode}; the log ends with:\n{_tail(self.log)}")
        return time.monotonic() - began

    def saving(self) -> int | None:
        """The step that is being saved."""
        try:
            names = os.listdir(self.folder / "checkpoints")
        except FileNotFoundError:
            return None
        found = [re.fullmatch(r"(\d+)\..*tmp.*", name) for name in names]
        return max((int(match[1]) for match in found if match), default=None)

    def saved(self) -> int:
        """Step of the newest finished checkpoint; 0: none."""
        folder = self.folder / "checkpoints"
        return max((int(p.name) for p in folder.iterdir() if p.name.isdigit()), default=0) if folder.is_dir() else 0

    def metrics(self) -> tuple[int, int]:
        """Inode of the metrics file, which every process replaces before its first step, and step of its last line."""
        try:
            with (self.folder / "metrics.jsonl").open("rb") as file:
                whole = file.read().split(b"\n")[:-1]
                return os.fstat(file.fileno()).st_ino, json.loads(whole[-1])["step"] if whole else 0
        except FileNotFoundError:
            return 0, 0

    def left_behind(self) -> int:
        """How many lives left processes that still run half a minute after the last was over."""
        deadline = time.monotonic() + 30
        while (alive := [group for group in self._groups if _exists(group)]) and time.monotonic() < deadline:
            time.sleep(0.05)
        for group in alive:
            os.killpg(group, signal.SIGKILL)
        return len(alive)


def _exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def kill(run: Run, aim: str, rng: random.Random, seconds: float) -> dict[str, Any] | None:
    """One life of a run with its kill as a row of the table; None where it came to its end before."""
    start, before, stale = run.saved(), run.metrics()[0], run.saving()
    delay, step = rng.random(), rng.randint(start + 1, max(start + 1, run.steps - 1))
    whole_group = rng.random() < 0.5
    began = time.monotonic()
    due = began + delay * seconds if aim == "anywhere" else None

    def now() -> bool:
        nonlocal due
        if due is None:
            inode, last = run.metrics()
            if inode == before:
                return False
            if aim == "saving" and run.saving() not in (None, stale):
                due = time.monotonic() + 0.1 * delay  # a save of this size takes about a tenth of a second
            elif aim == "training" and last >= step:
                due = time.monotonic() + 0.1 * delay
        return due is not None and time.monotonic() >= due

    if run.live(now, whole_group) is not None:
        return None
    return {
        "aim": aim,
        "killed": "group" if whole_group else "main",
        "after_s": round(time.monotonic() - began, 2),
        "fell_in": _where(run, start, before, stale),
        "continues_from": run.saved(),
    }


def _where(run: Run, start: int, before: int, stale: int | None) -> str:
    inode, last = run.metrics()
    saving = run.saving()
    if saving not in (None, stale):
        return f"saving step {saving}"
    if inode == before:
        return "start-up"
    if last <= start and run.saved() == start:
        return f"compiling, step {start + 1}"
    return "evaluation" if run.saved() == run.steps else f"step {last + 1}"


def _compare(whole: Run, ended: list[Run]) -> list[dict[str, Any]]:
    """Each run that was killed against the one that was not."""
    expected, lines = _arrays(whole), _lines(whole)
    steps = [line["step"] for line in lines]
    if steps != list(range(1, whole.steps + 1)):
        raise BdfError(f"{whole.folder}: the metrics of the undisturbed run are of steps {steps}")
    rows = []
    for run in ended:
        arrays, found = _arrays(run), _lines(run)
        different = [i for i, (a, b) in enumerate(zip(lines, found, strict=False)) if a != b]
        rows.append(
            {
                "run": run.folder.name,
                "left_behind": run.left_behind(),
                "arrays": len(expected),
                "arrays_that_differ": sorted(n for n in {*expected, *arrays} if expected.get(n) != arrays.get(n)),
                "lines": len(found),
                "lines_that_differ": different + list(range(min(len(lines), len(found)), max(len(lines), len(found)))),
            }
        )
    return rows


def _arrays(run: Run) -> dict[str, tuple]:
    """Every array of the last checkpoint: its type, its shape and its bytes."""
    import jax
    import numpy as np

    from bdf_jax.checkpoints import load_state

    _, state, step = load_state(run.folder)
    if step != run.steps:
        raise BdfError(f"{run.folder}: ended with the checkpoint of step {step} of {run.steps}")
    leaves = ((jax.tree_util.keystr(path), np.asarray(leaf)) for path, leaf in jax.tree.leaves_with_path(state))
    return {name: (str(array.dtype), array.shape, array.tobytes()) for name, array in leaves}


def _lines(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


def _print(rows: list[dict[str, Any]], outcome: list[dict[str, Any]]) -> None:
    from benchmarks.tables import show

    show("kills", rows)
    show("runs", outcome)
    places = collections.Counter(re.sub(r",? ?(step )?\d+$", "", row["fell_in"]) or "step" for row in rows)
    arrays = sum(len(run["arrays_that_differ"]) for run in outcome)
    lines = sum(len(run["lines_that_differ"]) for run in outcome)
    where = ", ".join(f"{n} in {place}" for place, n in places.most_common())
    print(
        f"{len(rows)} kill{'s' * (len(rows) != 1)} ({where}) of {len(outcome)} run{'s' * (len(outcome) != 1)}: "
        f"{arrays} arrays and {lines} lines of metrics differ from the undisturbed run"
    )


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])


if __name__ == "__main__":  # the flags too: tests import this module, and flags are global
    KILLS = flags.DEFINE_integer("kills", 20, "How many.")
    SEED = flags.DEFINE_integer("seed", 0, "Of the moments.")
    OUT = flags.DEFINE_string("out", "", "Folder for data, runs and logs; must not hold any yet.")
    STEPS = flags.DEFINE_integer("steps", 30, "Steps of a run.")
    WORKERS = flags.DEFINE_integer("workers", 1, "Decoding processes of a run; 0: threads.")
    CACHE = flags.DEFINE_string("cache", "", "Compilation cache to use; default: one in OUT for each of the two.")
    JSON = flags.DEFINE_string("json", "", "Write the result to this file.")
    command.main(main)
