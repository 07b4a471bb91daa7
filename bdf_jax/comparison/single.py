"""One run of a sequence, in a process of its own: `python -m bdf_jax.comparison.single`, started by `jobs`.

Its task is the first line of standard input. The stream stays open for as long as the process that started it lives;
its end is a reason to save and to stop.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from bdf_jax.config import from_dict, vary
from bdf_jax.output import write_json
from bdf_jax.process import run_command
from bdf_jax.training.preemption import preemptible


def main() -> int:
    """Trains and evaluates what standard input says; returns the exit code, as `train.py` does."""
    task = _read_task()
    threading.Thread(target=_stop_with_parent, daemon=True).start()

    def run() -> None:
        with preemptible():
            write_json(Path(task["result"]), {**task["about"], **_train(task)})

    return run_command(run)


def _train(task: dict[str, Any]) -> dict[str, Any]:
    """Rows of evaluation by the views that represent an image; what a step costs."""
    from bdf_jax.comparison import cost
    from bdf_jax.evaluation.workdir import evaluate_workdir
    from bdf_jax.training.loop import run

    config = from_dict(task["config"])
    rows = {config.retrieve.use: run(config, task["workdir"], features_file=task["features"])}
    for use in task["uses"]:
        if use not in rows:
            changed = vary(config, {"retrieve.use": use, "evaluation.baselines": False})
            rows[use] = evaluate_workdir(task["workdir"], config=changed, own=True)
    return {"rows": rows, "cost": cost.measure(task["workdir"]) if task["cost"] else None}


def _read_task() -> dict[str, Any]:
    # Not through sys.stdin: the thread below would hold its lock until this process ends, and Python objects to that.
    line = b""
    while not line.endswith(b"\n") and (part := os.read(0, 1 << 16)):
        line += part
    return json.loads(line)


def _stop_with_parent() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
