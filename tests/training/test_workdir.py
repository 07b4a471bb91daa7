"""The work folder: one owner, one configuration, every step once."""

import json
import subprocess
import sys

import pytest

from bdf_jax.config import Config, vary
from bdf_jax.errors import BdfError
from bdf_jax.training.workdir import MetricsFile, claimed


def test_a_folder_is_made_and_can_be_claimed_again(tmp_path):
    for _ in range(2):
        with claimed(tmp_path / "a" / "b", Config()) as folder:
            assert json.loads((folder / "config.json").read_text())["data"]["identities"] == 12


def test_another_configuration_is_refused_with_the_fields_that_differ(tmp_path):
    with claimed(tmp_path, Config()):
        pass
    other = vary(Config(), {"loss.mdl_weight": 1.0, "data.images": 8})
    with (
        pytest.raises(BdfError, match=r"data.images: 4 there, 8 now\n  loss.mdl_weight: 0.1 there, 1.0 now"),
        claimed(tmp_path, other),
    ):
        pass


@pytest.mark.parametrize(
    "changes",
    [
        {"data.dir": "elsewhere", "data.workers": 2},
        {"training.compiler": "pmap", "training.checkpoint_every": 7},
        {"evaluation.use": "sum4", "evaluation.batch_size": 3},
    ],
)
def test_what_does_not_change_the_numbers_may_differ(tmp_path, changes):
    for config in (Config(), vary(Config(), changes)):
        with claimed(tmp_path, config):
            pass


def test_a_second_process_is_refused_while_the_first_runs_and_not_after_it_was_killed(tmp_path):
    hold = (
        "import sys, time; from bdf_jax.config import Config; from bdf_jax.training.workdir import claimed\n"
        "with claimed(sys.argv[1], Config()): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BdfError, match="another run is using this folder"), claimed(tmp_path, Config()):
            pass
        holder.kill()
        holder.wait()
        with claimed(tmp_path, Config()):
            pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(BdfError, match=r"file/run: cannot write into this folder"),
        claimed(tmp_path / "file" / "run", Config()),
    ):
        pass


def test_metrics_after_the_checkpoint_and_cut_lines_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    first = MetricsFile(path, 0)
    for step in range(1, 6):
        first.write(step, {"loss": 1.0 / step})
    first.close()
    with path.open("a") as file:
        file.write('{"step": 6, "lo')  # the process was killed here
    second = MetricsFile(path, 3)
    second.write(4, {"loss": 0.0})
    second.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3, 4]
