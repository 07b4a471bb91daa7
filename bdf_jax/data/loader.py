"""Rows of a split -> host batches of uint8, decoded in parallel and ahead of the device.

A batch is one element of a Grain `MapDataset`, computed from its step alone. So the same batches come out of any
number of threads and processes, resuming needs only the step, and memory is bounded by the batches decoded ahead.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import multiprocessing
import os
import signal
import threading
import weakref
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import numpy as np
from absl import flags

from bdf_jax.config import DataConfig
from bdf_jax.data.dataset import Split
from bdf_jax.data.decoded import CHUNK, pixels
from bdf_jax.data.images import cores
from bdf_jax.data.ring import Ring
from bdf_jax.data.sampler import PKSampler, make_sampler
from bdf_jax.errors import BdfError
from bdf_jax.signals import STOPPING

GRACE_SECONDS = 60  # for which a decoding process goes on after a request to stop


class Batch(NamedTuple):
    """A training batch, or one process's share of it.

    Attributes:
      images_NBHWC: (N, 2, height, width, 3) uint8; B: visible, infrared.
      labels_N: int32 class of each pair.
    """

    images_NBHWC: np.ndarray
    labels_N: np.ndarray


class EvalBatch(NamedTuple):
    """Images of a split in the order asked for; the last batch is padded with black images.

    Attributes:
      images_NHWC: (batch_size, height, width, 3) uint8.
      rows_V: (valid,) int64, rows of the split that the first `valid` images show.
      valid: number of images that are not padding.
    """

    images_NHWC: np.ndarray
    rows_V: np.ndarray
    valid: int


def train_batches(
    split: Split, config: DataConfig, *, seed: int, start: int, stop: int, pairs: slice | None = None
) -> Generator[Batch, None, None]:
    """Batches of the steps start .. stop - 1.

    Args:
      split: the training split.
      config: P, K, image size, number of decoding processes and of batches decoded ahead.
      seed: of the drawing; with the step it determines the batch.
      start: first step.
      stop: one past the last step.
      pairs: this process's share of the P * K pairs; only those are read. None: all.

    Raises:
      BdfError: at once, P larger than the number of identities; while iterating, a damaged record (names the image) or
        a decoding process that died.
    """
    sampler = make_sampler(split.index, config.identities, config.images)
    load = _TrainLoad(split, sampler, seed, config.image_size, pairs or slice(None), threads=config.workers == 0)
    return _iterate(load, start, stop, workers=config.workers, prefetch=config.prefetch)


def eval_batches(
    split: Split,
    size: tuple[int, int],
    batch_size: int,
    *,
    rows: Sequence[int] | np.ndarray | None = None,
    workers: int = 0,
    prefetch: int = 2,
) -> Generator[EvalBatch, None, None]:
    """Every image of a split once, in order.

    Args:
      split: where the images are.
      size: (height, width) in pixels.
      batch_size: images in a batch; the last one is padded, so that a jitted function compiles once.
      rows: the rows to read, in this order (a process's share, say); None: all.
      workers: decoding processes; 0: threads, one a core.
      prefetch: batches decoded ahead.

    Raises:
      BdfError: while iterating, a damaged record (names the image) or a decoding process that died.
    """
    wanted = np.arange(len(split)) if rows is None else np.asarray(rows, np.int64)
    load = _EvalLoad(split, wanted, size, batch_size, threads=workers == 0)
    return _iterate(load, 0, -(-len(wanted) // batch_size), workers=workers, prefetch=prefetch)


class _Load(Protocol):
    """number of a batch -> the batch: its pixels written into memory that the caller has, and what they belong to."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the pixels."""

    def fill(self, number: int, images: np.ndarray) -> None:
        """Decodes the images of a batch: all the work."""

    def batch(self, number: int, images: np.ndarray) -> Any:
        """The batch that has these pixels; cheap enough to be done wherever it is needed."""


class _TrainLoad:
    def __init__(
        self, split: Split, sampler: PKSampler, seed: int, size: tuple[int, int], pairs: slice, *, threads: bool
    ):
        self._split, self._sampler, self._seed = split, sampler, seed
        self._pairs, self._threads = pairs, threads
        self.shape = (len(range(sampler.identities * sampler.images)[pairs]), 2, *size, 3)

    def fill(self, number: int, images: np.ndarray) -> None:
        rows = self._sampler.draw(self._seed, number)[0][self._pairs]
        _fill(images.reshape(-1, *images.shape[2:]), self._split, rows.reshape(-1), self._threads)

    def batch(self, number: int, images: np.ndarray) -> Batch:
        return Batch(images, self._sampler.draw(self._seed, number)[1][self._pairs])


class _EvalLoad:
    def __init__(self, split: Split, rows: np.ndarray, size: tuple[int, int], batch_size: int, *, threads: bool):
        self._split, self._rows, self._threads = split, rows, threads
        self.shape = (batch_size, *size, 3)

    def fill(self, number: int, images: np.ndarray) -> None:
        rows_V = self._rows_of(number)
        _fill(images, self._split, rows_V, self._threads)
        images[len(rows_V) :] = 0

    def batch(self, number: int, images: np.ndarray) -> EvalBatch:
        rows_V = self._rows_of(number)
        return EvalBatch(images, rows_V, len(rows_V))

    def _rows_of(self, number: int) -> np.ndarray:
        return self._rows[number * self.shape[0] :][: self.shape[0]]


def _fill(images: np.ndarray, split: Split, rows: np.ndarray, threads: bool) -> None:
    """Fills the first images with rows; with `threads` all cores share one batch (Pillow and reading release the GIL).

    Decoded images are used where there are any of this size; one that is damaged there is decoded like all others.
    """
    records, positions, size = split.records, split.positions[rows], images.shape[1:3]
    decoded = split.decoded if split.decoded is not None and split.decoded.size == size else None
    encoded = records.encoded_all(positions) if decoded is None else None

    def fill_chunk(first: int) -> None:
        for i in range(first, min(first + CHUNK, len(rows))):
            position = int(positions[i])
            if encoded is not None:
                images[i] = pixels(records, position, encoded[i], size)
            elif not decoded.read_into(position, images[i], str(records.index.names[position])):  # type: ignore[union-attr]
                images[i] = pixels(records, position, records.encoded(position), size)

    chunks = range(0, len(rows), CHUNK)
    for _ in _pool().map(fill_chunk, chunks) if threads else map(fill_chunk, chunks):
        pass


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores(), thread_name_prefix="decode")


def _iterate(load: _Load, start: int, stop: int, *, workers: int, prefetch: int) -> Generator[Any, None, None]:
    import grain

    if not flags.FLAGS.is_parsed():  # Grain reads its flags, also in a notebook or a test, where nobody parses any
        flags.FLAGS.mark_as_parsed()
    numbers = grain.MapDataset.range(start, stop)
    if workers:
        generator = _from_processes(numbers, load, start, workers, prefetch)
        _close_at_exit()
        _open.add(generator)
        return generator
    # These threads only wait for the pool that decodes.
    ahead = grain.ReadOptions(num_threads=min(prefetch, 16), prefetch_buffer_size=prefetch)
    return _from_threads(iter(numbers.map(functools.partial(_into_array, load)).to_iter_dataset(ahead)))


def _into_array(load: _Load, number: int) -> Any:
    images = np.empty(load.shape, np.uint8)
    load.fill(int(number), images)
    return load.batch(int(number), images)


def _into_slot(load: _Load, ring: Ring, number: int) -> int:
    load.fill(int(number), ring.slot(int(number)))
    return int(number)


def _start_worker(number: int, count: int) -> None:
    """Runs first in every decoding process, which must outlive a signal to the whole group, but not its parent."""
    del number, count
    parent = multiprocessing.parent_process()

    def follow_parent() -> None:
        parent.join()  # type: ignore[union-attr]
        os._exit(1)

    threading.Thread(target=follow_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the parent closes us
    # Preemption: the parent still needs batches to finish its step and save.
    for number in STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: threading.Timer(GRACE_SECONDS, os._exit, (1,)).start())


def _from_threads(iterator: Any) -> Generator[Any, None, None]:
    with contextlib.closing(iterator):
        yield from iterator


def _from_processes(numbers: Any, load: _Load, start: int, workers: int, prefetch: int) -> Generator[Any, None, None]:
    import grain

    each = -(-prefetch // workers)
    ring = Ring(load.shape, slots=workers * (each + 2), first=start)  # waiting, being filled, being handed over
    filled = numbers.map(functools.partial(_into_slot, load, ring))
    at_once = filled.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    processes = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=each)
    iterator = iter(at_once.mp_prefetch(processes, _start_worker))
    try:
        while True:
            try:
                number = next(iterator)
            except StopIteration:
                return
            except RuntimeError as error:
                if "terminated unexpectedly" not in str(error):
                    raise
                raise BdfError(
                    f"a decoding process died: {error} Exit code -9 is most often the system's answer to too little "
                    "memory. Start the same command again to continue from the last checkpoint; "
                    "--config.data.workers=0 decodes in threads of one process and needs less memory."
                ) from error
            yield load.batch(number, ring.take(number))
    finally:
        ring.close()
        iterator.close()
        del iterator
        gc.collect()  # Grain's iterators refer to each other, and complain if the interpreter ends before them


_open: weakref.WeakSet[Generator[Any, None, None]] = weakref.WeakSet()


@functools.cache
def _close_at_exit() -> None:
    """Ends decoding processes whose iterator nobody closed: a loop left by an exception, say.

    Registered after Grain was imported, so that it runs before the exit function of `multiprocessing`.
    """

    def close_all() -> None:
        for generator in list(_open):
            generator.close()

    atexit.register(close_all)
