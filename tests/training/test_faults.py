"""What goes wrong outside the program: what its user sees, and that nothing is lost.

Each test ends with the same command started again and a run that is bit for bit the one that nothing happened to.
"""

import dataclasses
import itertools
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import pytest
from whole_runs import ROOT, assert_same_run, assert_same_state, command_line, lines

from bdf_jax.checkpoints import load_state
from bdf_jax.config import vary
from bdf_jax.data.dataset import open_dataset
from bdf_jax.errors import BdfError
from bdf_jax.evaluation.workdir import evaluate_workdir
from bdf_jax.training import loop
from bdf_jax.training.loop import run
from bdf_jax.training.preemption import Preempted, preemptible

sys.path.insert(0, str(ROOT / "benchmarks"))
import kills


@pytest.fixture(scope="module")
def config(tiny_config):
    """Without pictures of the derivatives, which cost more than a run of six steps."""
    return vary(tiny_config, {"training.tensorboard": False})


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    """A run that nothing happened to."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    run(config, workdir)
    return workdir


@pytest.fixture
def workdir(finished, tmp_path):
    """A copy of it, to be damaged."""
    return shutil.copytree(finished, tmp_path / "run")


def signalled_while_saving(monkeypatch, number, at_step, times=1):
    """Sends this process a real signal when the checkpoint of a step has just begun to be written."""
    save = loop.Checkpoints.save

    def save_and_signal(self, step, *arguments):
        save(self, step, *arguments)
        if step == at_step:
            for _ in range(times):
                os.kill(os.getpid(), number)

    monkeypatch.setattr(loop.Checkpoints, "save", save_and_signal)


# Ended from outside


@pytest.mark.long
def test_a_run_killed_at_random_moments_ends_bit_identical(finished, config, tmp_path):
    """Three kills, the first while a checkpoint is written; `benchmarks/kills.py` makes twenty, decoders included."""
    killed = kills.Run(tmp_path / "run", config.training.steps, command_line(config, tmp_path / "run"))
    rng, fell_in = random.Random(0), []
    for aim in ("saving", "anywhere", "training"):
        row = kills.kill(killed, aim, rng, seconds=8.0)
        fell_in.append(row["fell_in"] if row else "came to its end first")
    assert fell_in[0].startswith("saving step"), fell_in
    assert killed.left_behind() == 0
    run(config, tmp_path / "run")
    assert_same_run(finished, tmp_path / "run")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_saving_even_twice_saves_and_asks_to_be_started_again(
    finished, config, tmp_path, monkeypatch, number
):
    before = signal.signal(number, signal.SIG_DFL)  # these tests may run under nohup
    with monkeypatch.context() as patch:
        signalled_while_saving(patch, number, at_step=2, times=2)
        what = f"{number.name} at step 3 of 6: saved; the same command continues"
        with pytest.raises(Preempted, match=what) as stopped:
            run(config, tmp_path)
    signal.signal(number, before)
    assert stopped.value.exit_code == 75
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["2", "3"]
    run(config, tmp_path)
    assert_same_run(finished, tmp_path)


def test_sigterm_during_evaluation_asks_to_be_started_again_too(finished, config, workdir):
    """A real process; the run is trained, and the signal comes twice in a row."""
    with subprocess.Popen(
        command_line(config, workdir), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    ) as process:  # fmt: skip
        while "evaluating the checkpoint" not in process.stdout.readline():
            assert process.poll() is None
        process.terminate()
        process.terminate()  # as some schedulers do
        _, error = process.communicate(timeout=240)
    assert process.returncode == 75, error
    assert "error: SIGTERM while nothing was being trained: the checkpoints are as they were" in error
    assert "Traceback" not in error
    assert_same_run(finished, workdir)


def test_ctrl_c_while_saving_ends_the_run_and_the_checkpoint_is_whole(finished, config, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        signalled_while_saving(patch, signal.SIGINT, at_step=4)
        with pytest.raises(KeyboardInterrupt, match="the checkpoint of step 4 is kept; the same command continues"):
            run(config, tmp_path)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["2", "4"]
    assert_same_state(load_state(finished, 4), load_state(tmp_path))


def test_ctrl_c_while_compiling_exits_130(config, tmp_path):
    workdir = tmp_path / "run"
    with subprocess.Popen(
        command_line(config, workdir), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        error = ""
        while "?step/s" not in error:  # the bar of the steps, drawn before the first, which compiles
            error += process.stderr.readline(1)
            assert process.poll() is None, error
        process.send_signal(signal.SIGINT)
        error += process.communicate(timeout=240)[1]
    assert process.returncode == 130, error
    assert "interrupted: before the first checkpoint, so nothing is kept" in error
    assert "Traceback" not in error
    assert lines(workdir) == []
    assert os.listdir(workdir / "checkpoints") == []


def test_a_ctrl_c_that_a_callback_swallows_comes_again():
    """As in JAX's callback for garbage collection, out of which no exception comes."""

    class Swallows:
        def __del__(self):
            raise KeyboardInterrupt

    def work():
        Swallows()
        time.sleep(30)

    with pytest.raises(KeyboardInterrupt), preemptible():
        work()


def test_a_reader_that_leaves_does_not_end_the_run(finished, config, tmp_path):
    """As `python train.py | head -1`: the run is not over, so it goes on; nothing of it is lost."""
    with subprocess.Popen(
        command_line(config, tmp_path / "run"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline().startswith("sysu_mm01 in ")
        process.stdout.close()
        error = process.stderr.read()
        process.wait(timeout=240)
    assert process.returncode == 0, error
    assert "Traceback" not in error
    assert_same_run(finished, tmp_path / "run")


def test_what_evaluation_found_is_in_its_file_before_it_is_printed(config, workdir, tmp_path, monkeypatch):
    def fails(rows):
        raise UnicodeEncodeError("ascii", "±", 0, 1, "a console that cannot write it")

    monkeypatch.setattr("bdf_jax.evaluation.workdir.print_table", fails)
    with pytest.raises(UnicodeEncodeError):
        evaluate_workdir(workdir, config=config, rows_file=tmp_path / "rows.json")
    assert json.loads((tmp_path / "rows.json").read_text())[0]["model"] == "trained"


# Numbers


def test_a_loss_that_becomes_nan_stops_the_run_and_the_good_checkpoint_stays(finished, config, tmp_path, monkeypatch):
    """At a step after which a checkpoint is due, and that would not be looked at for a while otherwise."""
    compile_step = loop.compile_step

    def poisoned(*arguments):
        compiled = compile_step(*arguments)

        def take(state, *batch):
            state, metrics = compiled.step(state, *batch)
            if int(state.step) == 4:
                nan = jnp.float32("nan")
                metrics = metrics | {"mml/I": nan, "mml": nan, "loss": nan}
                state = state.replace(params=jax.tree.map(lambda leaf: leaf * nan, state.params))
            return state, metrics

        return dataclasses.replace(compiled, step=take)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "compile_step", poisoned)
        with pytest.raises(
            BdfError, match=r"^step 4: mml/I = nan; training stops, and the last checkpoint is kept"
        ) as e:
            run(vary(config, {"training.log_every": 3}), tmp_path)
    assert e.value.exit_code == 1
    assert os.listdir(tmp_path / "checkpoints") == ["2"]
    run(vary(config, {"training.log_every": 3}), tmp_path)
    assert_same_state(load_state(finished), load_state(tmp_path))
    assert [line["step"] for line in lines(tmp_path)] == [1, 3, 6]


# Disks


def test_a_full_disk_names_the_folder_and_keeps_the_checkpoint_before(finished, config, tmp_path, monkeypatch):
    """A limit on the size of files stands in for the disk: writing fails as on a full one."""
    save, (_, most) = loop.Checkpoints.save, resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited(self, step, *arguments):
        if step == 4:
            self.wait()
            resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, most))
        save(self, step, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Checkpoints, "save", limited)
        try:
            with pytest.raises(
                BdfError, match=r"the checkpoint of step 4 could not be saved: .*; the checkpoint of step 2 "
            ):
                run(config, tmp_path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    run(config, tmp_path)  # there is room again
    assert_same_run(finished, tmp_path)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["4", "6"]  # no leftovers


def test_a_finished_run_whose_last_checkpoint_is_cut_goes_back_and_ends_the_same(
    finished, config, workdir, caplog, capsys
):
    """`tests/test_checkpoints.py` damages every file of a checkpoint in turn."""
    largest = max((workdir / "checkpoints" / "6").rglob("d/*"), key=lambda file: file.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:1000])
    run(config, workdir)
    assert "checkpoint of step 6 cannot be read and is passed over: state/" in caplog.text
    assert (workdir / "damaged-checkpoint-6").is_dir()
    assert "continuing from step 4 of 6" in capsys.readouterr().out
    assert_same_run(finished, workdir)


def test_a_run_whose_checkpoints_are_all_damaged_changes_nothing(config, workdir):
    for file in (workdir / "checkpoints").rglob("_CHECKPOINT_METADATA"):
        file.unlink()
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file() and path.name != ".lock"}
    with pytest.raises(BdfError, match=r"no checkpoint can be read \(step 4: .*; step 6: .*\); nothing was changed"):
        run(config, workdir)
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_work_folder_without_permission_is_named(tmp_path):
    """As another user where the tests are run by root, who may do anything."""
    script = (
        "import sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from bdf_jax import errors, checkpoints, config\n"
        "from bdf_jax.training.workdir import claimed\n"
        "import os\n"
        "if os.getuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "try:\n"
        "    with claimed(sys.argv[2], config.Config()): pass\n"
        "except errors.BdfError as error: print(error)\n"
        "try: checkpoints.load_variables(sys.argv[2])\n"
        "except errors.BdfError as error: print(error)\n"
    )
    locked = tmp_path / "locked"
    (locked / "run" / "checkpoints").mkdir(parents=True)
    locked.chmod(0)
    try:
        done = subprocess.run(
            [sys.executable, "-c", script, str(ROOT), str(locked / "run")], capture_output=True, text=True, check=False
        )
    finally:
        locked.chmod(0o700)
    assert done.returncode == 0, done.stderr
    training, evaluation = done.stdout.splitlines()
    assert f"--workdir={locked / 'run'}: cannot write into this folder: [Errno 13]" in training
    assert f"{locked / 'run'}: cannot be read: " in evaluation


def test_two_runs_started_at_the_same_instant_one_gets_the_folder(tmp_path):
    script = (
        "import pathlib, sys, time; from bdf_jax.config import Config; from bdf_jax.errors import BdfError\n"
        "from bdf_jax.training.workdir import claimed\n"
        "print('ready', flush=True)\n"
        "while not pathlib.Path(sys.argv[2]).exists(): pass\n"
        "try:\n"
        "    with claimed(sys.argv[1], Config()): print('has it', flush=True); sys.stdin.read()\n"
        "except BdfError as error: print(error, flush=True)\n"
    )
    go = tmp_path / "go"
    command = [sys.executable, "-c", script, str(tmp_path / "run"), str(go)]
    pipe = subprocess.PIPE
    started = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT) for _ in range(3)]
    assert [process.stdout.readline() for process in started] == ["ready\n"] * 3
    go.touch()
    said = [process.stdout.readline() for process in started]
    for process in started:
        process.communicate(timeout=60)
    assert said.count("has it\n") == 1, said
    refused = [line for line in said if line != "has it\n"]
    assert all("another run is using this folder; wait for it to end, stop it, or name another" in r for r in refused)
    assert json.loads((tmp_path / "run" / "config.json").read_text())


def test_a_start_that_was_refused_leaves_the_folder_free_for_other_settings(config, tmp_path):
    """The data are not there, or the pretrained weights; what has trained a step belongs to its settings."""
    nowhere = {"data.root": str(tmp_path / "nowhere"), "training.seed": 5}
    for wrong, named in (
        (nowhere, "nowhere"),
        (nowhere | {"network.pretrained": "no.pth"}, "no.pth: there is no such"),
    ):
        with pytest.raises(BdfError, match=named):  # weights before data, which may take long
            run(vary(config, wrong), tmp_path / "run")
        assert not (tmp_path / "run" / "config.json").exists()
    run(config, tmp_path / "run")
    with pytest.raises(BdfError, match="another configuration"):
        run(vary(config, {"training.seed": 5}), tmp_path / "run")


# Data


def test_a_byte_of_the_records_that_changes_is_an_error_or_changes_no_image(config, tmp_path):
    """A record file after preparation with one byte changed, forty times; the images are read with their checksums."""
    data = tmp_path / "data"  # not a copy of the shared one, which may hold records of other settings too
    copied = dataclasses.replace(config.data, dir=str(data))
    whole = open_dataset(copied).train
    expected = [whole.encoded(row) for row in range(len(whole))]
    record = max((data / "prepared").rglob("*train*array_record*"), key=lambda file: file.stat().st_size)
    good, rng, errors = record.read_bytes(), random.Random(0), []
    for _ in range(40):
        place = rng.randrange(len(good))
        record.write_bytes(good[:place] + bytes([good[place] ^ (1 << rng.randrange(8))]) + good[place + 1 :])
        damaged = open_dataset(copied).train
        for row, image in enumerate(expected):
            try:
                assert damaged.encoded(row) == image
            except BdfError as error:
                errors.append(str(error))
    assert len(errors) >= 5  # the other bytes are of records that training does not read, or padding
    for message in errors:
        assert "the record of image " in message
        assert message.endswith("Delete that folder; the next run prepares it again from the tree.")


def test_a_record_file_cut_or_deleted_names_an_image_and_the_run_starts_once_it_is_mended(config, tmp_path):
    data = tmp_path / "data"  # not a copy of the shared one, which may hold records of other settings too
    moved = vary(config, {"data.dir": str(data)})
    open_dataset(moved.data)
    (index,) = (data / "prepared").rglob("index.npz")
    for damage in (lambda file: file.write_bytes(file.read_bytes()[:-2000]), lambda file: file.unlink()):
        for record in index.parent.glob("*array_record*"):
            damage(record)
        with pytest.raises(
            BdfError, match=r"the record of image .*\.jpg holds .* Delete that folder; the next"
        ) as error:
            run(moved, tmp_path / "run")
        assert str(index.parent) in str(error.value)
        assert os.listdir(tmp_path / "run" / "checkpoints") == []
    shutil.rmtree(index.parent)
    split, expected = open_dataset(moved.data).train, open_dataset(config.data).train
    assert [split.encoded(row) for row in range(len(split))] == [expected.encoded(row) for row in range(len(split))]


def test_a_killed_decoding_process_stops_the_run_which_then_continues(config, tmp_path):
    config = vary(config, {"training.steps": 30, "training.checkpoint_every": 3, "data.workers": 1})

    def kill_when_training() -> None:
        while not (tmp_path / "checkpoints" / "3").is_dir():
            time.sleep(0.001)
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_when_training)
    killer.start()
    with pytest.raises(
        BdfError, match=r"a decoding process died: .*-9.* Start the same command again to continue from"
    ):
        run(config, tmp_path)
    killer.join()
    reached = [line["step"] for line in lines(tmp_path)]
    assert reached == list(range(1, len(reached) + 1))
    assert 3 <= len(reached) < 30
    run(vary(config, {"data.workers": 0}), tmp_path)
    assert [line["step"] for line in lines(tmp_path)] == list(range(1, 31))


# Time


def test_a_clock_that_runs_backwards_changes_nothing(finished, config, workdir, monkeypatch):
    """Each look at the clock is a day earlier than the one before, and what lies on the disk is from the future."""
    shutil.rmtree(workdir / "checkpoints" / "6")
    for path in workdir.rglob("*"):
        os.utime(path, (4e9, 4e9))
    clock, looks = time.time, itertools.count()
    monkeypatch.setattr(time, "time", lambda: clock() - 86_400 * next(looks))
    run(vary(config, {"training.checkpoint_every": 1}), workdir)
    assert_same_run(finished, workdir)
    assert sorted(os.listdir(workdir / "checkpoints")) == ["5", "6"]  # the last two by their steps
