"""PK sampling against its definition."""

from __future__ import annotations

import numpy as np
import pytest

from bdf_jax.data.index import INFRARED, VISIBLE, ImageIndex
from bdf_jax.data.sampler import make_sampler, steps_per_epoch
from bdf_jax.errors import BdfError

pytestmark = pytest.mark.smoke

PIDS = [3, 8, 11, 40, 41]  # with 1 .. 5 visible and 5 .. 1 infrared images, rows shuffled


def make_index() -> ImageIndex:
    rows = [(pid, VISIBLE) for i, pid in enumerate(PIDS) for _ in range(i + 1)]
    rows += [(pid, INFRARED) for i, pid in enumerate(PIDS) for _ in range(5 - i)]
    order = np.random.default_rng(0).permutation(len(rows))
    pids, modalities = np.array(rows).T[:, order]
    names = np.array([f"{i:03d}.jpg" for i in range(len(rows))])
    return ImageIndex(names, pids.astype(np.int32), np.ones(len(rows), np.int32), modalities.astype(np.int8))


@pytest.mark.parametrize("images", [1, 3, 4, 7])
def test_a_batch_is_P_identities_by_K_images_by_two_modalities(images):
    index = make_index()
    sampler = make_sampler(index, identities=3, images=images)
    for step in range(50):
        rows_N2, labels_N = sampler.draw(7, step)
        assert rows_N2.shape == (3 * images, 2)
        assert labels_N.dtype == np.int32
        drawn = labels_N.reshape(3, images)
        assert (drawn == drawn[:, :1]).all()
        assert len(set(drawn[:, 0])) == 3
        for p in range(3):
            pid = PIDS[drawn[p, 0]]
            for modality in (VISIBLE, INFRARED):
                rows = rows_N2.reshape(3, images, 2)[p, :, modality]
                assert (index.pids[rows] == pid).all()
                assert (index.modalities[rows] == modality).all()
                there = int(((index.pids == pid) & (index.modalities == modality)).sum())
                if there >= images:
                    assert len(set(rows)) == images  # repeated only where the identity has fewer


def test_a_batch_depends_on_seed_and_step_alone():
    first, second = (make_sampler(make_index(), 3, 2) for _ in range(2))
    drawn = {(seed, step): first.draw(seed, step) for seed in (0, 1) for step in (0, 1, 1000)}
    for (seed, step), (rows, labels) in reversed(drawn.items()):
        again = second.draw(seed, step)
        assert np.array_equal(rows, again[0])
        assert np.array_equal(labels, again[1])
    assert len({rows.tobytes() for rows, _ in drawn.values()}) == len(drawn)


GOLDEN = ([[0, 18], [28, 24], [12, 11], [21, 2]], [1, 1, 2, 2])


def test_the_drawing_is_the_same_in_every_release():
    rows_N2, labels_N = make_sampler(make_index(), 2, 2).draw(20201012, 5)
    assert (rows_N2.tolist(), labels_N.tolist()) == GOLDEN, (
        "the batches of a seed changed: runs of an earlier version are no longer reproduced or resumed exactly"
    )


def test_identities_and_images_are_drawn_uniformly():
    index = make_index()
    sampler = make_sampler(index, 2, 1)
    draws = [sampler.draw(0, step) for step in range(4000)]
    counts = np.bincount(np.concatenate([labels for _, labels in draws]), minlength=5)
    assert np.abs(counts / 8000 - 0.2).max() < 0.02  # five standard deviations
    rows = np.concatenate([rows[:, VISIBLE] for rows, _ in draws])
    of_last = [np.sum(rows == row) for row in np.flatnonzero((index.pids == 41) & (index.modalities == VISIBLE))]
    assert np.abs(np.array(of_last) / sum(of_last) - 0.2).max() < 0.05


def test_more_identities_than_there_are():
    with pytest.raises(BdfError, match=r"P = 6 .* has 5.*--config.data.identities to at most 5"):
        make_sampler(make_index(), 6, 2)
    make_sampler(make_index(), 5, 2)


def test_an_identity_without_infrared_images():
    index = make_index()
    rows = np.flatnonzero(~((index.pids == 11) & (index.modalities == INFRARED)))
    with pytest.raises(BdfError, match="without infrared images: 11"):
        make_sampler(index.select(rows), 2, 2)


def test_steps_of_an_epoch():
    index = make_index()  # 15 visible, 15 infrared
    assert steps_per_epoch(index, 3, 2) == 15 // 6 + 1
    assert steps_per_epoch(index.select(np.flatnonzero(index.modalities == VISIBLE)), 5, 3) == 2
    assert steps_per_epoch(index, 100, 4) == 1
