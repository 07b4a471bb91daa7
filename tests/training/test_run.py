"""Whole runs on real files: train, save, stop, resume, evaluate."""

import os
import subprocess
import sys

import numpy as np
import pytest
import small
from whole_runs import ROOT, assert_same_run, command_line, lines, wait_until

from bdf_jax.config import DataConfig, vary
from bdf_jax.errors import BdfError
from bdf_jax.evaluation.workdir import evaluate_workdir
from bdf_jax.training.loop import run


@pytest.fixture(scope="module")
def finished(tiny_config, tmp_path_factory):
    """An uninterrupted run: its folder and its rows."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    return workdir, run(tiny_config, workdir)


@pytest.mark.smoke
def test_a_run_writes_every_step_its_checkpoints_and_the_rows_of_its_protocol(finished):
    workdir, rows = finished
    metrics = lines(workdir)
    assert [m["step"] for m in metrics] == list(range(1, 7))
    assert all(np.isfinite(list(m.values())).all() for m in metrics)
    terms = {"did/V", "did/Di", "mml/Dv", "mdl/V>I", "mdl/Di>Dv", "accuracy/I", "active/Dv", "deviation/Di"}
    assert terms | {"loss", "did", "mml", "mdl", "learning_rate", "gradient_norm"} <= set(metrics[0])
    assert sum(name.startswith("mdl/") for name in metrics[0]) == 8
    for m in metrics:
        np.testing.assert_allclose(m["loss"], m["did"] + m["mml"] + 0.1 * m["mdl"], rtol=1e-5)
    assert sorted(os.listdir(workdir / "checkpoints")) == ["4", "6"]  # the last, and the one before
    keys = "dataset model mode shots gallery direction trials queries gallery_size R1 R5 R10 R20 mAP mINP feature use"
    assert [(row["mode"], row["shots"], row["gallery"], row["model"]) for row in rows] == [
        ("all", 1, "official", "trained"), ("indoor", 1, "official", "trained"),
    ]  # fmt: skip
    assert all(set(keys.split()) <= set(row) for row in rows)


def test_a_finished_run_says_so_and_evaluates_to_the_same_rows(finished, tiny_config, capsys):
    workdir, rows = finished
    assert run(tiny_config, workdir) == rows
    assert "the run is finished: 6 of 6 steps are done" in capsys.readouterr().out
    assert evaluate_workdir(workdir) == rows


def test_parts_that_do_not_fit_the_images_are_refused_before_anything_starts(tmp_path):
    """Before data are looked for and a folder is made."""
    data = DataConfig(root="/nowhere")
    for method, changes, message in (
        ("hctri", {"network.pool.stripes": 3}, "3 stripes do not divide the [0-9]+ rows of the last stage"),
        ("deen", {"data.image_size": (18, 18)}, "one of 9x9 has 81 positions, an odd number"),
    ):
        config = vary(small.tiny_method(method, data=data), {"data.image_size": (64, 32), **changes})
        with pytest.raises(BdfError, match=message):
            run(config, tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_sigterm_while_compiling_saves_and_exits_with_its_own_code(finished, tiny_config, tmp_path, capsys):
    """And a run with fewer steps than between two checkpoints saves the last."""
    workdir = tmp_path / "terminated"
    config = vary(tiny_config, {"training.checkpoint_every": 100})
    with subprocess.Popen(
        command_line(config, workdir), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_until((workdir / "metrics.jsonl").exists, process)  # written before the first step, which compiles
        process.terminate()
        _, error = process.communicate(timeout=240)
    if process.returncode == 0:
        pytest.fail("the run ended before the signal came")
    assert process.returncode == 75
    assert "the same command continues" in error
    assert "Traceback" not in error
    run(config, workdir)
    assert_same_run(finished[0], workdir)
    printed = capsys.readouterr()
    assert "1 checkpoint held the loop for " in printed.out + printed.err


def test_pmap_trains_to_the_same_network_up_to_rounding(finished, tiny_config, tmp_path):
    config = vary(tiny_config, {"training.compiler": "pmap"})
    run(config, tmp_path)
    for one, other in zip(lines(finished[0])[:2], lines(tmp_path)[:2], strict=True):
        np.testing.assert_allclose(one["loss"], other["loss"], rtol=1e-4)


def test_validation_keeps_the_best_checkpoint_and_evaluation_takes_it(tiny_config, tmp_path, capsys):
    config = vary(
        tiny_config,
        {"data.world.train_ids": 8, "data.train_split": "train", "data.identities": 4, "training.validate_every": 2},
    )
    run(config, tmp_path)
    printed = capsys.readouterr()
    scores = {
        int(line.split()[1].rstrip(":")): float(line.split()[3])
        for line in (printed.out + printed.err).splitlines()
        if "on the validation identities" in line
    }
    assert set(scores) == {2, 4, 6}
    best = max(scores, key=lambda step: scores[step])
    assert {int(step) for step in os.listdir(tmp_path / "checkpoints")} == {best, 4, 6}
    assert f"evaluating the checkpoint of step {best} " in printed.out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.identities": 7}, "P = 7 distinct identities, but the training split has 6"),
        ({"data.root": "/nowhere/at/all"}, "/nowhere/at/all"),
        ({"data.world.train_ids": 0}, "data.root is empty"),
    ],
)
def test_bad_input_is_an_error_before_anything_is_trained(tiny_config, tmp_path, changes, message):
    with pytest.raises(BdfError, match=message):
        run(vary(tiny_config, changes), tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_checkpoint_is_refused_on_other_splits(finished, tiny_config):
    workdir, _ = finished
    other = vary(tiny_config, {"data.world.seed": 5, "data.world.train_ids": 7})
    with pytest.raises(BdfError, match="trained on sysu_mm01 in the synthetic world"):
        evaluate_workdir(workdir, config=other)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_and_terms(tiny_config, tmp_path):
    config = vary(tiny_config, {"optimiser.learning_rate": 1e30, "optimiser.warmup_epochs": 0.0})
    with pytest.raises(BdfError, match=r"step \d: .*/.* = (nan|inf).* training stops, and the last checkpoint is kept"):
        run(config, tmp_path)
    steps = [line["step"] for line in lines(tmp_path)]
    assert steps == list(range(1, len(steps) + 1))
    assert not list((tmp_path / "checkpoints").glob("6"))


def test_exit_codes_are_those_that_scripts_rely_on(tmp_path):
    def train(*arguments):
        return subprocess.run(
            [sys.executable, "train.py", *arguments], capture_output=True, text=True, check=False, cwd=ROOT
        )

    unknown = train("--config=configs/demo.py", f"--workdir={tmp_path}", "--config.optimiser.learning_rat=1")
    assert unknown.returncode == 1
    assert "nearest: optimiser.learning_rate" in unknown.stderr
    impossible = train("--config=configs/demo.py", f"--workdir={tmp_path}", "--config.network.trunk.kind=ResNt")
    assert impossible.returncode == 1
    assert "nearest: ResNet" in impossible.stderr
    missing = train("--config=configs/nothing.py", f"--workdir={tmp_path}")
    assert missing.returncode == 1
    assert train("--config=configs/demo.py", "--wrokdir=x").returncode == 2
    for done in (unknown, impossible, missing):
        assert done.stderr.startswith("error: ")
        assert "Traceback" not in done.stderr
