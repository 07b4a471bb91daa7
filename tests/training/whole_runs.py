"""What tests of whole runs share: the command of a run, its metrics, and what makes two runs the same."""

import json
import sys
import time
from pathlib import Path

import jax
import numpy as np

from bdf_jax.checkpoints import load_state
from bdf_jax.parts import leaves

ROOT = Path(__file__).parents[2]


def command_line(config, workdir):
    """`python train.py` with every field of `config`."""

    def word(value):
        return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)

    fields = {name: value for name, value in leaves(config).items() if name != "data.dir"}
    return [
        sys.executable, str(ROOT / "train.py"), f"--config={ROOT}/configs/demo.py:{config.method}",
        f"--workdir={workdir}", f"--config.data.dir={config.data.dir}",
        *(f"--config.{name}={word(value)}" for name, value in fields.items()),
    ]  # fmt: skip


def wait_until(condition, process):
    """Looks a hundred times a second; fails where the process ends before."""
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, "the process ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def lines(workdir):
    """The objects of metrics.jsonl."""
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def assert_same_state(one, other):
    """What `load_state` returns, bit for bit: parameters, batch statistics, state of the optimiser."""
    assert one[2] == other[2]
    jax.tree.map(np.testing.assert_array_equal, one[1], other[1])


def assert_same_run(one, other):
    """The same last checkpoint and the same metrics, every step once."""
    assert_same_state(load_state(one), load_state(other))
    assert lines(one) == lines(other)
    assert [line["step"] for line in lines(other)] == list(range(1, load_state(other)[2] + 1))
