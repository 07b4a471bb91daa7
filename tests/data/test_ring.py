"""Batches in shared memory: every one arrives once and whole, whoever is faster; nothing is left behind."""

import multiprocessing
import os
import pickle
import threading

import numpy as np
import pytest

from bdf_jax.data.ring import Ring
from bdf_jax.errors import BdfError

SHAPE = (5, 7, 3)


def content(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, SHAPE, np.uint8)


def fill(filled, ring: Ring, first: int, stop: int, stride: int) -> None:
    for number in range(first, stop, stride):
        ring.slot(number)[...] = content(number)
        filled.put(number)


@pytest.mark.parametrize("processes", [1, 3])
@pytest.mark.parametrize("named", [False, True])  # memory of Linux without a name, a file elsewhere
def test_what_other_processes_fill_arrives_in_order_and_nothing_is_left(processes, named, tmp_path, monkeypatch):
    if named:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    opened = len(os.listdir("/proc/self/fd"))
    ring = Ring(SHAPE, slots=processes, first=4)  # as few slots as there may be
    assert bool(list(tmp_path.iterdir())) is named
    context = multiprocessing.get_context("spawn")
    queues = [context.Queue() for _ in range(processes)]
    workers = [
        context.Process(target=fill, args=(queue, ring, 4 + offset, 40, processes))
        for offset, queue in enumerate(queues)
    ]
    for worker in workers:
        worker.start()
    for number in range(4, 40):
        assert queues[(number - 4) % processes].get(timeout=60) == number
        np.testing.assert_array_equal(ring.take(number), content(number))
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    for queue in queues:
        queue.close()
        queue.join_thread()
    ring.close()
    del ring, workers, queues, worker, queue
    assert not list(tmp_path.iterdir())
    assert len(os.listdir("/proc/self/fd")) <= opened + 2  # the resource tracker of multiprocessing stays


def test_a_slot_is_not_filled_again_before_its_batch_was_taken():
    ring = Ring(SHAPE, slots=2, first=0)
    for number in (0, 1):
        ring.slot(number)[...] = content(number)
    free = threading.Event()
    writer = threading.Thread(target=lambda: (ring.slot(2), free.set()))
    writer.start()
    assert not free.wait(0.1)
    first = ring.take(0)
    assert free.wait(10)
    ring.slot(2)[...] = 0
    np.testing.assert_array_equal(first, content(0))  # a copy
    np.testing.assert_array_equal(ring.take(1), content(1))
    writer.join()
    ring.close()


def test_who_waits_for_a_slot_goes_on_when_nobody_takes_any_more():
    ring = Ring(SHAPE, slots=1, first=0)
    writer = threading.Thread(target=lambda: ring.slot(5))
    writer.start()
    ring.close()
    writer.join(10)
    assert not writer.is_alive()


def test_memory_that_is_gone_is_an_error_with_a_way_out():
    ring = Ring(SHAPE, slots=1, first=0)
    pickled = pickle.dumps(ring)
    ring.close()
    with pytest.raises(BdfError, match=r"cannot share memory .*--config.data.workers=0 decodes in threads"):
        pickle.loads(pickled)
