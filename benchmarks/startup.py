"""Time from the command to the first step: the first start of the demo, a second one, and one that continues.

  python benchmarks/startup.py [--config=configs/demo.py] [--repeats=3] [--quick] [--json=OUT]

Every start is a process of its own, timed from the moment it is asked for: imports; data (the world is drawn and the
records are prepared, or found); compilation (tracing, lowering and compiling, or loading from the cache, wherever in
the start it happens); restore (the network's first state, and the checkpoint); the first step itself, until its result
is there. The first start has an empty `data.dir` and an empty compilation cache. The goal: a second start reaches its
first step in at most half the time; exit code 1 where it does not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # from a checkout that is not installed

from benchmarks import command

CONFIG = command.define_config()
REPEATS = flags.DEFINE_integer("repeats", 3, "Second starts; the table shows the median of each part.")
QUICK = flags.DEFINE_bool("quick", False, "A tiny world and network: whether the benchmark runs, not how fast.")
JSON = flags.DEFINE_string("json", "", "Write the table to this file.")
CHILD = flags.DEFINE_string("child", "", "Internal: start a run in this work folder and report.")

QUICK_FIELDS = {
    "data.world.train_ids": 8,
    "data.world.test_ids": 4,
    "data.identities": 4,
    "data.image_size": (32, 16),
    "network.pool.stripes": 1,
}
PARTS = ("imports", "data", "restore", "compilation", "first step")


def main(_: Sequence[str]) -> int:
    """Starts, prints the table, and fails where the goal is missed."""
    from bdf_jax import config as configs

    config = command.configuration(CONFIG, "demo")
    if QUICK.value:
        config = configs.vary(config, QUICK_FIELDS)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        config = configs.vary(config, {"data.dir": str(home / "data"), "training.tensorboard": False})
        rows = [{"start": "first", **_started(config, home / "run", home)}]
        again = [_started(config, home / f"run{i}", home) for i in range(REPEATS.value)]
        rows.append({"start": "second", **{part: float(np.median([row[part] for row in again])) for part in again[0]}})
        rows.append({"start": "continued", **_started(config, home / "run", home)})  # its first step is saved
    _print(rows)
    if JSON.value:
        from bdf_jax.evaluation.table import write_json

        write_json(JSON.value, rows)
    return 0 if rows[1]["total"] <= rows[0]["total"] / 2 else 1


def _started(config: Any, workdir: Path, home: Path) -> dict[str, float]:
    """Seconds of each part of one start; `cpu` is what the process computed, on all cores."""
    from bdf_jax.config import to_dict

    environment = {name: value for name, value in os.environ.items() if "COMPILATION_CACHE" not in name}
    asked = time.monotonic()
    done = subprocess.run(
        [sys.executable, __file__, f"--child={workdir}"],
        input=json.dumps([asked, to_dict(config)]),
        env={**environment, "XDG_CACHE_HOME": str(home / "cache"), "PYTHONUNBUFFERED": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines()
    if done.returncode or not lines or not lines[-1].startswith("{"):
        raise SystemExit(f"the start failed:\n{done.stdout}\n{done.stderr}")
    return json.loads(lines[-1])


class _FirstStepDone(Exception):
    """Ends the run after the step that was timed."""


def _child(workdir: str) -> int:
    """A run as train.py starts it, until its first step is saved; its parts in seconds as the last line."""
    asked, values = json.loads(sys.stdin.read())
    import jax

    from bdf_jax import checkpoints, config
    from bdf_jax.training import loop

    ends = {"imports": time.monotonic()}
    compiling = _Compiling()
    jax.monitoring.register_event_duration_secs_listener(compiling)

    def timed(name: str, function: Any) -> Any:
        def run(*arguments: Any, **options: Any) -> Any:
            result = jax.block_until_ready(function(*arguments, **options))
            ends[name] = time.monotonic()
            return result

        return run

    def compile_step(*arguments: Any) -> Any:
        compiled = compile_before(*arguments)

        def step(*inputs: Any) -> Any:
            if "first step" in ends:
                raise _FirstStepDone
            return timed("first step", compiled.step)(*inputs)

        return dataclasses.replace(compiled, step=step)

    compile_before = loop.compile_step
    loop.compile_step = compile_step
    loop.open_dataset = timed("data", loop.open_dataset)
    checkpoints.Checkpoints.restore = timed("restore", checkpoints.Checkpoints.restore)
    # Saved after its first step, the run can be continued: the third row.
    settings = config.vary(config.from_dict(values), {"training.checkpoint_every": 1})
    with contextlib.suppress(_FirstStepDone):
        loop.run(settings, workdir)
    order = ("imports", "data", "restore", "first step")
    starts = dict(zip(order, [asked, *(ends[name] for name in order)], strict=False))
    parts = {name: ends[name] - starts[name] - compiling.within(starts[name], ends[name]) for name in order}
    parts["compilation"] = compiling.within(asked, ends["first step"])
    parts = {name: parts[name] for name in PARTS}
    print("\n" + json.dumps({**parts, "total": ends["first step"] - asked, "cpu": time.process_time()}))
    return 0


class _Compiling:
    """When this process was tracing, lowering, compiling or loading programs; what lies in another is not counted."""

    def __init__(self) -> None:
        self._intervals: list[tuple[float, float]] = []

    def __call__(self, name: str, seconds: float, **_: Any) -> None:
        if name.startswith("/jax/core/compile/"):
            end = time.monotonic()
            while self._intervals and self._intervals[-1][0] >= end - seconds:
                self._intervals.pop()
            self._intervals.append((end - seconds, end))

    def within(self, start: float, end: float) -> float:
        """Seconds of it between two moments."""
        return sum(max(0.0, min(b, end) - max(a, start)) for a, b in self._intervals)


def _print(rows: list[dict[str, Any]]) -> None:
    import jax

    from benchmarks.tables import show

    show(f"seconds to the first step, {os.cpu_count()} cores, JAX {jax.__version__}", rows)
    print(f"second / first: {rows[1]['total'] / rows[0]['total']:.2f} (goal: at most 0.50)")


if __name__ == "__main__":
    command.main(lambda argv: _child(CHILD.value) if CHILD.value else main(argv))
