"""What goes wrong outside the program: what its user sees, and that nothing is lost.

Each test ends with the same command started again and a run that is bit for bit the one that nothing happened to.
"""

import dataclasses
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import jax.numpy as jnp
import pytest
from whole_runs import ROOT, assert_same_run, command_line, lines, wait_until

from bdf_jax.config import to_dict, vary
from bdf_jax.data.dataset import open_dataset
from bdf_jax.errors import BdfError
from bdf_jax.training import loop
from bdf_jax.training.loop import run
from bdf_jax.training.preemption import Preempted

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


def test_a_run_killed_at_random_moments_ends_bit_identical(finished, config, tmp_path):
    """Three kills, the first while a checkpoint is written; `benchmarks/kills.py` makes twenty, decoders included."""
    killed = kills.Run(tmp_path / "run", config.training.steps, command_line(config, tmp_path / "run"))
    rng, fell_in = random.Random(0), []
    for aim in ("saving", "anywhere", "training"):
        row = kills.kill(killed, aim, rng, seconds=8.0)
        fell_in.append(row["fell_in"] if row else "came to its end first")
        assert row is None or not row["left_behind"]
    assert fell_in[0].startswith("saving step"), fell_in
    run(config, tmp_path / "run")
    assert_same_run(finished, tmp_path / "run")


def test_sigterm_while_saving_even_twice_saves_and_asks_to_be_started_again(finished, config, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        signalled_while_saving(patch, signal.SIGTERM, at_step=2, times=2)
        with pytest.raises(Preempted, match="SIGTERM at step 3 of 6: saved; the same command continues") as stopped:
            run(config, tmp_path)
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
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["2", "4"]
    run(config, tmp_path)
    assert_same_run(finished, tmp_path)


def test_ctrl_c_while_compiling_exits_130(finished, config, tmp_path):
    workdir = tmp_path / "run"
    with subprocess.Popen(
        command_line(config, workdir), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_until((workdir / "metrics.jsonl").exists, process)  # written before the first step, which compiles
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=240)
    assert process.returncode == 130, error
    assert error.rstrip().endswith("interrupted")
    assert "Traceback" not in error
    run(config, workdir)
    assert_same_run(finished, workdir)


# Numbers


@pytest.mark.parametrize(("step", "left"), [(4, ["2"]), (5, ["2", "4"])])
def test_a_loss_that_becomes_nan_stops_the_run_and_the_good_checkpoints_stay(
    finished, config, tmp_path, monkeypatch, step, left
):
    """From step n on one term is NaN, as are the parameters that its gradient reaches: all of them."""
    compile_step = loop.compile_step

    def poisoned(*arguments):
        compiled = compile_step(*arguments)

        def take(state, *batch):
            state, metrics = compiled.step(state, *batch)
            if int(state.step) == step:
                nan = jnp.float32("nan")
                metrics = metrics | {"mml/I": nan, "mml": nan, "loss": nan}
                state = state.replace(params=jax_nan(state.params))
            return state, metrics

        return dataclasses.replace(compiled, step=take)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "compile_step", poisoned)
        with pytest.raises(
            BdfError, match=rf"^step {step}: mml/I = nan; training stops, and the last checkpoint is kept"
        ):
            run(vary(config, {"training.log_every": 50}), tmp_path)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == left
    (tmp_path / "metrics.jsonl").write_text(  # of log_every=1, for the comparison
        "".join(json.dumps(line) + "\n" for line in lines(finished)[: int(left[-1])])
    )
    run(config, tmp_path)
    assert_same_run(finished, tmp_path)


def jax_nan(tree):
    import jax

    return jax.tree.map(lambda leaf: leaf * jnp.float32("nan"), tree)


# Disks


def test_a_full_disk_names_the_folder_and_keeps_the_checkpoint_before(finished, config, tmp_path):
    """The file-size limit of the process stands in for the disk: writing fails as on a full one."""
    script = (
        "import json, resource, sys\n"
        "from bdf_jax import config, errors\n"
        "from bdf_jax.training import loop\n"
        "settings = config.from_dict(json.loads(sys.argv[1]))\n"
        "save = loop.Checkpoints.save\n"
        "def limited(self, step, *arguments):\n"
        "    if step == 4:\n"
        "        self.wait()\n"
        "        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))\n"
        "    save(self, step, *arguments)\n"
        "loop.Checkpoints.save = limited\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "try:\n"
        "    loop.run(settings, sys.argv[2])\n"
        "except errors.BdfError as error:\n"
        "    print('BdfError:', error)\n"
    )
    workdir = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(to_dict(config)), str(workdir)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=ROOT,
    )
    assert "BdfError:" in done.stdout, done.stderr[-3000:]
    assert "the checkpoint of step 4 could not be saved" in done.stdout
    assert "the checkpoint of step 2 is whole" in done.stdout
    run(config, workdir)  # there is room again
    assert_same_run(finished, workdir)
    assert sorted(os.listdir(workdir / "checkpoints")) == ["4", "6"]  # no leftovers


@pytest.mark.parametrize("damage", ["cut", "deleted"])
def test_a_finished_run_whose_last_checkpoint_is_damaged_goes_back_and_ends_the_same(
    finished, config, workdir, damage, caplog, capsys
):
    if damage == "cut":
        largest = max((workdir / "checkpoints" / "6").rglob("d/*"), key=lambda file: file.stat().st_size)
        largest.write_bytes(largest.read_bytes()[:1000])
    else:
        shutil.rmtree(workdir / "checkpoints" / "6")
    run(config, workdir)
    assert "continuing from step 4 of 6" in capsys.readouterr().out
    if damage == "cut":
        assert "checkpoint of step 6 cannot be read and is passed over: state/" in caplog.text
        assert (workdir / "damaged-checkpoint-6").is_dir()
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


# Data


def test_a_byte_of_the_records_that_changes_is_an_error_or_changes_no_image(config, tmp_path):
    """A record file after preparation with one byte changed, forty times; the images are read with their checksums."""
    data = shutil.copytree(config.data.dir, tmp_path / "data")
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
    assert len(errors) > 40
    for message in errors:
        assert "the record of image " in message
        assert message.endswith("Delete that folder; the next run prepares it again from the tree.")


@pytest.mark.parametrize("way", ["cut", "deleted"])
def test_a_record_file_cut_or_deleted_names_an_image_and_the_run_goes_on_once_it_is_mended(
    finished, config, tmp_path, way
):
    data = shutil.copytree(config.data.dir, tmp_path / "data")
    config = vary(config, {"data.dir": str(data)})
    for record in (data / "prepared").rglob("*array_record*"):
        record.write_bytes(record.read_bytes()[:-2000]) if way == "cut" else record.unlink()
    with pytest.raises(
        BdfError, match=r"the record of image .*\.jpg holds .* Delete that folder; the next run"
    ) as error:
        run(config, tmp_path / "run")
    (index,) = (data / "prepared").rglob("index.npz")
    assert str(index.parent) in str(error.value)
    shutil.rmtree(index.parent)
    run(config, tmp_path / "run")
    assert_same_run(finished, tmp_path / "run")


def test_a_killed_decoding_process_stops_the_run_which_then_continues(config, tmp_path):
    config = vary(config, {"training.steps": 60, "training.checkpoint_every": 5, "data.workers": 1})

    def kill_when_training() -> None:
        while not (tmp_path / "checkpoints" / "5").is_dir():
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
    assert 5 <= len(reached) < 60
    saved = max(int(name) for name in os.listdir(tmp_path / "checkpoints") if name.isdigit())
    run(vary(config, {"data.workers": 0}), tmp_path)
    assert [line["step"] for line in lines(tmp_path)] == list(range(1, 61))
    assert saved >= 5


# Time


def test_a_clock_that_runs_backwards_changes_nothing(finished, config, tmp_path, monkeypatch):
    """Each look at the clock is a day earlier than the one before, and the files on the disk are from the future."""
    with monkeypatch.context() as patch:
        signalled_while_saving(patch, signal.SIGTERM, at_step=3)
        signalled_while_saving(patch, signal.SIGTERM, at_step=2)
        with pytest.raises(Preempted):
            run(config, tmp_path)
    newest_first = sorted(tmp_path.rglob("*"), reverse=True)
    for number, path in enumerate(newest_first):
        os.utime(path, (4e9 + number, 4e9 + number))
    clock, looks = time.time, iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: clock() - 86_400 * next(looks))
    run(config, tmp_path)
    assert_same_run(finished, tmp_path)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["4", "6"]


def test_fewer_steps_than_between_two_checkpoints_still_save_the_last(finished, config, tmp_path, capsys):
    run(vary(config, {"training.checkpoint_every": 100}), tmp_path)
    assert os.listdir(tmp_path / "checkpoints") == ["6"]
    assert_same_run(finished, tmp_path)
    printed = capsys.readouterr()
    assert "1 checkpoint held the loop for " in printed.out + printed.err
