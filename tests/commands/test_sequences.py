"""`python -m bdf_jax trials` and `ablation`: several runs, stopped, resumed, failing; and the tables over them."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bdf_jax.__main__ import main
from bdf_jax.checkpoints import load_metadata
from bdf_jax.commands.configuration import read_config
from bdf_jax.comparison.tables import markdown, spread
from bdf_jax.config import from_dict
from bdf_jax.errors import BdfError
from bdf_jax.training.workdir import claimed

ROOT = Path(__file__).parents[2]
METRICS = ("R1", "R5", "R10", "R20", "mAP", "mINP")
CONFIG = """
from bdf_jax.config import *
from bdf_jax.method import experiment
from bdf_jax.models.trunk import Tiny

def get_config(rate="1e-3"):
    return experiment(
        "{method}", "regdb",
        data=DataConfig(dataset="regdb", world=WorldConfig(train_ids=6, test_ids=4, images=2, size=(32, 16))),
        training=TrainingConfig(steps=40, log_every=1, checkpoint_every=1000, tensorboard=False),
        evaluation=EvaluationConfig(batch_size=16),
        replaces={
            "network.trunk": Tiny(), "data.image_size": (32, 16), "data.identities": 4, "data.images": 2,
            "optimiser.learning_rate": float(rate), "optimiser.warmup_epochs": 0.0,
        },
    )
"""


@pytest.fixture(scope="session")
def configs(tmp_path_factory):
    """Configuration files, and the flag that says where the world is."""
    home = tmp_path_factory.mktemp("sequences")
    (home / "both.py").write_text(CONFIG.replace("{method}", "base_derivative"))
    (home / "none.py").write_text(CONFIG.replace("{method}", "ablation_a"))
    (home / "broken.py").write_text("def get_config():\n    raise RuntimeError('half-edited')\n")
    return home, f"--config.data.dir={home / 'data'}"


@contextlib.contextmanager
def started(*arguments, log):
    command = [sys.executable, "-m", "bdf_jax", *arguments]
    with open(log, "a") as file, subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file) as process:
        try:
            yield process
            process.wait(timeout=300)
        finally:
            if process.poll() is None:
                process.kill()


def until(condition, process, log, seconds=400):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.01)


def steps(workdir):
    file = workdir / "metrics.jsonl"
    return [json.loads(line)["step"] for line in file.read_text().splitlines()] if file.exists() else []


def test_trials_that_are_stopped_in_every_way_end_with_the_mean_over_all_of_them(configs, tmp_path, capsys):
    home, data = configs
    workdir, log = tmp_path / "regdb", tmp_path / "log.txt"
    arguments = ["trials", f"--config={home / 'both.py'}", f"--workdir={workdir}", "--trials=3,1", data]

    with started(*arguments, log=log) as process:
        until(lambda: steps(workdir / "trial-1"), process, log)
        process.kill()
    # Its run notices, saves and makes room for the next.
    deadline = time.monotonic() + 60
    config = from_dict(json.loads((workdir / "trial-1" / "config.json").read_text()))
    while True:
        try:
            with claimed(workdir / "trial-1", config):
                break
        except BdfError:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
    assert list((workdir / "trial-1" / "checkpoints").iterdir())

    with started(*arguments, log=log) as process:
        until(lambda: steps(workdir / "trial-3"), process, log)
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 75, log.read_text()
    assert (workdir / "trial-1" / "result.json").exists()
    assert not (workdir / "trial-3" / "result.json").exists()
    assert list((workdir / "trial-3" / "checkpoints").iterdir())

    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "[1/2] trial 1: finished before" in printed
    for trial in (1, 3):
        assert steps(workdir / f"trial-{trial}") == list(range(1, 41))
        assert load_metadata(workdir / f"trial-{trial}").config.data.trial == trial

    rows = {
        trial: json.loads((workdir / f"trial-{trial}" / "result.json").read_text())["rows"]["base"] for trial in (1, 3)
    }
    summary = json.loads((workdir / "trials.json").read_text())["rows"]
    assert [row["direction"] for row in summary] == ["visible_to_thermal", "thermal_to_visible"]
    for row in summary:
        for metric in METRICS:
            values = [r[metric] for t in (1, 3) for r in rows[t] if r["direction"] == row["direction"]]
            assert len(values) == 2
            assert row[metric] == pytest.approx(np.mean(values))
            assert row[f"{metric}_std"] == pytest.approx(np.std(values, ddof=1))
            assert f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}" in printed

    # All done: nothing is trained again, and the table is the same.
    assert main([*arguments, f"--json={tmp_path / 'again.json'}"]) == 0
    assert json.loads((tmp_path / "again.json").read_text())["rows"] == summary
    assert "[2/2] trial 3: finished before" in capsys.readouterr().out


def test_an_ablation_survives_ctrl_c_and_a_run_that_fails(configs, tmp_path, capfd):
    home, data = configs
    workdir, log = tmp_path / "table", tmp_path / "log.txt"
    files = ",".join(str(home / name) for name in ("both.py:1e30", "none.py"))
    arguments = [
        "ablation",
        f"--configs={files}",
        "--seeds=5",
        f"--workdir={workdir}",
        data,
        "--config.training.steps=12",
    ]
    with started(*arguments, log=log) as process:
        until(lambda: steps(workdir / "none-seed5"), process, log)
        process.send_signal(signal.SIGINT)
    assert process.returncode == 130, log.read_text()
    assert "Traceback" not in log.read_text()

    assert main(arguments) == 1
    printed = capfd.readouterr()
    assert "both:1e30, seed 5 ended with code 1" in printed.err
    assert "training stops, and the last checkpoint is kept" in printed.err
    found = json.loads((workdir / "none-seed5" / "result.json").read_text())["rows"]
    assert set(found) == {"base"}
    table = (workdir / "ablation.md").read_text()
    assert table in printed.out
    assert f"| none | 1 | {found['base'][0]['mAP']:.1f} |" in table
    assert "| both:1e30 | 0 |" in table
    (run,) = json.loads((workdir / "ablation.json").read_text())["runs"]
    assert (run["row"], run["seed"], run["use"], run["mAP"]) == ("none", 5, "base", found["base"][0]["mAP"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.losses.mdl.weigth=3"], "no field 'losses.mdl.weigth'; nearest: losses.mdl.weight"),
        (["--config.loss.mdl_weight=3"], "no field 'loss.mdl_weight' any more; it is losses.mdl.weight now"),
        (
            ["--config.network.trunk.kind=ResNt"],
            "ResNet, Tiny, MobileNetV2, Prototypes, found 'ResNt'; nearest: ResNet",
        ),
        (["--config.training.steps=many"], "training.steps"),
        (["--config.training.steps"], "expected --config.SECTION.FIELD=VALUE"),
    ],
)
@pytest.mark.parametrize("command", ["trials", "ablation"])
def test_an_override_is_checked_before_anything_starts(configs, tmp_path, capsys, command, flags, message):
    home, _ = configs
    file = f"--config={home / 'both.py'}" if command == "trials" else f"--configs={home / 'both.py'}"
    assert main([command, file, f"--workdir={tmp_path / 'w'}", *flags]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "w").exists()


def test_what_makes_no_sense_is_refused_before_anything_starts(configs, tmp_path, capsys):
    home, _ = configs
    both, work = home / "both.py", f"--workdir={tmp_path / 'w'}"

    def refusal(*arguments):
        assert main(list(arguments)) == 1
        assert not (tmp_path / "w").exists()
        return capsys.readouterr().err

    assert "only RegDB has fixed trials" in refusal(
        "trials", f"--config={both}", work, "--config.data.dataset=sysu_mm01"
    )
    nowhere = f"--config.data.root={tmp_path / 'nowhere'}"
    assert refusal("trials", f"--config={both}", work, nowhere).count("no such folder") == 1  # not once a trial
    assert "choose with --trials" in refusal("trials", f"--config={both}", work, "--config.data.trial=3")
    assert "expected numbers from 1 to 10" in refusal("trials", f"--config={both}", work, "--trials=0,1")
    assert "no such file" in refusal("trials", f"--config={home / 'nothing.py'}", work)
    assert "the configuration file failed: RuntimeError: half-edited" in refusal(
        "trials", f"--config={home / 'broken.py'}", work
    )
    assert "choose with --seeds" in refusal("ablation", f"--configs={both}", work, "--config.training.seed=3")
    assert "--seeds: expected numbers" in refusal("ablation", f"--configs={both}", work, "--seeds=a")
    assert "files of different names" in refusal("ablation", f"--configs={both},{both}", work)
    with pytest.raises(SystemExit) as exit_code:
        main(["trials", f"--config={both}", work, "--trails=1"])
    assert exit_code.value.code == 2
    assert "unrecognized arguments: --trails=1" in capsys.readouterr().err


def test_a_folder_of_another_run_is_refused_before_anything_starts(configs, tmp_path, capsys):
    home, data = configs
    config = read_config(str(home / "both.py"), ["--config.data.trial=2", "--config.losses.mdl.weight=0.7"])
    with claimed(tmp_path / "trial-2", config):
        pass
    assert main(["trials", f"--config={home / 'both.py'}", f"--workdir={tmp_path}", data]) == 1
    assert "losses.mdl.weight: 0.7 there, 0.1 now" in capsys.readouterr().err
    assert not steps(tmp_path / "trial-1")


def test_the_projects_own_configurations_can_be_read_from_anywhere(tmp_path):
    script = (
        "from bdf_jax.commands.configuration import read_config\n"
        f"config = read_config('{ROOT}/configs/demo.py:ablation_a', ['--config.data.image_size=(32,16)'])\n"
        "assert config == read_config('demo:ablation_a', ['--config.data.image_size=32,16'])\n"
        "print(config.losses.mdl.edges, config.data.image_size)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"},
    )  # fmt: skip
    assert done.stdout.strip() == "V<>I (32, 16)"


def test_tables_are_markdown():
    assert spread([2.0]) == "2.00"
    assert spread([1.0, 3.0]) == f"2.00 ± {np.std([1, 3], ddof=1):.2f}"
    assert markdown(["row", "x"], [["a|b", "1"]]).splitlines() == ["| row | x |", "| --- | ---: |", "| a\\|b | 1 |"]
