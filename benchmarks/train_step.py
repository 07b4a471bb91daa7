"""One training step and one embedding batch, here and in PyTorch: the same work from the same weights, interleaved.

  python benchmarks/train_step.py [--mode=both] [--arch=resnet50] [--pairs=8] [--size=288,144] [--repeats=5]
                                  [--threads=0] [--json=OUT]

Needs PyTorch, which nothing else here does: pip install torch --index-url https://download.pytorch.org/whl/cpu

The step is that of the four-modality method: derivatives, ResNet, DID + MML + MDL, Adam with L2 weight decay, float32,
without random augmentation. PyTorch runs in its default layout, as the field's code is shipped, and in channels-last
with its fused Adam, its best. The losses of the first five steps, and afterwards the features of the embedding, must
agree to 1e-3; exit code 1 otherwise. Each of the three runs once in every round; the table shows medians over rounds,
and ratios as the median of the rounds' ratios, so that a load that comes and goes does little to them. `cpu s` is the
processor time of all threads. `of matmul rate`: convolutions and matrix products of the step divided by the time, as a
share of what a 2048 x 2048 product reaches in the same rounds.

On a machine that others use too, compare with --threads=1: two or more PyTorch threads wait for one another, and a
thread that has to wait for a core makes all of them wait, which is not PyTorch's fault.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

sys.path.insert(0, str(Path(__file__).parents[1]))  # from a checkout that is not installed

from bdf_jax.config import Config, DataConfig, vary
from bdf_jax.errors import BdfError
from bdf_jax.method import experiment
from bdf_jax.models.trunk import ResNet, Tiny
from benchmarks import command

MODE = flags.DEFINE_enum("mode", "both", ["train", "embed", "both"], "What is measured.")
ARCH = flags.DEFINE_enum("arch", "resnet50", ["tiny", "resnet18", "resnet34", "resnet50"], "Backbone.")
PAIRS = flags.DEFINE_integer("pairs", 8, "Pairs in a batch, two of each person; 4 x pairs images pass the network.", 4)
SIZE = flags.DEFINE_list("size", ["288", "144"], "Height and width of an image, pixels.")
REPEATS = flags.DEFINE_integer("repeats", 5, "Rounds after the warm-up.", 1)
THREADS = flags.DEFINE_integer("threads", 0, "Processor cores for everybody; 0: all.", 0)
JSON = flags.DEFINE_string("json", "", "Write the table to this file.")

INSTALL = "pip install torch --index-url https://download.pytorch.org/whl/cpu"
CLASSES = 395  # SYSU-MM01's training identities
CHECKED = 5  # steps whose losses must agree
TOLERANCE = 1e-3
MATRIX = 2048


def main(_: Sequence[str]) -> int:
    """Measures, prints the table, and fails on disagreement."""
    try:
        import torch
    except ImportError as error:
        raise BdfError(f"this benchmark compares with PyTorch, which is not installed: {INSTALL}") from error
    threads = use_threads(THREADS.value)
    torch.set_num_threads(threads)

    import jax

    from bdf_jax.evaluation.table import write_json
    from benchmarks.tables import show

    config = step_config(ARCH.value, PAIRS.value, [int(side) for side in SIZE.value])
    ours, theirs = prepared(config)
    train, batches = {"bdf_jax": ours.train}, batches_of(config)
    train |= {name: step.train for name, step in theirs.items()}
    losses = {name: [run(*batches[i]) for i in range(CHECKED)] for name, run in train.items()}
    differences = {f"loss of steps 1-{CHECKED}": _difference(losses)}

    # PyTorch keeps the unbiased running variance; the statistics after the same steps are taken over.
    for step in theirs.values():
        step.load(ours.variables())
    images_NHWC = batches[0][0].reshape(-1, *batches[0][0].shape[2:])
    images_NHWC = np.concatenate([images_NHWC, images_NHWC[:, :, ::-1]])  # as many as pass the network in training
    embed = {"bdf_jax": lambda: ours.embed(images_NHWC)}
    embed |= {name: (lambda step=step: step.embed(images_NHWC)) for name, step in theirs.items()}
    differences["features"] = _difference({name: run() for name, run in embed.items()})

    rows = []
    for mode in ("train", "embed") if MODE.value == "both" else (MODE.value,):
        calls = embed if mode == "embed" else {n: (lambda run=run: run(*batches[0])) for n, run in train.items()}
        rows += _measured(mode, calls, len(images_NHWC), ours.temporary_bytes if mode == "train" else None)
    title = f"{machine()}, {threads} threads; JAX {jax.__version__}, PyTorch {torch.__version__}"
    show(title, rows)
    for name, difference in differences.items():
        print(f"largest difference, {name}: {difference:.1e} (relative; must be at most {TOLERANCE:g})")
    if JSON.value:
        facts = {"machine": machine(), "threads": threads, "jax": jax.__version__, "torch": torch.__version__}
        facts |= {"arch": ARCH.value, "pairs": PAIRS.value, "size": config.data.image_size, "repeats": REPEATS.value}
        write_json(JSON.value, [facts | row | {"differences": differences} for row in rows])
    return 0 if max(differences.values()) <= TOLERANCE else 1


def use_threads(count: int) -> int:
    """Keeps this process to so many cores, before JAX sizes its thread pool by them; how many that are."""
    if not hasattr(os, "sched_setaffinity"):
        return os.cpu_count() or 1  # not to be limited here
    cores = sorted(os.sched_getaffinity(0))
    if count > len(cores):
        raise BdfError(f"--threads: expected at most the {len(cores)} cores of this process, found {count}")
    os.sched_setaffinity(0, cores[: count or len(cores)])
    return count or len(cores)


def step_config(arch: str, pairs: int, size: Sequence[int], **changes: Any) -> Config:
    """The default method on `pairs` pairs, two of each person, without random augmentation."""
    if pairs % 2:
        raise BdfError(f"--pairs: expected an even number, two pairs of each person, found {pairs}")
    trunk = Tiny() if arch == "tiny" else ResNet(int(arch.removeprefix("resnet")))
    fields: dict[str, Any] = {"network.trunk": trunk, "data.image_size": tuple(size)}
    fields |= {"data.identities": pairs // 2, "data.images": 2}
    fields |= {"augment.flip": 0.0, "augment.pad": 0, "augment.erase": 0.0}
    method = changes.pop("method", "base_derivative")
    return vary(experiment(method, "sysu_mm01", data=DataConfig()), fields | changes)


def batches_of(config: Config) -> list[tuple[np.ndarray, np.ndarray]]:
    """Batches of coarse random pictures, as many as losses are compared."""
    rng, (H, W) = np.random.default_rng(0), config.data.image_size
    P, K = config.data.identities, config.data.images
    coarse = rng.integers(0, 256, (CHECKED, P * K, 2, -(-H // 8), -(-W // 8), 3), dtype=np.uint8)
    images = coarse.repeat(8, axis=3).repeat(8, axis=4)[:, :, :, :H, :W]
    labels = np.stack([rng.choice(CLASSES, P, replace=False).repeat(K) for _ in range(CHECKED)]).astype(np.int32)
    return [(np.ascontiguousarray(i), j) for i, j in zip(images, labels, strict=True)]


class OurStep:
    """This project's compiled step, as training uses it."""

    def __init__(self, config: Config):
        from bdf_jax.evaluation.features import make_embed
        from bdf_jax.models import Network
        from bdf_jax.training.compile import compile_step
        from bdf_jax.training.stages import phases
        from bdf_jax.training.state import initial_state

        network = Network.of(config, CLASSES)
        self.place = compile_step(network, config, phases(config, 1000)[0], 1000)
        state = initial_state(network, config)
        self.state = self.place.place_state(state.replace(params=_calm(state.params)))
        start = time.perf_counter()
        lowered = self.place.step.lower(self.state, *self.place.place_batch(*batches_of(config)[0]))
        self.step = lowered.compile()
        self.compile_seconds = time.perf_counter() - start
        self.temporary_bytes = int(self.step.memory_analysis().temp_size_in_bytes)
        self._embed = make_embed(network, config.retrieve)

    def variables(self) -> dict[str, Any]:
        """Parameters and running statistics as they are now."""
        return {"params": self.state.params, "batch_stats": self.state.batch_stats}

    def train(self, images_NBHWC: np.ndarray, labels_N: np.ndarray) -> float:
        """One step; the loss before it."""
        self.state, metrics = self.step(self.state, *self.place.place_batch(images_NBHWC, labels_N))
        return float(metrics["loss"])

    def embed(self, images_NHWC: np.ndarray) -> np.ndarray:
        """(N, H, W, 3) uint8 to unit vectors (N, D)."""
        return np.asarray(self._embed(self.variables(), images_NHWC, 0))


def _calm(params: Any) -> Any:
    """The parameters with a tenth of the scale on the last normalisation of every residual block.

    From purely random weights the smallest rounding error grows some tenfold a step, in any implementation: PyTorch's
    own two layouts then differ by more than the tolerance after five.
    """
    import jax

    def scaled(path: Any, value: Any) -> Any:
        names = [key.key for key in path]
        block = params[names[0]]
        last = "bn3" if any(name.endswith("bn3") for name in block) else "bn2"
        return 0.1 * value if names[-2].endswith(last) and names[-1] == "scale" else value

    return jax.tree.map_with_path(scaled, params)


def prepared(config: Config) -> tuple[OurStep, dict[str, Any]]:
    """Our step and PyTorch's, with the same initial weights and learning rates."""
    from torch_step import TorchStep

    from bdf_jax.training.optimiser import schedule

    ours, rate = OurStep(config), schedule(config.optimiser, config.training.epochs, 1000)
    layouts = {"PyTorch, channels-last": True, "PyTorch, default layout": False}
    theirs = {
        name: TorchStep(ours.variables(), config, CLASSES, rate, channels_last=last) for name, last in layouts.items()
    }
    return ours, theirs


def _difference(values: dict[str, Any]) -> float:
    """Largest difference to the first, relative to the largest value there."""
    first, *others = (np.asarray(value, np.float64) for value in values.values())
    return max(float(np.abs(other - first).max() / np.abs(first).max()) for other in others)


def _measured(mode: str, calls: dict[str, Callable[[], object]], images: int, temporary: int | None) -> list[Any]:
    import jax
    import torch
    from torch_step import arithmetic

    work = arithmetic(calls["PyTorch, channels-last"])
    square = np.random.default_rng(1).standard_normal((MATRIX, MATRIX), dtype=np.float32)
    tensor, product = torch.from_numpy(square), jax.jit(lambda a: a @ a)
    matmul = {"JAX": lambda: product(square).block_until_ready(), "PyTorch": lambda: tensor @ tensor}
    times = timed(calls | matmul, REPEATS.value)
    fastest = np.minimum(*(times[name][0] for name in matmul))  # of each round
    fastest_cpu = np.minimum(*(times[name][1] for name in matmul))
    rows = []
    for name in calls:
        wall_R, cpu_R = times[name]
        ours_wall_R, ours_cpu_R = times["bdf_jax"]
        rows.append(
            {
                "mode": mode,
                "program": name,
                "images_per_s": float(np.median(images / wall_R)),
                "s": float(np.median(wall_R)),
                "cpu_s": float(np.median(cpu_R)),
                "ours_is_times_as_fast": float(np.median(wall_R / ours_wall_R)),
                "by_cpu_time": float(np.median(cpu_R / ours_cpu_R)),
                "of_matmul_rate": float(np.median(work / wall_R * fastest / (2 * MATRIX**3))),
                "of_matmul_rate_by_cpu_time": float(np.median(work / cpu_R * fastest_cpu / (2 * MATRIX**3))),
                "GFLOP": work / 1e9,
                "temporary_MiB": temporary / 2**20 if temporary and name == "bdf_jax" else None,
            }
        )
    return rows


def timed(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Seconds and processor seconds of each call in each round, after one round that does not count."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    names = list(calls)
    for turn in range(rounds + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:  # nobody always follows the same one
            time.sleep(0.2)  # threads that wait for more work by spinning have gone to sleep
            start, cpu = time.perf_counter(), time.process_time()
            calls[name]()
            times[name].append((time.perf_counter() - start, time.process_time() - cpu))
    return {name: tuple(np.asarray(seconds[1:]).T) for name, seconds in times.items()}  # type: ignore[misc]


def machine() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    command.main(main)
