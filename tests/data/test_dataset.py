"""Which images a run trains and is evaluated on."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
from published_trees import SYSU_IDS, write_regdb

from bdf_jax.config import DataConfig, WorldConfig
from bdf_jax.data.dataset import open_dataset
from bdf_jax.errors import BdfError


def test_sysu_trains_on_train_and_val_by_default(prepared):
    dataset = open_dataset(prepared(), progress=False)
    assert set(dataset.train.index.pids) == {*SYSU_IDS["train"], *SYSU_IDS["val"]}
    assert set(dataset.test.index.pids) == set(SYSU_IDS["test"])
    assert dataset.val is None
    assert dataset.trial is None
    assert list(dataset.train.index.names) == sorted(dataset.train.index.names)


def test_sysu_keeps_val_apart_when_asked(prepared):
    dataset = open_dataset(prepared(train_split="train"), progress=False)
    assert set(dataset.train.index.pids) == set(SYSU_IDS["train"])
    assert dataset.val is not None
    assert set(dataset.val.index.pids) == set(SYSU_IDS["val"])


@pytest.mark.parametrize("dataset", ["sysu_mm01", "regdb", "llcm"])
def test_every_row_is_its_file(prepared, dataset):
    config = prepared(dataset)
    opened = open_dataset(config, progress=False)
    for split in (opened.train, opened.test):
        for row in range(0, len(split), 5):
            with open(f"{config.root}/{split.index.names[row]}", "rb") as file:
                assert split.encoded(row) == file.read()


def test_a_split_travels_to_another_process(prepared):
    split = open_dataset(prepared(), progress=False).train
    split.encoded(0)
    copy = pickle.loads(pickle.dumps(split))
    assert np.array_equal(copy.index.names, split.index.names)
    assert copy.encoded(7) == split.encoded(7)


def test_regdb_trials_share_their_records(prepared):
    first, second = (open_dataset(prepared("regdb", trial=trial), progress=False) for trial in (1, 2))
    assert first.trial == 1
    assert first.train.records.folder == second.train.records.folder
    assert set(first.train.index.pids).isdisjoint(first.test.index.pids)
    assert set(first.train.index.pids) != set(second.train.index.pids)
    assert first.fingerprint != second.fingerprint


def test_regdb_needs_the_lists_of_its_own_trial_alone(tmp_path):
    root = write_regdb(tmp_path / "RegDB")
    (root / "idx" / "train_thermal_2.txt").unlink()
    config = DataConfig(dataset="regdb", root=str(root), dir=str(tmp_path / "dir"))
    assert len(open_dataset(config, progress=False).train) == 16
    with pytest.raises(BdfError, match=r"train_thermal_2.txt is missing"):
        open_dataset(dataclasses.replace(config, trial=2), progress=False)


def test_the_world_stands_in_for_a_missing_tree(tmp_path):
    world = WorldConfig(train_ids=4, test_ids=2, size=(32, 16), images=1)
    config = DataConfig(dataset="regdb", dir=str(tmp_path), world=world)
    dataset = open_dataset(config, progress=False)
    assert dataset.root.startswith(str(tmp_path / "world" / "regdb-4+2ids"))
    assert (len(set(dataset.train.index.pids)), len(set(dataset.test.index.pids))) == (4, 2)
    assert open_dataset(config, progress=False).fingerprint == dataset.fingerprint
    another = dataclasses.replace(config, world=dataclasses.replace(world, seed=1))
    assert open_dataset(another, progress=False).root != dataset.root


def test_the_fingerprint_names_the_division_and_not_the_folder(prepared, tmp_path):
    config = prepared("regdb")
    here = open_dataset(config, progress=False).fingerprint
    moved = dataclasses.replace(config, root=str(write_regdb(tmp_path / "moved")), dir=str(tmp_path / "dir"))
    assert open_dataset(moved, progress=False).fingerprint == here
    fingerprints = {here}
    fingerprints.add(open_dataset(prepared("regdb", trial=2), progress=False).fingerprint)
    fingerprints.add(open_dataset(prepared(), progress=False).fingerprint)
    fingerprints.add(open_dataset(prepared(train_split="train"), progress=False).fingerprint)
    assert len(fingerprints) == 4


def test_no_root_and_no_world(tmp_path):
    with pytest.raises(BdfError) as caught:
        open_dataset(DataConfig(dir=str(tmp_path)))
    for part in ("data.root is empty", "--config.data.root=DIR", "licence agreement", "configs/demo.py"):
        assert part in str(caught.value)


def test_the_data_folder_may_be_in_the_home_folder(prepared, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    dataset = open_dataset(dataclasses.replace(prepared("llcm"), dir="~/bdf"), progress=False)
    assert str(dataset.train.records.folder).startswith(str(tmp_path / "bdf"))
