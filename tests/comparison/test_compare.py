"""`python -m bdf_jax compare`: rows x seeds, killed, continued, failing; and what it says of the finished ones."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bdf_jax.__main__ import main
from bdf_jax.evaluation.feature_file import load_features
from bdf_jax.evaluation.ranking import Measured
from bdf_jax.evaluation.statistics import METRICS, bootstrap, compare_runs

ROOT = Path(__file__).parents[2]
CONFIG = """
from bdf_jax.config import *
from bdf_jax.method import experiment
from bdf_jax.models.trunk import Tiny

def get_config(method="base_derivative"):
    return experiment(
        method, "demo",
        data=DataConfig(world=WorldConfig(train_ids=6, test_ids=4, images=2, size=(32, 16))),
        training=TrainingConfig(steps=6, log_every=1, checkpoint_every=1000, tensorboard=False),
        evaluation=EvaluationConfig(batch_size=16, baselines=True),
        replaces={
            "network.trunk": Tiny(), "data.image_size": (32, 16), "data.identities": 2, "data.images": 2,
            "optimiser.warmup_epochs": 0.0,
        },
    )
"""
OWN = """
from bdf_jax.config import vary
from small_world import get_config as of_world

def get_config():
    return vary(of_world("ablation_a"), {"optimiser.learning_rate": 1e30})
"""


def measured(rng, queries=40, trials=2):
    ranks = rng.integers(0, 12, (trials, queries)).astype(np.int32)
    values = rng.random((2, trials, queries))
    return [Measured(values[0], values[1], ranks, np.ones((trials, queries), bool))]


def test_a_difference_over_seeds_is_the_difference_of_means_with_one_draw_for_all():
    rng = np.random.default_rng(0)
    runs, others = [measured(rng) for _ in range(3)], [measured(rng) for _ in range(2)]
    for k, found in enumerate(compare_runs(runs, others)):
        draws = []
        for side in (runs, others):
            total = 0
            for run in side:
                total = total + bootstrap(run)[:, k]
            draws.append(total / len(side))
        low, high = np.percentile(draws[0] - draws[1], [2.5, 97.5])
        assert found["metric"] == METRICS[k]
        assert found["ci"] == pytest.approx([low, high])
        assert found["clear"] == (low > 0 or high < 0)
    assert all(c["difference"] == 0 and c["ci"] == [0, 0] and not c["clear"] for c in compare_runs(runs, runs))


@contextlib.contextmanager
def started(arguments, log):
    with (
        log.open("a") as file,
        subprocess.Popen([sys.executable, "-m", "bdf_jax", *arguments], cwd=ROOT, stdout=file, stderr=file) as process,
    ):
        try:
            yield process
            process.wait(timeout=300)
        finally:
            process.kill()


@pytest.mark.long
def test_a_comparison_that_is_stopped_and_has_a_row_that_fails_ends_with_all_that_can_be_said(tmp_path, capfd):
    (tmp_path / "small_world.py").write_text(CONFIG)
    (tmp_path / "broken.py").write_text(OWN)
    workdir, log = tmp_path / "compared", tmp_path / "log.txt"
    arguments = [
        "compare", f"--config={tmp_path / 'small_world.py'}", f"--methods=xiv,{tmp_path / 'broken.py'},ablation_a",
        "--reference=ablation_a", "--seeds=0,3", f"--workdir={workdir}", "--equal-time",
        f"--config.data.dir={tmp_path / 'data'}",
    ]  # fmt: skip
    with started(arguments, log) as process:
        deadline = time.monotonic() + 300
        while not (workdir / "xiv-seed0" / "result.json").exists():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 75, log.read_text()
    early = json.loads((workdir / "comparison.json").read_text())
    assert [row["name"] for row in early["rows"]] == ["xiv"]
    assert "ablation_a, seed 0" in early["missing"]

    assert main(arguments) == 1
    printed = capfd.readouterr()
    assert "xiv, seed 0: finished before" in printed.out
    assert "broken, seed 0 ended with code 1" in printed.err
    found = json.loads((workdir / "comparison.json").read_text())
    names = [row["name"] for row in found["rows"]]
    assert names[:2] == ["xiv", "ablation_a"]
    assert set(names[2:]) <= {"xiv, equal time"}
    assert {"broken, seed 0", "broken, seed 3"} <= set(found["missing"])
    for row in found["rows"][:2]:
        for p, protocol in enumerate(found["protocols"]):
            values = [
                next(r for r in json.loads(path.read_text())["rows"]["base"] if r["mode"] == protocol["mode"])["mAP"]
                for path in sorted(workdir.glob(f"{row['name']}-seed?/result.json"))
            ]
            result = row["results"][p]["mAP"]
            assert result["values"] == values
            assert result["mean"] == pytest.approx(np.mean(values))
            assert result["std"] == pytest.approx(np.std(values, ddof=1))
            assert ("against" in row["results"][p]) == (row["name"] == "xiv")
        assert row["cost"]["seconds"] > 0
        assert row["cost"]["memory"] > 4 * 4 * row["cost"]["parameters"]  # parameters, gradients, Adam's two averages
    assert [row["name"] for row in found["baselines"]] == ["edges", "raw_pixels", "chance"]
    assert load_features(workdir / "xiv-seed0" / "features.npz").features_ND.shape[0] > 8

    table = (workdir / "comparison.md").read_text()
    assert f"{found['rows'][0]['results'][0]['mAP']['mean']:.2f} ±" in table
    assert "| 50.73 |" in table
    page = (workdir / "comparison.html").read_text()
    assert page.count("data:image/png") > 2 * 3
    assert "http" not in page.replace("http-equiv", "")
    assert "Not finished: broken, seed 0" in page


def test_what_makes_no_sense_is_refused_before_anything_starts(tmp_path, capsys):
    (tmp_path / "small_world.py").write_text(CONFIG)
    config, work = f"--config={tmp_path / 'small_world.py'}", f"--workdir={tmp_path / 'w'}"

    def refusal(*arguments):
        assert main(["compare", *arguments]) == 1
        assert not (tmp_path / "w").exists()
        return capsys.readouterr().err

    assert "--workdir is missing" in refusal(config)
    assert "nearest: xiv" in refusal(config, work, "--methods=xvi")
    assert "name the file alone" in refusal(config + ":xiv", work)
    assert "expected one of the rows, xiv" in refusal(config, work, "--methods=xiv", "--reference=agw")
    assert "choose with --seeds" in refusal(config, work, "--config.training.seed=1")
    (tmp_path / "elsewhere.py").write_text(
        "from bdf_jax.config import vary\nfrom small_world import get_config as of_world\n\n"
        "def get_config():\n    return vary(of_world(), {'data.world.seed': 5})\n"
    )
    assert "compared on the same images, but data.world is" in refusal(
        config, work, f"--methods=xiv,{tmp_path / 'elsewhere.py'}"
    )
    assert "equal time needs the length in steps" in refusal(
        config, work, "--methods=xiv", "--equal-time", "--config.training.steps=0"
    )
