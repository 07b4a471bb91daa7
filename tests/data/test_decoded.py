"""Decoded images are the pixels of decoding, byte for byte, or they are not used."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import PIL
import pytest
from published_trees import write_sysu

from bdf_jax.config import DataConfig
from bdf_jax.data import decoded as decoded_module
from bdf_jax.data.dataset import Dataset, open_dataset
from bdf_jax.data.decoded import HEADER_BYTES, disk_bytes
from bdf_jax.data.loader import eval_batches, train_batches
from bdf_jax.errors import BdfError

SIZE = (16, 20)


@pytest.fixture
def config(prepared, tmp_path) -> DataConfig:
    """Prepared records in a folder of the test's own, and the cache switched on."""
    shared = prepared(decoded_cache=True, image_size=SIZE)
    open_dataset(dataclasses.replace(shared, decoded_cache=False), progress=False)
    shutil.copytree(shared.dir, tmp_path / "dir")
    return dataclasses.replace(shared, dir=str(tmp_path / "dir"))


def without(config: DataConfig) -> DataConfig:
    return dataclasses.replace(config, decoded_cache=False)


def opened(config: DataConfig) -> Dataset:
    return open_dataset(config, progress=False)


def batches(config: DataConfig, **changes: object) -> Iterable[np.ndarray]:
    """Pixels of some training batches and of the whole test split."""
    config = dataclasses.replace(config, **changes)  # type: ignore[arg-type]
    dataset = opened(config)
    for batch in train_batches(dataset.train, config, seed=1, start=0, stop=5):
        yield batch.images_NBHWC
    for test in eval_batches(dataset.test, config.image_size, 8, workers=config.workers):
        yield test.images_NHWC


def assert_same_pixels(one: Iterable[np.ndarray], other: Iterable[np.ndarray]) -> None:
    pairs = list(zip(one, other, strict=True))
    assert len(pairs) > 5
    for a, b in pairs:
        np.testing.assert_array_equal(a, b)


def files(config: DataConfig) -> list[Path]:
    return sorted(Path(config.dir, "decoded", "sysu_mm01").glob("*.images"))


def leftovers(config: DataConfig) -> list[Path]:
    return list(Path(config.dir, "decoded", "sysu_mm01").glob("*incomplete*"))


@pytest.mark.parametrize("workers", [0, 2])
def test_threads_and_processes_read_the_pixels_of_decoding(config, workers):
    assert_same_pixels(batches(without(config)), batches(config, workers=workers))


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_is_decoded_again(config, workers):
    dataset = opened(config)
    for path in dataset.train.records.folder.glob("*.array_record*"):
        path.write_bytes(b"")  # whoever looks there fails
    assert len(list(batches(config, workers=workers))) > 5


def test_the_file_holds_every_image_in_the_order_of_the_records(config):
    dataset = opened(config)
    assert dataset.train.decoded is not None
    path = dataset.train.decoded.path
    count = len(dataset.train.records.index)
    assert path.stat().st_size == disk_bytes(count, SIZE)
    pixels = np.memmap(path, np.uint8, "r", HEADER_BYTES, (count, *SIZE, 3))
    for split in (dataset.train, dataset.test):
        for row in range(0, len(split), 7):
            expected = decoded_module.read_pixels(split.encoded(row), "", SIZE)
            np.testing.assert_array_equal(pixels[split.positions[row]], expected)


def test_it_is_written_once(config):
    opened(config)
    (path,) = files(config)
    before = path.stat()
    opened(config)
    assert files(config) == [path]
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_another_size_another_tree_and_another_pillow_have_files_of_their_own(config, tmp_path, monkeypatch):
    opened(config)
    opened(dataclasses.replace(config, image_size=SIZE[::-1]))  # as many bytes
    assert len(files(config)) == 2
    opened(dataclasses.replace(config, root=str(write_sysu(tmp_path / "other", images=2))))
    assert len(files(config)) == 3
    monkeypatch.setattr(PIL, "__version__", "0.1")
    opened(config)
    assert len(files(config)) == 4


def test_a_file_under_a_wrong_name_is_not_read(config, capsys):
    opened(config)
    (one,) = files(config)
    other = dataclasses.replace(config, image_size=SIZE[::-1])
    opened(other)
    (name,) = set(files(config)) - {one}
    shutil.copyfile(one, name)
    assert_same_pixels(batches(without(other)), batches(other))
    assert f"{name} are damaged (its first line tells of other images)" in capsys.readouterr().out


def test_another_size_than_that_of_the_cache_is_decoded(config):
    plain, cached = opened(without(config)), opened(config)
    for one, other in zip(eval_batches(plain.test, (9, 8), 8), eval_batches(cached.test, (9, 8), 8), strict=True):
        np.testing.assert_array_equal(one.images_NHWC, other.images_NHWC)


# Faults.


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes, at: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (cut, "bytes where"),
        (lambda data: b"", "0 bytes where"),
        (lambda data: data + b"x", "bytes where"),
        (lambda data: bytes(len(data)), "first line"),
        (lambda data: flipped(data, 40), "first line"),
        (lambda data: flipped(data, len(data) - 1), "checksums are damaged"),
        (lambda data: flipped(data, len(data) - 100), "checksums are damaged"),
    ],
)
def test_a_file_that_is_not_whole_is_named_and_written_again(config, damage, found, capsys):
    opened(config)
    (path,) = files(config)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    opened(config)
    printed = capsys.readouterr().out
    assert f"{path} are damaged" in printed
    assert found in printed
    assert path.read_bytes() == whole
    opened(config)
    assert capsys.readouterr().out == ""


def test_damaged_pixels_are_decoded_instead_and_told_once(config, caplog):
    expected = list(batches(without(config)))
    opened(config)
    (path,) = files(config)
    data = bytearray(path.read_bytes())
    data[HEADER_BYTES:-10_000] = bytes(len(data) - HEADER_BYTES - 10_000)
    path.write_bytes(data)
    assert_same_pixels(expected, batches(config))
    (record,) = caplog.records
    assert f"{path}: cam" in record.getMessage()
    assert ".jpg is damaged (other pixels than were written)" in record.getMessage()


def test_a_file_that_is_cut_while_it_is_read_does_not_end_the_run(config, caplog):
    dataset = opened(config)
    expected = [batch.images_NHWC for batch in eval_batches(dataset.test, SIZE, 8)]
    os.truncate(files(config)[0], HEADER_BYTES + 500)
    for batch, pixels in zip(eval_batches(dataset.test, SIZE, 8), expected, strict=True):
        np.testing.assert_array_equal(batch.images_NHWC, pixels)
    assert "is damaged (0 bytes)" in caplog.text


OPEN = """if True:
    import hashlib, resource, signal, sys
    from bdf_jax.config import DataConfig
    from bdf_jax.data.dataset import open_dataset
    from bdf_jax.errors import BdfError
    root, home, height, limit = sys.argv[1:]
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
    size = (int(height), 20)
    try:
        dataset = open_dataset(DataConfig(root=root, dir=home, image_size=size, decoded_cache=True))
        print(hashlib.sha256(dataset.train.decoded.path.read_bytes()).hexdigest())
    except BdfError as error:
        print(f"BdfError: {error}")
"""


def start(config: DataConfig, *, height: int = SIZE[0], limit: int = 1 << 40) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", OPEN, config.root, config.dir, str(height), str(limit)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_killed_writer_leaves_nothing_that_is_taken_for_a_cache(config):
    with start(config, height=2000) as process:  # 20 MB take a moment
        deadline = time.monotonic() + 60
        while not leftovers(config):
            assert time.monotonic() < deadline
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert leftovers(config)
    assert files(config) == []
    tall = dataclasses.replace(config, image_size=(2000, 20))
    opened(tall)
    assert len(files(config)) == 1
    assert leftovers(config) == []


def test_two_processes_at_once_share_one_file(config):
    processes = [start(config, height=400) for _ in range(2)]
    digests = [process.communicate(timeout=60)[0].splitlines()[-1] for process in processes]
    (path,) = files(config)
    assert digests == [hashlib.sha256(path.read_bytes()).hexdigest()] * 2
    assert leftovers(config) == []


def test_a_disk_that_fills_up_is_an_error_and_nothing_is_kept(config):
    """The file-size limit of the process stands in for the disk."""
    out, errors = start(config, limit=100_000).communicate(timeout=60)
    assert "BdfError: data.dir: no space left to write" in out, errors
    assert "Traceback" not in errors
    assert files(config) == leftovers(config) == []


def test_how_much_disk_it_takes_is_said_beforehand(config, capfd):
    dataset = open_dataset(config)
    needed = disk_bytes(len(dataset.train.records.index), SIZE)
    assert (
        f"{len(dataset.train.records.index)} images of 16x20 pixels take {needed / 2**30:.2f} GiB,"
        in capfd.readouterr().out
    )


def test_too_little_space_is_said_before_anything_is_decoded(config):
    opened(config)
    started = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    with pytest.raises(
        BdfError, match=r"images of 300000x200000 pixels take \d+\.\d+ GiB.*1 files of other sizes.*False"
    ):
        opened(dataclasses.replace(config, image_size=(300_000, 200_000)))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - started < 1
    assert len(files(config)) == 1


def test_a_damaged_record_is_named_while_the_cache_is_written(config):
    folder = opened(without(config)).train.records.folder
    path = next(folder.glob("*-test.array_record*"))
    data = bytearray(path.read_bytes())
    data[30_000:40_000] = bytes(10_000)
    path.write_bytes(data)
    with pytest.raises(BdfError, match=r"record of image .*\.jpg.*Delete that folder"):
        opened(config)
    assert files(config) == leftovers(config) == []
