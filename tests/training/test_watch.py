"""What is seen of a run, and the guard against losses that are no numbers."""

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import jax.numpy as jnp
import pytest

from bdf_jax.errors import BdfError
from bdf_jax.training.events import Events
from bdf_jax.training.watch import Watch
from bdf_jax.training.workdir import MetricsFile

GOOD = {"loss": 3.0, "did": 1.0, "mml": 1.0, "mdl": 1.0, "mml/V": 0.5, "mml/I": 0.5, "accuracy/V": 0.25}


def watch(tmp_path, log_every, total=10):
    file = MetricsFile(tmp_path / "metrics.jsonl", 0)
    return file, Watch(file, 0, total, log_every, lambda step: 0.1 * step, progress=False)


def arrays(**changes):
    return {name: jnp.float32(value) for name, value in (GOOD | changes).items()}


@pytest.mark.parametrize("log_every", [1, 3, 4])
def test_the_first_the_last_and_every_nth_step_are_written_with_their_learning_rate(tmp_path, log_every):
    file, seen = watch(tmp_path, log_every)
    for step in range(1, 11):
        seen.add(step, arrays())
    seen.check()
    seen.close()
    file.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [s for s in range(1, 11) if s % log_every == 0 or s in (1, 10)]
    assert all(line["learning_rate"] == pytest.approx(0.1 * (line["step"] - 1)) for line in lines)


def test_the_step_and_the_term_that_are_not_finite_are_named_even_between_logged_steps(tmp_path):
    file, seen = watch(tmp_path, log_every=5)
    for step in range(1, 4):
        seen.add(step, arrays())
    seen.add(4, arrays(loss=float("nan"), mml=float("nan"), **{"mml/I": float("nan")}))
    seen.add(5, arrays(loss=float("nan")))
    with pytest.raises(BdfError, match=r"^step 4: mml/I = nan; training stops"):
        seen.check()
    seen.close()
    file.close()


STEPS = """
import sys, time
from pathlib import Path
from bdf_jax.training.watch import Watch
from bdf_jax.training.workdir import MetricsFile

names = ("loss", "did", "mml", "mdl", "accuracy/V")
file = MetricsFile(Path(sys.argv[1]) / "metrics.jsonl", 0)
seen = Watch(file, 0, 40, 4, lambda step: 0.1, images_per_step=8)
for step in range(1, 41):
    time.sleep(0.02)
    seen.add(step, dict.fromkeys(names, 0.5))
seen.check()
seen.close()
file.close()
"""
COMMAND = [sys.executable, "-c", STEPS]
ROOT = Path(__file__).parents[2]


def test_a_terminal_shows_one_bar_with_rate_and_time_left_under_the_lines(tmp_path):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with subprocess.Popen([*COMMAND, str(tmp_path)], stdout=theirs, stderr=theirs, cwd=ROOT) as process:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 4096):
                shown += part
        except OSError:  # the other end was closed
            pass
    os.close(ours)
    assert process.returncode == 0, shown.decode()
    painted = shown.decode().replace("\n", "\r").split("\r")
    assert all(len(line) <= 80 for line in painted)
    bars = [line for line in painted if "step/s" in line]
    assert len(bars) > 3
    assert any("<00:0" in line for line in bars), "time left"
    assert sum(line.startswith("step ") for line in painted) == 21
    assert "40/40" in bars[-1]


def test_a_pipe_gets_the_lines_whole_and_the_bar_rarely(tmp_path):
    done = subprocess.run([*COMMAND, str(tmp_path)], capture_output=True, text=True, check=True, cwd=ROOT, timeout=60)
    lines = done.stdout.splitlines()
    assert len(lines) == 21
    assert all(line.startswith("step ") for line in lines)
    assert done.stderr.count("step/s]") <= 3


def test_rates_leave_out_compilation_and_whatever_is_not_training(tmp_path):
    """A clock of our own in place of time's, so that the figures are exact."""
    now, told = [0.0], []

    class Listener:
        def scalars(self, step, values):
            told.extend((step, name, value) for name, value in values.items() if name.startswith("rate/"))

        def close(self):
            pass

    def batches():
        while True:
            now[0] += 1.0  # a second of waiting for every batch
            yield 1

    file = MetricsFile(tmp_path / "metrics.jsonl", 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.perf_counter", lambda: now[0])
        seen = Watch(file, 0, 9, 2, lambda step: 0.1, False, Events({"here": Listener}), images_per_step=10)
        source = batches()
        for step in range(1, 9):
            seen.next_batch(source)
            now[0] += 100.0 if step == 1 else 3.0  # the first step compiles
            seen.add(step, arrays())
            if step == 4:
                seen.check()
                now[0] += 1000.0  # validation
                seen.pause()
        seen.check()
        seen.close()
    file.close()
    assert {(name, round(value, 6)) for _, name, value in told} == {
        ("rate/images_per_second", 10 / 4), ("rate/waiting_for_data", 1 / 4),
    }  # fmt: skip
    assert [step for step, _, _ in told[::2]] == [2, 4, 6, 8]
