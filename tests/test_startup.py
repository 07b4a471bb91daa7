"""A start is quick: the package imports in a moment, no import starts a device, and a second start need not compile."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# The modules that a user imports first; each in a process of its own.
MODULES = ["bdf_jax", "bdf_jax.training.loop", "bdf_jax.evaluation", "bdf_jax.data.loader", "bdf_jax.__main__"]


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


def test_help_lists_every_flag_of_train():
    shown = subprocess.run([sys.executable, "train.py", "--help"], capture_output=True, text=True, cwd=ROOT).stdout
    for flag in ("config", "workdir", "coordinator", "processes", "process", "distributed", "silence_timeout"):
        assert f"  --{flag.replace('_', '-')}" in shown


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc is tuned")
@pytest.mark.parametrize(
    ("environment", "kept"),
    [
        ({"JAX_PLATFORMS": "cpu"}, True),
        ({"JAX_PLATFORMS": "cuda"}, False),  # the host's memory is not where steps compute
        ({"JAX_PLATFORMS": "cpu", "MALLOC_ARENA_MAX": "4"}, False),  # the user's own tuning
    ],
)
def test_freed_memory_is_kept_where_the_network_runs_on_the_cpu(environment, kept):
    """64 MiB by malloc, freed and asked for again: without it they are mapped and zeroed once more, page by page."""
    code = (
        "import resource, ctypes; from bdf_jax.process import keep_freed_memory; print(keep_freed_memory())\n"
        "libc = ctypes.CDLL(None); libc.malloc.restype = libc.memset.restype = ctypes.c_void_p\n"
        "def touch():\n"
        "    p = libc.malloc(1 << 26); libc.memset(ctypes.c_void_p(p), 1, 1 << 26); libc.free(ctypes.c_void_p(p))\n"
        "touch(); before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt; touch()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT,
        env={**{k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}, **environment},
    ).stdout.split()  # fmt: skip
    assert done[0] == str(kept)
    assert (int(done[1]) < 100) == kept  # 16,384 pages, or a few hundred huge ones


def test_the_command_line_refuses_before_it_imports_jax():
    code = (
        "import sys, bdf_jax.__main__, bdf_jax.commands.train, bdf_jax.commands.evaluate; print('jax' in sys.modules)"
    )
    assert python(code) == "False\n"


@pytest.mark.long
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


def test_without_a_command_all_of_them_are_listed():
    shown = subprocess.run([sys.executable, "-m", "bdf_jax"], capture_output=True, text=True, cwd=ROOT)
    assert shown.returncode == 2
    assert all(f"\n    {command}" in shown.stdout for command in ("embed", "search", "plot", "check-data", "trials"))
