"""A data set of a user's own: a file beside theirs, named MODULE:NAME, prepared, trained on and evaluated as any."""

import numpy as np
import pytest
import small
from PIL import Image

from bdf_jax.config import DataConfig, EvaluationConfig, TrainingConfig
from bdf_jax.data.check import check_tree
from bdf_jax.data.dataset import open_dataset
from bdf_jax.datasets import BENCHMARKS
from bdf_jax.errors import BdfError
from bdf_jax.evaluation.workdir import evaluate_workdir
from bdf_jax.training.loop import run

FILE = """
from bdf_jax.data.index import INFRARED, VISIBLE
from bdf_jax.data.trees.tree import Layout, build_tree, walk_identities
from bdf_jax.datasets import BENCHMARKS, Benchmark

LAYOUT = Layout("own_people", "Own people", ("rgb", "ir"), "rgb/ID/ and ir/ID/ with images", source="", citation="")


def read(root, *, trials=None):
    places = (("rgb", 1, VISIBLE), ("ir", 2, INFRARED))
    files = [f for folder, cam, modality in places for f in walk_identities(root, folder, cam, modality)]
    splits = {"train": [f for f in files if f.pid % 2], "test": [f for f in files if f.pid % 2 == 0]}
    return build_tree(LAYOUT, root, splits, splits)


PEOPLE = Benchmark(LAYOUT, read, BENCHMARKS["llcm"].rules)
"""


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Five identities to train on and five to search for, and the file that says so on the path."""
    (tmp_path / "own_people_file.py").write_text(FILE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(BENCHMARKS, "own_people", raising=False)
    pixels = np.random.default_rng(0)
    for folder in ("rgb", "ir"):
        for pid in range(1, 11):
            for k in range(2):
                path = tmp_path / "tree" / folder / f"{pid:04}" / f"{k}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.integers(0, 256, (32, 16, 3), dtype=np.uint8)).save(path)
    return tmp_path / "tree"


def test_it_is_checked_trained_on_and_evaluated(tree, tmp_path):
    data = DataConfig(dataset="own_people_file:PEOPLE", root=str(tree), dir=str(tmp_path / "data"))
    dataset = open_dataset(data, progress=False)
    assert (dataset.name, len(dataset.train), len(dataset.test)) == ("own_people", 20, 20)
    report = check_tree("own_people_file:PEOPLE", str(tree))
    assert report.usable
    assert sum(row["images"] for row in report.counts) == 40
    config = small.tiny_method(
        replaces={"data.identities": 2, "data.images": 2, "augment.pad": 2},
        data=data,
        training=TrainingConfig(steps=2, tensorboard=False),
        evaluation=EvaluationConfig(batch_size=16),
    )
    rows = run(config, tmp_path / "run")
    assert [row["direction"] for row in rows] == ["infrared_to_visible", "visible_to_infrared"]
    del BENCHMARKS["own_people"]  # as in another process
    assert [row["mAP"] for row in evaluate_workdir(tmp_path / "run")] == [row["mAP"] for row in rows]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere:PEOPLE", "data.dataset=nowhere:PEOPLE: cannot be imported .*is nowhere.py on the path?"),
        ("own_people_file:read", "expected a bdf_jax.datasets.Benchmark, found function"),
        ("llmc", "expected one of sysu_mm01, regdb, llcm.*did you mean 'llcm'?"),
    ],
)
def test_what_is_no_data_set_is_refused(tree, name, message):
    with pytest.raises(BdfError, match=message):
        DataConfig(dataset=name).check()
