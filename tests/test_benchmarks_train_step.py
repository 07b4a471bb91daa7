"""The comparison with PyTorch and that of four modalities with two, as a user starts them: small, in real processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[1]
SMALL = ("--arch=tiny", "--pairs=4", "--size=32,16", "--repeats=1", "--threads=1")


def started(script: str, *flags: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "benchmarks" / script, *SMALL, *flags]
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=900, env=os.environ | environment
    )


def test_the_same_step_in_pytorch_has_the_same_losses_and_features(tmp_path):
    pytest.importorskip("torch", reason="PyTorch is not installed: it is needed for this comparison only")
    run = started("train_step.py", f"--json={tmp_path / 'rows.json'}")
    assert run.returncode == 0, run.stdout + run.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [(row["mode"], row["program"]) for row in rows] == [
        (mode, program)
        for mode in ("train", "embed")
        for program in ("bdf_jax", "PyTorch, channels-last", "PyTorch, default layout")
    ]
    # With Adam's first steps being signs of gradients, a gradient that is wrong anywhere shows in the second loss.
    assert max(rows[0]["differences"].values()) < 1e-4
    assert all(row["images_per_s"] > 0 and row["machine"] and row["torch"] for row in rows)


def test_without_pytorch_the_comparison_says_how_to_install_it(tmp_path):
    # A package that cannot be imported stands in for one that is not installed, wherever this runs.
    (tmp_path / "torch.py").write_text("raise ImportError('none here')\n")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    run = started("train_step.py", PYTHONPATH=path)
    assert run.returncode == 1
    assert "pip install torch --index-url https://download.pytorch.org/whl/cpu" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(("flag", "message"), [("--pairs=5", "expected an even number"), ("--threads=999", "at most")])
def test_what_cannot_be_measured_is_named(flag, message):
    run = started("modalities.py", flag)
    assert run.returncode == 1
    assert message in run.stderr
    assert "Traceback" not in run.stderr


def test_four_modalities_cost_at_most_twice_two_in_arithmetic_and_memory(tmp_path):
    run = started("modalities.py", f"--json={tmp_path / 'rows.json'}")
    assert run.returncode == 0, run.stderr
    rows = {row["step"]: row for row in json.loads((tmp_path / "rows.json").read_text())}
    two, four = rows["two modalities"], rows["four modalities"]
    # The gradient to the derivatives' pixels, which two modalities do not need, is the stem's and comes on top.
    assert 1.8 * two["GFLOP"] < four["GFLOP"] < 2.15 * two["GFLOP"]
    assert four["memory_ratio"] < 2.15
    assert rows["four, detached"]["GFLOP"] <= four["GFLOP"]
    assert two["GFLOP"] < rows["three, of the visible"]["GFLOP"] < four["GFLOP"]
