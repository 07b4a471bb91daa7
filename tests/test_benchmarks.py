"""Benchmarks that documents and releases quote, as a user starts them: small, in real processes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[1]
TINY = ("--config=configs/demo.py", "--config.network.trunk.kind=Tiny", "--config.data.image_size=32,16")


def rows_of(tmp_path, script, *flags):
    out = tmp_path / "rows.json"
    command = [sys.executable, f"benchmarks/{script}.py", *flags, f"--json={out}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(out.read_text())


def test_the_roof_of_a_step_is_the_slower_of_arithmetic_and_memory(tmp_path):
    """By the definition: max(FLOP / rate, bytes / bandwidth), and the machine's own step cannot be faster than that."""
    rows = rows_of(tmp_path, "roofline", *TINY, "--pairs=4", "--repeats=1")
    devices = ["H100 SXM", "A100 80GB SXM", "TPU v5e", "TPU v6e"]
    assert [(row["device"], row["type"]) for row in rows] == [
        *((device, "float32") for device in devices),
        *((device, "bfloat16") for device in devices),
        ("this machine", "float32"),
    ]
    for row in rows:
        arithmetic, memory = row["TFLOP"] / row["TFLOP/s"], row["GB"] / row["GB/s"]
        assert (row["arithmetic, ms"], row["memory, ms"]) == pytest.approx((1e3 * arithmetic, 1e3 * memory))
        assert row["at least, ms"] == pytest.approx(1e3 * max(arithmetic, memory))
        assert row["bound by"] == ("arithmetic" if arithmetic > memory else "memory")
        assert (row["measured, ms"] == "") == (row["device"] != "this machine")  # the others are calculated
    assert rows[-1]["share"] == pytest.approx(rows[-1]["at least, ms"] / rows[-1]["measured, ms"])
    assert rows[-1]["batch"] == "2 x 2"


def test_the_input_benchmark_compares_every_reader_with_pillow(tmp_path):
    rows = rows_of(tmp_path, "input", "--quick")
    readers = {row["table"]: [] for row in rows}
    for row in rows:
        readers[row["table"]].append(row["reader"])
    assert set(readers) == {"throughput", "waiting", "memory"}
    assert all({"threads", "2 processes", "threads, decoded cache"} <= set(names) for names in readers.values())


def test_a_release_file_has_commands_versions_and_what_failed(tmp_path):
    out = tmp_path / "results.json"
    command = [sys.executable, "benchmarks/release.py", "--only=retrieval", f"--out={out}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    facts = json.loads(out.read_text())
    assert facts["versions"]["jax"]
    result = facts["results"]["retrieval"]
    assert result["command"].startswith("python benchmarks/retrieval.py ")
    assert result["exit_code"] == 0
    assert result["rows"]

    done = subprocess.run([*command, "--only=nothing"], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert "--only: no benchmark nothing; there are train_step, " in done.stderr
