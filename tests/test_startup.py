"""A start is quick: the package imports in a moment, no import starts a device, and a second start need not compile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# The modules that a user imports first; each in a process of its own.
MODULES = ["bdf_jax", "bdf_jax.training.loop", "bdf_jax.evaluation", "bdf_jax.data.loader", "bdf_jax.cli"]


def python(code: str, *arguments: str) -> str:
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout


def test_the_package_imports_in_under_one_and_a_half_seconds():
    """Of processor time, so that a busy machine does not count."""
    seconds = float(python("import time; import bdf_jax; print(time.process_time())"))
    assert seconds < 1.5


@pytest.mark.parametrize("module", MODULES)
def test_an_import_starts_no_device(module):
    """A program may still choose its platform and its devices afterwards."""
    code = f"import sys, {module}, jax._src.xla_bridge as bridge; print(bridge.backends_are_initialized())"
    assert python(code) == "False\n"


def test_the_command_line_refuses_before_it_imports_jax():
    code = "import sys, bdf_jax.cli, bdf_jax.__main__, bdf_jax.data.loader; print('jax' in sys.modules)"
    assert python(code) == "False\n"


def test_a_second_start_reaches_its_first_step_in_half_the_time(tmp_path):
    """The benchmark itself, on a tiny world."""
    out = tmp_path / "out.json"
    done = subprocess.run(
        [sys.executable, "benchmarks/startup.py", "--quick", "--repeats=1", f"--json={out}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    first, second, continued = json.loads(out.read_text())
    for row in (first, second, continued):
        parts = [row[part] for part in ("imports", "data", "restore", "compilation", "first step")]
        assert all(seconds > 0 for seconds in parts)
        assert sum(parts) == pytest.approx(row["total"], abs=0.2)
    assert second["total"] <= first["total"] / 2
    assert second["cpu"] < first["cpu"] / 2
    assert continued["cpu"] < first["cpu"] / 2
