"""Decoding against a bare Pillow loop, waiting for data, and memory, on SYSU-MM01's full geometry.

  python benchmarks/input.py [--root=TREE | --out=DIR] [--dir=DIR] [--config=configs/sysu_mm01.py] [--step_seconds=S]
      [--quick] [--json=OUT]

Without --root the world is written in the real geometry (44,745 images: minutes) to --out and kept there. Three tables:

1. Images per second, and per second of processor time. The bare loop opens, converts and resizes the same files with
   Pillow, in one process and, to show what this machine's cores give together, in two. All variants are interleaved in
   every round and the ratio is that of the same round, so that other work on the machine hits all alike; the processor
   time does not count it at all.
2. The share of time that a training step waits for its batch. The step only sleeps: for --step_seconds, or for a
   fiftieth of what this machine's processor needs for the configuration's real step, which is measured with 4 pairs
   and scaled by the number of pairs (a whole batch of ResNet-50 would not fit into every machine's memory).
3. The most memory that a process and its decoding processes held while they read, for one eighth of the identities
   and for all: without file pages, which the system takes back at need.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

ROOT_FOLDER = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT_FOLDER))  # from a checkout that is not installed

from benchmarks import command

CONFIG = command.define_config()
ROOT = flags.DEFINE_string("root", "", "A published tree of the configuration's data set; default: the world.")
OUT = flags.DEFINE_string("out", "", "Where the world is written and kept; default: a temporary folder.")
DIR = flags.DEFINE_string("dir", "", "Where records and decoded images go; default: a temporary folder.")
STEP_SECONDS = flags.DEFINE_float("step_seconds", 0.0, "How long the stand-in for a step sleeps; 0: measure.")
SPEED_UP = flags.DEFINE_float("speed_up", 50.0, "How much faster than this processor the imagined device is.")
ROUNDS = flags.DEFINE_integer("rounds", 5, "Rounds of the first table; medians are shown.")
IMAGES = flags.DEFINE_integer("images", 7680, "Images of a variant in a round.")
STEPS = flags.DEFINE_integer("steps", 20, "Steps of the second and third table.")
QUICK = flags.DEFINE_bool("quick", False, "A small world: whether the benchmark runs, not how fast.")
JSON = flags.DEFINE_string("json", "", "Write the tables to this file.")
CHILD = flags.DEFINE_string("child", "", "Internal: what to read, as JSON.")

SETTLE_SECONDS = 0.5  # in which the reader before has decoded ahead as far as it may, and is idle
VARIANTS = {"threads": 0, "1 process": 1, "2 processes": 2}


def main(_: Sequence[str]) -> int:
    """Measures and prints the three tables."""
    from benchmarks.tables import show

    config = command.configuration(CONFIG, "sysu_mm01")
    if QUICK.value:
        flags.FLAGS.images, flags.FLAGS.rounds, flags.FLAGS.steps = 96, 1, 4
        flags.FLAGS.step_seconds = STEP_SECONDS.value or 0.05
        small = dataclasses.replace(config.data, image_size=(64, 32), identities=4, images=2)
        config = dataclasses.replace(config, data=small)
    with tempfile.TemporaryDirectory() as temporary:
        data = dataclasses.replace(
            config.data, root=ROOT.value or _world(config.data.dataset, temporary), dir=DIR.value or temporary
        )
        config = dataclasses.replace(config, data=data)
        tables = {"throughput": _throughput(config), "waiting": _waiting(config)}
        tables["memory"] = _memory(config, Path(temporary))
    for title, rows in tables.items():
        show(f"{title}, {os.cpu_count()} cores", rows, digits=4)
    if JSON.value:
        from bdf_jax.evaluation.table import write_json

        write_json(JSON.value, [{"table": title, **row} for title, rows in tables.items() for row in rows])
    return 0


def _world(layout: str, temporary: str) -> str:
    from bdf_jax.data.world import write_world

    small = {"train_ids": 32, "test_ids": 16, "images": 2, "size": (32, 16)}
    sizes: Any = small if QUICK.value else {"geometry": "full", "train_ids": None, "test_ids": None}
    return str(write_world(Path(OUT.value or temporary) / f"{layout}-world", layout=layout, seed=0, **sizes))


def _throughput(config: Any) -> list[dict[str, Any]]:
    """Rounds of every variant over as many images of the training split in random order, and the medians."""
    from bdf_jax.data.dataset import open_dataset
    from bdf_jax.data.loader import train_batches

    batches: dict[str, Any] = {}
    for cache in (False, True):
        dataset = open_dataset(dataclasses.replace(config.data, decoded_cache=cache))
        for name, workers in VARIANTS.items():
            data = dataclasses.replace(config.data, workers=workers)
            label = name + ", decoded cache" * cache
            batches[label] = train_batches(dataset.train, data, seed=0, start=0, stop=10**9)
    per_batch = 2 * config.data.identities * config.data.images
    count = max(1, IMAGES.value // per_batch)
    bare = {"bare Pillow, 1 process": 1, "bare Pillow, 2 processes": 2}
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in (*bare, *batches)}
    rng = np.random.default_rng(0)
    with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        for turn in range(ROUNDS.value + 1):  # the first is not counted: it opens files, imports, starts processes
            for name, found in measured.items():
                time.sleep(0 if QUICK.value else SETTLE_SECONDS)
                for _ in range(3 * config.data.prefetch if name in batches else 0):
                    next(batches[name])  # what was decoded ahead between two rounds is not work of this one
                rows = rng.permutation(len(dataset.train))[: count * per_batch]
                paths = [os.path.join(dataset.root, dataset.train.index.names[row]) for row in rows]
                wall, cpu = time.perf_counter(), _cpu_seconds()
                if name in batches:
                    for _ in range(count):
                        next(batches[name])
                else:
                    parts = [paths[part :: bare[name]] for part in range(bare[name])]
                    list(pool.map(functools.partial(_bare, config.data.image_size), parts))
                images = count * per_batch if name in batches else len(paths)
                if turn:
                    found.append((images / (time.perf_counter() - wall), images / (_cpu_seconds() - cpu)))
    for iterator in batches.values():
        iterator.close()
    base = np.array(measured["bare Pillow, 1 process"])
    return [
        {
            "reader": name,
            "images_per_s": float(np.median(np.array(found)[:, 0])),
            "of_bare_per_s": float(np.median(np.array(found)[:, 0] / base[:, 0])),
            "per_cpu_second": float(np.median(np.array(found)[:, 1])),
            "of_bare_per_core": float(np.median(np.array(found)[:, 1] / base[:, 1])),
        }
        for name, found in measured.items()
    ]


def _bare(size: tuple[int, int], paths: Sequence[str]) -> None:
    from PIL import Image

    for path in paths:
        with Image.open(path) as image:
            np.asarray(image.convert("RGB").resize(size[::-1], Image.Resampling.BILINEAR))


def _cpu_seconds() -> float:
    """Of this process and its decoding processes, which must be alive to be asked."""
    total = time.process_time()
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def _waiting(config: Any) -> list[dict[str, Any]]:
    """How much of the time of steps that only sleep is spent waiting for the next batch."""
    from bdf_jax.data.dataset import open_dataset
    from bdf_jax.data.loader import train_batches

    seconds = STEP_SECONDS.value or _step_seconds(config) / SPEED_UP.value
    per_batch = 2 * config.data.identities * config.data.images
    rows = []
    for cache in (False, True):
        dataset = open_dataset(dataclasses.replace(config.data, decoded_cache=cache))
        for name, workers in VARIANTS.items():
            data = dataclasses.replace(config.data, workers=workers)
            batches = train_batches(dataset.train, data, seed=0, start=0, stop=10**9)
            next(batches)  # starts processes and opens files: part of the start, not of a step
            waited, started = 0.0, time.perf_counter()
            for _ in range(STEPS.value):
                time.sleep(seconds)
                before = time.perf_counter()
                next(batches)
                waited += time.perf_counter() - before
            total = time.perf_counter() - started
            batches.close()
            rows.append(
                {
                    "reader": name + ", decoded cache" * cache,
                    "step_s": seconds,
                    "images_per_s_needed": per_batch / seconds,
                    "waiting_percent": 100 * waited / total,
                }
            )
    return rows


def _step_seconds(config: Any) -> float:
    """Of the whole batch on this processor: 4 pairs, scaled; processor time, so that other work is not in it."""
    import jax

    from bdf_jax import config as configs
    from bdf_jax.models import Network
    from bdf_jax.training.compile import compile_step
    from bdf_jax.training.stages import phases
    from bdf_jax.training.state import initial_state

    pairs = config.data.identities * config.data.images
    small = configs.vary(config, {"data.identities": 2, "data.images": 2})
    network = Network.of(small, 395)
    compiled = compile_step(network, small, phases(small, 100)[0], 100)
    state = compiled.place_state(initial_state(network, small, pretrained=False))
    batch = np.zeros((4, 2, *small.data.image_size, 3), np.uint8), np.array([0, 0, 1, 1], np.int32)
    found = []
    for _ in range(3):  # the first compiles
        before = time.process_time()
        state, metrics = compiled.step(state, *compiled.place_batch(*batch))
        jax.block_until_ready(metrics)
        found.append((time.process_time() - before) / (os.cpu_count() or 1))
    print(
        f"a step of 4 pairs takes {min(found):.2f} s on all cores, one of {pairs} pairs {min(found) * pairs / 4:.1f} s"
    )
    return min(found) * pairs / 4


def _memory(config: Any, temporary: Path) -> list[dict[str, Any]]:
    """The most memory of a process that reads, for data sets of two sizes."""
    roots = {"all": config.data.root}
    if config.data.dataset == "sysu_mm01":
        roots = {"1/8": _eighth(Path(config.data.root), temporary / "eighth"), **roots}
    rows = []
    for share, root in roots.items():
        for cache in (False, True):
            for name in ("threads", "2 processes"):
                data = dataclasses.replace(
                    config.data, root=root, decoded_cache=cache, workers=VARIANTS[name], train_split="trainval"
                )
                count, peak = _peak_of_child(data)
                rows.append({"identities": share, "images": count, "reader": name + ", decoded cache" * cache, **peak})
    return rows


def _eighth(root: Path, out: Path) -> str:
    """A tree of every eighth identity of a SYSU-MM01 tree, by links."""
    kept: set[int] = set()
    (out / "exp").mkdir(parents=True)
    for path in (root / "exp").glob("*_id.txt"):
        pids = [int(word) for word in path.read_text().replace(",", " ").split()][::8]
        (out / "exp" / path.name).write_text(",".join(map(str, pids)) + "\n")
        kept |= set(pids)
    for camera in root.glob("cam*"):
        (out / camera.name).mkdir()
        for person in camera.iterdir():
            if person.name.isdigit() and int(person.name) in kept:
                (out / camera.name / person.name).symlink_to(person.resolve())
    return str(out)


def _peak_of_child(data: Any) -> tuple[int, dict[str, float]]:
    """Images of the data set, and the most MiB of a process that opens it and reads, together with its children."""
    from bdf_jax.data.dataset import open_dataset

    open_dataset(data)  # preparing and decoding are not reading
    arguments = [sys.executable, __file__, f"--child={json.dumps([dataclasses.asdict(data), STEPS.value])}"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        peak = {"memory_MiB": 0.0, "with_file_pages_MiB": 0.0}
        while process.poll() is None:
            tree = [process.pid, *_descendants(process.pid)]
            for key, fields in (("memory_MiB", ("RssAnon", "RssShmem")), ("with_file_pages_MiB", ("VmRSS",))):
                peak[key] = max(peak[key], sum(_status(pid, fields) for pid in tree))
            time.sleep(0.02)
        assert process.stdout is not None
        lines = process.stdout.read().split()
    if process.returncode or not lines:
        raise SystemExit("the process that reads failed")
    return int(lines[-1]), peak


def _descendants(pid: int) -> list[int]:
    try:
        found = [
            int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()
        ]
    except OSError:  # it has just ended
        return []
    return found + [below for child in found for below in _descendants(child)]


def _status(pid: int, fields: Sequence[str]) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) / 1024 for line in lines if line.split(":")[0] in fields)


def _child() -> int:
    """Reads a few training batches and all of the test split, and prints how many images the data set has."""
    from bdf_jax import config as configs
    from bdf_jax.data.dataset import open_dataset
    from bdf_jax.data.loader import eval_batches, train_batches

    values, steps = json.loads(CHILD.value)
    data = configs.from_dict({"data": values}).data
    dataset = open_dataset(data, progress=False)
    for _ in train_batches(dataset.train, data, seed=0, start=0, stop=steps):
        pass
    for _ in eval_batches(dataset.test, data.image_size, 128, workers=data.workers):
        pass
    print(len(dataset.train) + len(dataset.test))
    return 0


if __name__ == "__main__":
    command.main(lambda argv: _child() if CHILD.value else main(argv))
