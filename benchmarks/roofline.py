"""The lowest possible time of a step on accelerators, calculated, and the share of it that this machine reaches.

  python benchmarks/roofline.py [--config=configs/sysu_mm01.py] [--pairs=8] [--repeats=3] [--json=OUT]

A step that does F floating-point operations and moves B bytes takes at least max(F / rate, B / bandwidth). F and B are
those of the compiled step. The accelerators' times are CALCULATED from datasheets, not measured; B counts what this
machine's compiler moves between its fused loops, and another compiler may fuse more; in bfloat16 a CPU's compiler also
converts before and after every convolution, which an accelerator's does not. Both times are therefore shown. The last
row is measured: this machine's matrix product, its copy, and the step itself, on a batch of --pairs.

Datasheets, dense rates: NVIDIA H100 SXM (TF32 494.7, bfloat16 989.4 TFLOP/s, 3.35 TB/s) and A100 80GB SXM (TF32 156,
bfloat16 312 TFLOP/s, 2.039 TB/s), "Tensor Core GPU Datasheet"; Google Cloud documentation, "TPU v5e" (bfloat16 197
TFLOP/s, 819 GB/s) and "TPU v6e" (918 TFLOP/s, 1,640 GB/s). A float32 product runs as TF32 on these GPUs and as bfloat16
on these TPUs with JAX's default precision.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

sys.path.insert(0, str(Path(__file__).parents[1]))  # from a checkout that is not installed

from bdf_jax.config import Config, vary
from bdf_jax.data.world.plan import FULL_SIZE
from benchmarks import command

CONFIG = command.define_config()
PAIRS = flags.DEFINE_integer("pairs", 8, "Pairs of the batch that this machine runs, two of each person.", 4)
REPEATS = flags.DEFINE_integer("repeats", 3, "Steps timed after the first; the median counts.", 1)
JSON = flags.DEFINE_string("json", "", "Write the table to this file.")

# Name: FLOP/s in float32 (as JAX runs it by default), in bfloat16, bytes/s.
ACCELERATORS = {
    "H100 SXM": (494.7e12, 989.4e12, 3.35e12),
    "A100 80GB SXM": (156e12, 312e12, 2.039e12),
    "TPU v5e": (197e12, 197e12, 0.819e12),
    "TPU v6e": (918e12, 918e12, 1.64e12),
}
MATRIX, COPIED = 2048, 2**28  # side of the matrix product; bytes of the copy


def main(_: Sequence[str]) -> None:
    """Compiles, measures, prints."""
    from bdf_jax.evaluation.table import write_json
    from bdf_jax.training.analysis import analyse
    from benchmarks.tables import markdown

    whole = command.configuration(CONFIG, "sysu_mm01")
    whole = vary(whole, {"network.pretrained": ""})
    rows, classes = [], FULL_SIZE[whole.data.dataset][0]
    for dtype in ("float32", "bfloat16"):
        config = vary(whole, {"network.dtype": dtype})
        analysis = analyse(config, classes)
        for name, (single, half, bandwidth) in ACCELERATORS.items():
            rate = single if dtype == "float32" else half
            rows.append(calculated(name, dtype, config, analysis.flops, analysis.traffic, rate, bandwidth))
    small = vary(whole, {"data.identities": PAIRS.value // 2, "data.images": 2})
    analysis = analyse(small, classes)
    rate, bandwidth = product_rate(), copy_rate()
    bound = calculated("this machine", "float32", small, analysis.flops, analysis.traffic, rate, bandwidth)
    seconds = step_seconds(small, classes)
    rows.append(bound | {"measured, ms": 1e3 * seconds, "share": bound["at least, ms"] / (1e3 * seconds)})
    print(markdown(rows))
    if JSON.value:
        write_json(JSON.value, rows)


def calculated(
    name: str, dtype: str, config: Config, flops: float, traffic: float, rate: float, bandwidth: float
) -> dict[str, Any]:
    """One line of the table: the bound of one device that runs the whole batch."""
    times = {"arithmetic": flops / rate, "memory": traffic / bandwidth}
    seconds = max(times.values())
    images = 2 * config.data.identities * config.data.images
    return {
        "device": name,
        "type": dtype,
        "batch": f"{config.data.identities} x {config.data.images}",
        "TFLOP": flops / 1e12,
        "GB": traffic / 1e9,
        "TFLOP/s": rate / 1e12,
        "GB/s": bandwidth / 1e9,
        **{f"{name}, ms": 1e3 * time for name, time in times.items()},
        "at least, ms": 1e3 * seconds,
        "bound by": max(times, key=times.__getitem__),
        "images/s at most": images / seconds,
        "measured, ms": "",
        "share": "",
    }


def product_rate() -> float:
    """FLOP/s of a float32 matrix product on the devices at hand."""
    import jax

    a = jax.numpy.ones((MATRIX, MATRIX))
    product = jax.jit(lambda a: a @ a)
    return 2 * MATRIX**3 / seconds_of(lambda: product(a).block_until_ready())


def copy_rate() -> float:
    """Bytes read and written a second by a large elementwise operation."""
    import jax

    x = jax.numpy.ones(COPIED // 4)
    scale = jax.jit(lambda x: x * 2)
    return 2 * COPIED / seconds_of(lambda: scale(x).block_until_ready())


def step_seconds(config: Config, classes: int) -> float:
    """One train step of a random batch."""
    import jax

    from bdf_jax.models import Network
    from bdf_jax.training.compile import compile_step
    from bdf_jax.training.stages import phases
    from bdf_jax.training.state import initial_state

    network = Network.of(config, classes)
    compiled = compile_step(network, config, phases(config, 1000)[0], 1000)
    N, rng = config.data.identities * config.data.images, np.random.default_rng(0)
    images = rng.integers(0, 256, (N, 2, *config.data.image_size, 3), dtype=np.uint8)
    batch = compiled.place_batch(images, np.repeat(np.arange(N // 2, dtype=np.int32), 2))
    state = [compiled.place_state(initial_state(network, config))]

    def once() -> None:
        state[0], metrics = compiled.step(state[0], *batch)
        jax.block_until_ready((state[0], metrics))

    return seconds_of(once)


def seconds_of(call: Callable[[], object]) -> float:
    """Median of `--repeats` calls after one that compiles."""
    call()
    times = []
    for _ in range(REPEATS.value):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


if __name__ == "__main__":
    command.main(main)
