"""A tree with the published test identities must have their images, when a trained network is evaluated on it."""

import dataclasses
import json
from pathlib import Path

import jax
import small
from published_trees import write_regdb

from bdf_jax import __main__ as command_line
from bdf_jax.checkpoints import Checkpoints, Metadata
from bdf_jax.config import DataConfig
from bdf_jax.data.dataset import open_dataset
from bdf_jax.datasets import BENCHMARKS
from bdf_jax.datasets.benchmark import PublishedTest
from bdf_jax.evaluation.workdir import evaluate_workdir
from bdf_jax.models import Network, initial_variables


def test_a_trained_network_is_asked_the_same(tmp_path, monkeypatch, capsys):
    """A work folder whose tree has the published test identities, here a small set that plays the published one."""
    known = BENCHMARKS["regdb"]
    rules = dataclasses.replace(known.rules, published=PublishedTest(identities=4, images_of_identity=2))
    monkeypatch.setitem(BENCHMARKS, "regdb", dataclasses.replace(known, rules=rules))
    tree = write_regdb(tmp_path / "tree")
    workdir = save_run(tmp_path, DataConfig(dataset="regdb", root=str(tree), trial=1, dir=str(tmp_path / "data")))
    assert {row.get("test_set") for row in evaluate_workdir(workdir)} == {None}

    listed = tree / "idx" / "test_visible_1.txt"
    first, *others = listed.read_text().splitlines(keepends=True)
    listed.write_text("".join(others))
    (tree / first.split()[0]).unlink()
    for name in ("train_visible_2.txt", "test_visible_2.txt"):
        lines = (tree / "idx" / name).read_text().splitlines(keepends=True)
        (tree / "idx" / name).write_text("".join(line for line in lines if line.split()[0] != first.split()[0]))
    workdir = save_run(tmp_path / "2", DataConfig(dataset="regdb", root=str(tree), trial=1, dir=str(tmp_path / "data")))
    assert command_line.main(["evaluate", f"--workdir={workdir}"]) == 1
    assert "1 do not: identity " in capsys.readouterr().err
    assert command_line.main(["evaluate", f"--workdir={workdir}", "--own", f"--json={tmp_path / 'rows.json'}"]) == 0
    printed = capsys.readouterr().out
    assert "test_set" in printed
    assert "has 1 visible" in printed
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert {row["test_set"] for row in rows} == {"own"}
    assert "has 1 visible" in rows[0]["notes"][0]


def save_run(home: Path, data: DataConfig) -> Path:
    """A run that was never trained."""
    config = small.tiny_method(data=data)
    dataset = open_dataset(config.data, progress=False)
    variables = jax.device_get(dict(initial_variables(Network.of(config, 4), 0, config.data.image_size)))
    checkpoints = Checkpoints(home / "work")
    checkpoints.save(7, variables, Metadata(config, dataset.fingerprint, 4))
    checkpoints.close()
    return home / "work"
