"""The benchmark results of a release: runs the others at small sizes and keeps what they say in one file.

  python benchmarks/release.py [--out=benchmarks/results/0.1.0.json] [--only=train_step,startup]

The file has the machine, the versions, and for every benchmark its command, the load after it, its exit code and its
rows; ratios are side by side within one run, so they can be compared between releases, while seconds belong to the
machine. A benchmark that fails, for want of PyTorch say, is kept with its message. With --only the file keeps what it
has of the others.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # from a checkout that is not installed

from bdf_jax.errors import BdfError
from benchmarks import command

OUT = flags.DEFINE_string("out", "", "The file; default: benchmarks/results/VERSION.json.")
ONLY = flags.DEFINE_list("only", [], "Some of the benchmarks; default: all.")

BENCHMARKS = {
    "train_step": ["--pairs=4", "--size=144,72", "--repeats=3", "--threads=1"],
    "modalities": ["--pairs=4", "--size=144,72", "--repeats=3"],
    "roofline": ["--pairs=4"],
    "input": ["--rounds=3"],
    "startup": ["--repeats=1"],
    "evaluation": ["--repeats=1"],
    "retrieval": ["--sizes=10000", "--queries=64"],
    "scaling": ["--check", "--devices=2,4"],
}
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "pillow")


def main(_: Sequence[str]) -> int:
    """Runs, writes, and fails where a benchmark failed."""
    unknown = sorted(set(ONLY.value) - set(BENCHMARKS))
    if unknown:
        raise BdfError(f"--only: no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    out = Path(OUT.value or ROOT / "benchmarks" / "results" / f"{version()}.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    results = {name: measured(name, BENCHMARKS[name]) for name in BENCHMARKS if name in (ONLY.value or BENCHMARKS)}
    ran = list(results.values())
    if ONLY.value and out.exists():
        results = json.loads(out.read_text())["results"] | results
    facts = {
        "version": version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "results": results,
    }
    out.write_text(json.dumps(facts, indent=1) + "\n")
    print(f"{out} is written")
    return 0 if all(result["exit_code"] == 0 for result in ran) else 1


def version() -> str:
    """This project's version."""
    import tomllib

    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


def measured(name: str, arguments: Sequence[str]) -> dict[str, Any]:
    """One benchmark in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.json"
        command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *arguments]
        print(f"{name} {' '.join(arguments)}", flush=True)
        done = subprocess.run([*command, f"--json={rows}"], capture_output=True, text=True, check=False, cwd=folder)
        result: dict[str, Any] = {
            "command": " ".join(["python", f"benchmarks/{name}.py", *arguments]),
            "load": round(os.getloadavg()[0], 1),
            "exit_code": done.returncode,
            "rows": json.loads(rows.read_text()) if rows.exists() else [],
        }
    if done.returncode:
        result["message"] = done.stderr.strip().splitlines()[-1:]
    return result


if __name__ == "__main__":
    command.main(main)
