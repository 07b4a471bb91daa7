"""The work folder: one owner, one configuration, every step once."""

import json
import subprocess
import sys

import jax.numpy as jnp
import pytest

from bdf_jax.checkpoints import Checkpoints, Metadata
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
    other = vary(Config(), {"optimiser.decay": 1.0, "data.images": 8})
    with (
        pytest.raises(BdfError, match=r"data.images: 4 there, 8 now\n  optimiser.decay: 0.1 there, 1.0 now"),
        claimed(tmp_path, other),
    ):
        pass


@pytest.mark.parametrize(
    "changes",
    [
        {"data.dir": "elsewhere", "data.workers": 2},
        {"training.compiler": "pmap", "training.checkpoint_every": 7},
        {"retrieve.flip_tta": True, "evaluation.batch_size": 3},
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


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(BdfError, match=r"run: expected a folder, found a file"), claimed(tmp_path / "run", Config()):
        pass
    assert (tmp_path / "run").read_text() == "mine"


@pytest.mark.parametrize("name", ["metrics.jsonl", "events.out.tfevents.1.host", "checkpoints/12/arrays"])
def test_a_folder_of_another_program_is_refused_before_anything_in_it_is_cut_or_cleaned_up(tmp_path, name):
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text('{"step": 7, "loss": 0.5}\n')
    (tmp_path / ".lock").write_text("another program's")
    shown = "checkpoints/12" if "/" in name else name
    said = rf"expected a new folder or that of a run, found {shown} and no config.json"
    with pytest.raises(BdfError, match=said), claimed(tmp_path, Config()):
        pass
    assert file.read_text() == '{"step": 7, "loss": 0.5}\n'
    assert (tmp_path / ".lock").read_text() == "another program's"
    assert not (tmp_path / "config.json").exists()


@pytest.fixture
def begun(tmp_path):
    """A folder with a checkpoint of step 5 of another than the default configuration."""
    config = vary(Config(), {"optimiser.learning_rate": 0.25})
    with claimed(tmp_path, config):
        checkpoints = Checkpoints(tmp_path)
        state = {"params": {"w": jnp.ones(3)}, "batch_stats": {}}
        checkpoints.save(5, state, Metadata(config, "abc", 7))
        checkpoints.close()
    return tmp_path, config


@pytest.mark.parametrize("damage", [None, b"", b'{"data": {"ident', b"\xff\x00garbage", b"[1, 2]", b'{"colour": 1}'])
def test_without_its_config_file_a_folder_still_belongs_to_the_configuration_of_its_checkpoint(begun, damage, caplog):
    folder, config = begun
    file = folder / "config.json"
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage)
    with pytest.raises(BdfError, match=r"learning_rate: 0.25 there, 0.00035 now"), claimed(folder, Config()):
        pass
    assert "the configuration of the checkpoint of step 5 counts" in caplog.text
    with claimed(folder, config):
        assert json.loads(file.read_text())["optimiser"]["learning_rate"] == 0.25
    if damage is not None:
        assert (folder / "damaged-config.json").read_bytes() == damage


def test_a_strange_config_file_without_checkpoints_is_neither_believed_nor_touched(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["BertModel"]}')
    with pytest.raises(BdfError, match=r"config.json: not the configuration of a run"), claimed(tmp_path, Config()):
        pass
    assert "BertModel" in (tmp_path / "config.json").read_text()


def test_a_folder_that_cannot_be_written_is_an_error_and_nothing_happens_to_it(tmp_path):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(BdfError, match=r"config.json: cannot be read or written"), claimed(tmp_path, Config()):
        pass
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(BdfError, match=r"metrics.jsonl: cannot be written: .*nothing was lost"):
        MetricsFile(tmp_path / "metrics.jsonl", 0)


@pytest.mark.parametrize(
    "garbage", [b"\xff\xfe\x00\x80\n", b'{"step": 2, "lo\n', b"[]\n", b"\n", b'{"loss": 1.0}\n', b'{"step": null}\n']
)
def test_lines_that_cannot_be_read_are_left_out_and_the_file_is_kept_as_it_was(tmp_path, garbage, caplog):
    path = tmp_path / "metrics.jsonl"
    good = [json.dumps({"step": step, "loss": 0.5}).encode() + b"\n" for step in (1, 2, 3, 4)]
    damaged = good[0] + good[1] + garbage + good[1] + b"".join(good[2:])
    path.write_bytes(damaged)
    MetricsFile(path, 3).close()
    assert path.read_bytes() == b"".join(good[:3])  # every step once, and none after the checkpoint
    assert (tmp_path / "damaged-metrics.jsonl").read_bytes() == damaged
    assert "metrics.jsonl: 1 lines cannot be read and are left out" in caplog.text


def test_a_metrics_file_that_was_deleted_is_missed_and_goes_on(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path, 4)
    assert "the first lines are gone, although 4 steps are done" in caplog.text
    file.write(5, {"loss": 1.0})
    file.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [5]


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
