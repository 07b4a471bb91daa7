"""What four modalities cost over two: time, arithmetic and memory of a training step with and without derivatives.

  python benchmarks/modalities.py [--arch=resnet50] [--pairs=8] [--size=288,144] [--repeats=5] [--threads=0]
                                  [--json=OUT]

Twice as many images pass the network, so twice the time is the bound. Steps are interleaved; the table shows medians
over rounds, ratios as the median of the rounds' ratios. `detached` is the four-modality step without a gradient to the
generators, `grey` the one with a fixed grey derivative: what learned generators and the gradient to their images cost.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # from a checkout that is not installed

import train_step

from bdf_jax.views import Grey
from benchmarks import command

VARIANTS: dict[str, dict[str, Any]] = {
    "two modalities": {"method": "ablation_a"},
    "three, of the visible": {"method": "ablation_b"},
    "four modalities": {},
    "four, detached": {"views.Dv.detach": True, "views.Di.detach": True},
    "four, grey": {"views.Dv.by": Grey(), "views.Di.by": Grey()},
}


def main(_: Sequence[str]) -> int:
    """Measures and prints the table."""
    from bdf_jax.evaluation.table import write_json
    from benchmarks.tables import show

    threads = train_step.use_threads(train_step.THREADS.value)
    import jax

    size = [int(side) for side in train_step.SIZE.value]
    configs = {
        name: train_step.step_config(train_step.ARCH.value, train_step.PAIRS.value, size, **changes)
        for name, changes in VARIANTS.items()
    }
    steps = {name: train_step.OurStep(config) for name, config in configs.items()}
    batch = train_step.batches_of(configs["four modalities"])[0]
    calls = {name: (lambda step=step: step.train(*batch)) for name, step in steps.items()}
    times = train_step.timed(calls, train_step.REPEATS.value)
    first = next(iter(steps))
    rows = []
    for name, step in steps.items():
        rows.append(
            {
                "step": name,
                "s": float(np.median(times[name][0])),
                "cpu_s": float(np.median(times[name][1])),
                "times_two_modalities": float(np.median(times[name][0] / times[first][0])),
                "by_cpu_time": float(np.median(times[name][1] / times[first][1])),
                "GFLOP": step.step.cost_analysis()["flops"] / 1e9,
                "temporary_MiB": step.temporary_bytes / 2**20,
                "memory_ratio": step.temporary_bytes / steps[first].temporary_bytes,
            }
        )
    show(f"{train_step.machine()}, {threads} threads; JAX {jax.__version__}", rows)
    if train_step.JSON.value:
        facts = {"machine": train_step.machine(), "threads": threads, "jax": jax.__version__, "size": size}
        facts |= {"arch": train_step.ARCH.value, "pairs": train_step.PAIRS.value}
        write_json(train_step.JSON.value, [facts | row for row in rows])
    return 0


if __name__ == "__main__":
    command.main(main)
