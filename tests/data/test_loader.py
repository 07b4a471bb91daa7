"""A batch follows from its step, whoever decodes it; a fault ends in a message, never in silence."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from published_trees import write_image

from bdf_jax.data.dataset import Dataset, open_dataset
from bdf_jax.data.index import INFRARED, VISIBLE
from bdf_jax.data.loader import Batch, eval_batches, train_batches
from bdf_jax.data.sampler import make_sampler
from bdf_jax.errors import BdfError


@pytest.fixture
def dataset(prepared) -> Dataset:
    return open_dataset(prepared(), progress=False)


def pillow(dataset: Dataset, name: str, size: tuple[int, int]) -> np.ndarray:
    with Image.open(Path(dataset.root) / name) as image:
        return np.asarray(image.convert("RGB").resize((size[1], size[0]), Image.Resampling.BILINEAR))


def equal(first: Iterator[Batch], second: Iterator[Batch]) -> bool:
    pairs = list(zip(first, second, strict=True))
    return bool(pairs) and all(np.array_equal(a, b) for pair in pairs for a, b in zip(*pair, strict=True))


def test_images_are_those_the_sampler_drew(dataset, prepared):
    config = prepared()
    index = dataset.train.index
    pids = np.unique(index.pids)
    sampler = make_sampler(index, config.identities, config.images)
    for step, batch in enumerate(train_batches(dataset.train, config, seed=3, start=0, stop=4)):
        rows_N2, labels_N = sampler.draw(3, step)
        assert batch.images_NBHWC.shape == (6, 2, *config.image_size, 3)
        assert batch.images_NBHWC.dtype == np.uint8
        assert batch.labels_N.dtype == np.int32
        assert np.array_equal(batch.labels_N, labels_N)
        for n in range(6):
            for modality in (VISIBLE, INFRARED):
                row = rows_N2[n, modality]
                assert index.modalities[row] == modality
                assert index.pids[row] == pids[labels_N[n]]
                assert np.array_equal(
                    batch.images_NBHWC[n, modality], pillow(dataset, index.names[row], config.image_size)
                )
    assert step == 3


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_processes_gives_the_same_batches(dataset, prepared, workers):
    assert equal(
        train_batches(dataset.train, prepared(), seed=1, start=0, stop=7),
        train_batches(dataset.train, prepared(workers=workers, prefetch=3), seed=1, start=0, stop=7),
    )


@pytest.mark.parametrize("prefetch", [1, 3, 20])
def test_any_read_ahead_gives_the_same_batches(dataset, prepared, prefetch):
    assert equal(
        train_batches(dataset.train, prepared(), seed=1, start=0, stop=7),
        train_batches(dataset.train, prepared(prefetch=prefetch), seed=1, start=0, stop=7),
    )


def test_a_run_resumes_by_its_step(dataset, prepared):
    whole = list(train_batches(dataset.train, prepared(), seed=1, start=0, stop=9))
    assert equal(iter(whole[5:]), train_batches(dataset.train, prepared(), seed=1, start=5, stop=9))
    assert not equal(iter(whole[4:8]), train_batches(dataset.train, prepared(), seed=1, start=5, stop=9))


def test_a_process_reads_only_its_share(dataset, prepared, monkeypatch):
    config = prepared()
    read: list[int] = []
    original = type(dataset.train.records).encoded_all
    monkeypatch.setattr(
        type(dataset.train.records),
        "encoded_all",
        lambda self, positions: read.extend(positions) or original(self, positions),
    )
    shares = []
    for share in (slice(0, 2), slice(2, 6)):
        read.clear()
        shares.append(list(train_batches(dataset.train, config, seed=1, start=0, stop=3, pairs=share)))
        assert len(read) == 3 * 2 * (share.stop - share.start)
    for whole, first, second in zip(
        train_batches(dataset.train, config, seed=1, start=0, stop=3), *shares, strict=True
    ):
        assert np.array_equal(whole.images_NBHWC, np.concatenate([first.images_NBHWC, second.images_NBHWC]))
        assert np.array_equal(whole.labels_N, np.concatenate([first.labels_N, second.labels_N]))


def test_evaluation_sees_every_image_once_in_order(dataset):
    size, seen = (10, 8), []
    for batch in eval_batches(dataset.test, size, batch_size=8):
        assert batch.images_NHWC.shape == (8, *size, 3)
        assert len(batch.rows_V) == batch.valid
        for image, row in zip(batch.images_NHWC, batch.rows_V, strict=False):
            assert np.array_equal(image, pillow(dataset, dataset.test.index.names[row], size))
        assert not batch.images_NHWC[batch.valid :].any()
        seen += list(batch.rows_V)
    assert seen == list(range(len(dataset.test)))
    assert len(seen) % 8  # the last batch was padded


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_of_chosen_rows(dataset, workers):
    rows = [5, 3, 30, 4, 2]
    batches = list(eval_batches(dataset.test, (10, 8), batch_size=2, rows=rows, workers=workers))
    assert [list(batch.rows_V) for batch in batches] == [[5, 3], [30, 4], [2]]
    assert list(eval_batches(dataset.test, (10, 8), batch_size=2, rows=[])) == []


def test_too_many_identities_is_said_before_anything_is_read(dataset, prepared):
    with pytest.raises(BdfError, match=r"P = 8 .* has 7"):
        train_batches(dataset.train, prepared(identities=8), seed=0, start=0, stop=1)


# Faults.


@pytest.mark.parametrize("workers", [0, 1])
def test_a_record_damaged_after_preparation_names_the_image(prepared, tmp_path, workers):
    config = prepared()
    home = tmp_path / "dir"
    shutil.copytree(Path(config.dir), home)
    dataset = open_dataset(dataclasses.replace(config, dir=str(home)), progress=False)
    path = next(dataset.train.records.folder.glob("*-train.array_record*"))
    data = bytearray(path.read_bytes())
    data[30_000:40_000] = bytes(10_000)
    path.write_bytes(data)
    with pytest.raises(BdfError, match=rf"record of image {dataset.root}/cam\d/\d+/\d+.jpg.*Delete that folder"):
        for _ in train_batches(dataset.train, prepared(workers=workers), seed=0, start=0, stop=200):
            pass


def test_an_image_damaged_in_the_tree_is_seen_at_the_next_start(sysu, tmp_path, prepared):
    config = dataclasses.replace(prepared(), root=str(sysu), dir=str(tmp_path / "dir"))
    dataset = open_dataset(config, progress=False)
    running = train_batches(dataset.train, config, seed=0, start=0, stop=50)
    next(running)
    victim = sysu / "cam2" / "0001" / "0002.jpg"
    victim.write_bytes(victim.read_bytes()[:100])
    assert len(list(running)) == 49  # the records are whole: a run that has started goes on
    with pytest.raises(BdfError, match=str(victim)):
        open_dataset(config, progress=False)
    write_image(victim)
    open_dataset(config, progress=False)


def test_a_killed_decoding_process_ends_in_an_error(dataset, prepared):
    batches = train_batches(dataset.train, prepared(workers=2), seed=0, start=0, stop=100_000)
    next(batches)
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    started = time.monotonic()
    with pytest.raises(BdfError, match=r"decoding process died.*-9.*--config.data.workers=0"):
        for _ in batches:
            pass
    assert time.monotonic() - started < 20
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_iterator_left_early_leaves_nothing_behind(dataset, prepared, workers):
    config = prepared(workers=workers)
    # What the first iterator starts stays for the next: the pool that decodes, the one that frees shared memory.
    list(train_batches(dataset.train, config, seed=0, start=0, stop=1))
    before = set(threading.enumerate())
    batches = train_batches(dataset.train, config, seed=0, start=0, stop=100_000)
    next(batches)
    batches.close()
    assert not multiprocessing.active_children()
    end = time.monotonic() + 20
    while set(threading.enumerate()) - before and time.monotonic() < end:
        time.sleep(0.01)  # Grain's threads end by themselves
    assert not set(threading.enumerate()) - before


LOOP = """if True:
    import sys
    from bdf_jax.config import DataConfig
    from bdf_jax.data.dataset import open_dataset
    from bdf_jax.data.loader import train_batches
    root, home, workers, end = sys.argv[1:]
    config = DataConfig(root=root, dir=home, image_size=(16, 20), identities=3, images=2, workers=int(workers))
    dataset = open_dataset(config, progress=False)
    batches = train_batches(dataset.train, config, seed=0, start=0, stop=10**9)
    for step, batch in enumerate(batches):
        if step == 3:
            print("running", flush=True)
            if end == "exception":
                raise ValueError("a loss is not finite")
"""


def start_loop(prepared, workers: int, end: str) -> subprocess.Popen:
    config = prepared()
    process = subprocess.Popen(
        [sys.executable, "-c", LOOP, config.root, config.dir, str(workers), end],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    return process


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("end", ["exception", "ctrl-c"])
def test_a_loop_that_ends_badly_ends_at_once_and_quietly(dataset, prepared, workers, end):
    process = start_loop(prepared, workers, end)
    if end == "ctrl-c":
        os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode != 0
    assert errors.count("Traceback") == 1  # the loop's own, nothing of Grain's or of a decoding process
    assert ("KeyboardInterrupt" if end == "ctrl-c" else "a loss is not finite") in errors
    assert "leaked" not in errors
    assert group_is_gone(process.pid)


def test_decoding_processes_do_not_outlive_a_killed_run(dataset, prepared):
    process = start_loop(prepared, 1, "never")
    process.kill()
    process.communicate(timeout=20)
    assert group_is_gone(process.pid)


def group_is_gone(group: int, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False
