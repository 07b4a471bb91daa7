"""Runs in several processes: the same numbers, one writer, and nobody waits for the dead. Real processes throughout."""

import contextlib
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from bdf_jax.checkpoints import load_variables
from bdf_jax.config import to_dict, vary
from bdf_jax.data.dataset import open_dataset
from bdf_jax.data.sampler import make_sampler
from bdf_jax.errors import BdfError
from bdf_jax.evaluation.workdir import evaluate_workdir
from bdf_jax.launch import find
from bdf_jax.peers import Launch
from bdf_jax.training.loop import run

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
WORKER = Path(__file__).with_name("processes_worker.py")
LIMIT = 240  # seconds for anything here, on a machine however busy
STEPS = 8


@pytest.fixture(scope="module")
def config(tiny_config):
    # Small steps, so that rounding in another order of summation stays rounding over all of them.
    # No event files: their pictures of derivatives are images that process 0 alone reads.
    changes = {"training.steps": STEPS, "optimiser.learning_rate": 1e-5, "training.tensorboard": False}
    return vary(tiny_config, changes)


@pytest.fixture(scope="module")
def alone(config, tmp_path_factory):
    """One process with one device, never interrupted: its folder and its rows."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    return workdir, run(config, workdir)


class Processes:
    """Processes of one run, ended when the block ends whatever they do."""

    def __init__(self, commands, devices, folder, **environ):
        self.logs = [folder / f"log-{i}.txt" for i in range(len(commands))]
        environ = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)} | environ
        self.all = []
        for command, log in zip(commands, self.logs, strict=True):
            with log.open("w") as file:
                self.all.append(
                    subprocess.Popen([sys.executable, *command], stdout=file, stderr=file, env=environ, cwd=ROOT)
                )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.all:
            process.kill()
            process.wait()

    def codes(self, limit=LIMIT):
        deadline = time.monotonic() + limit
        return [process.wait(max(0.1, deadline - time.monotonic())) for process in self.all]

    def said(self, i):
        return self.logs[i].read_text()

    def until(self, happened):
        deadline = time.monotonic() + LIMIT
        while not happened():
            assert all(process.poll() is None for process in self.all), "\n".join(map(self.said, range(len(self.all))))
            assert time.monotonic() < deadline
            time.sleep(0.02)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def workers(config, workdir, folder, processes, devices, **of_process):
    """The worker's processes; a tuple in `of_process` has a value for each."""
    address, commands = f"127.0.0.1:{free_port()}", []
    for i in range(processes):
        given = {name: value[i] if isinstance(value, tuple) else value for name, value in of_process.items()}
        placed = {"coordinator": address, "processes": processes, "process": i} if processes > 1 else {}
        given |= {"launch": placed, "config": to_dict(config), "workdir": str(workdir)}
        given["out"] = str(folder / f"{i}.json")
        commands.append([str(WORKER), json.dumps(given)])
    return Processes(commands, devices, folder)


def assert_close_variables(one, other):
    expected, found = (load_variables(workdir)[1] for workdir in (one, other))
    jax.tree.map(lambda e, f: np.testing.assert_allclose(f, e, rtol=1e-4, atol=1e-5), expected, found)


def metrics(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def assert_same_rows(found, expected):
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            if isinstance(value, float):
                np.testing.assert_allclose(mine[name], value, atol=1e-3, err_msg=name)
            else:
                assert mine[name] == value, name


@pytest.fixture(scope="module")
def moved(config, tmp_path_factory):
    """A run that SIGTERM to one process stops, and that goes on elsewhere: its work folder, and what processes leave.

    2 processes x 2 devices under jit, then 1 x 1, then 2 x 2 under pmap.
    """
    home = tmp_path_factory.mktemp("moved")
    workdir, folders = home / "run", []
    stages = [("jit", 2, 2, (None, 1)), ("jit", 1, 1, 5), ("pmap", 2, 2, None)]
    for number, (compiler, processes, devices, terminate_at) in enumerate(stages):
        folder = home / f"stage-{number}"
        folder.mkdir()
        folders.append(folder)
        changed = vary(config, {"training.compiler": compiler, "training.checkpoint_every": 100})
        with workers(changed, workdir, folder, processes, devices, terminate_at=terminate_at) as started:
            expected = 0 if number == len(stages) - 1 else 75
            assert started.codes() == [expected] * processes, "\n".join(map(started.said, range(processes)))
    return workdir, folders


def test_a_run_that_moves_between_processes_devices_and_compilers_ends_as_the_one_that_stayed(alone, moved):
    workdir, folders = moved
    assert_close_variables(alone[0], workdir)
    found, expected = metrics(workdir), metrics(alone[0])
    assert [m["step"] for m in found] == list(range(1, STEPS + 1))
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.keys() == theirs.keys()
        for name in ("loss", "gradient_norm", "mml/V", "mdl/V>I", "did/Dv"):
            np.testing.assert_allclose(mine[name], theirs[name], rtol=1e-4, err_msg=f"step {mine['step']}: {name}")
    for i in range(2):
        assert_same_rows(json.loads((folders[-1] / f"{i}.json").read_text())["rows"], alone[1])


def test_all_processes_stop_after_the_same_step_and_only_the_first_speaks(moved):
    first, second = ((moved[1][0] / f"log-{i}.txt").read_text() for i in range(2))
    stopped = r"error: SIGTERM at step (\d) of 8: saved; the same command continues"
    steps = re.findall(stopped, first)
    assert len(steps) == 1
    assert re.findall(stopped, second) == steps
    assert "step 1/8  loss" in first
    assert "loss" not in second
    assert "embedding" not in (moved[1][-1] / "log-1.txt").read_text()


def test_a_process_reads_only_its_share(config, moved):
    """Half of the pairs of every batch, and half of the test images."""
    dataset = open_dataset(config.data, progress=False)
    sampler = make_sampler(dataset.train.index, config.data.identities, config.data.images)
    halves = [set(), set()]
    for step in range(5, STEPS):  # what is left to the last stage
        rows_N2, _ = sampler.draw(config.training.seed, step)
        for half, rows in zip(halves, np.split(rows_N2, 2), strict=True):
            half |= set(dataset.train.index.names[rows.reshape(-1)].tolist())
    test = set(dataset.test.index.names.tolist())
    tested = []
    for i, half in enumerate(halves):
        read = set(json.loads((moved[1][-1] / f"{i}.json").read_text())["read"])
        assert read - test == half
        tested.append(read & test)
    assert not tested[0] & tested[1]
    assert tested[0] | tested[1] == test


def test_the_command_line_evaluates_in_several_processes_to_the_rows_of_one(moved, tmp_path):
    out = tmp_path / "rows.json"
    address = f"127.0.0.1:{free_port()}"
    evaluate = [str(ROOT / "evaluate.py"), f"--workdir={moved[0]}", f"--json={out}"]
    commands = [[*evaluate, f"--coordinator={address}", "--processes=2", f"--process={i}"] for i in range(2)]
    with Processes(commands, 2, tmp_path) as started:
        assert started.codes() == [0, 0], started.said(0) + started.said(1)
        assert "trained" in started.said(0)
        assert re.sub(r"\[Gloo\].*|\d+ is connected.*", "", started.said(1)).strip() == ""
    assert_same_rows(json.loads(out.read_text()), evaluate_workdir(moved[0]))


# What a process of a run does beside the training, without it: quick to start.
LIGHT = """
import os, sys, time
from bdf_jax import launch, peers
from bdf_jax.errors import BdfError
what, process = sys.argv[1], int(sys.argv[3])
try:
    with peers.session(launch.find(sys.argv[2], 2, process), silence_seconds=3, start_seconds=60):
        import jax
        from jax.experimental import multihost_utils
        from bdf_jax import distributed
        if what == "agree":
            distributed.agree("their data", {"fingerprint": "abc" if process == 0 else "abd", "trial": 1})
        if what == "first":
            def refuse():
                raise BdfError("another run is using this folder")
            distributed.on_first(refuse)
        print("together", flush=True)
        for step in range(100_000):
            if what == "bug" and process == 1 and step == 3:
                print(1 / 0)
            if what == "damage" and process == 1 and step == 3:
                raise BdfError("image cam1/0001.jpg is damaged")
            multihost_utils.process_allgather(jax.numpy.ones(3))
            if what == "fine":
                break
            time.sleep(0.05)
except BdfError as error:
    print("error:", error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


def light(what, folder):
    address = f"127.0.0.1:{free_port()}"
    return Processes([["-c", LIGHT, what, address, str(i)] for i in range(2)], 2, folder)


def test_a_process_that_falls_out_ends_the_other_soon_and_with_a_message(tmp_path):
    """Killed or only stopped, the first or another one; the four runs side by side."""
    with contextlib.ExitStack() as stack:
        runs = []
        for name, victim in itertools.product(("SIGKILL", "SIGSTOP"), (0, 1)):
            folder = tmp_path / f"{name}-{victim}"
            folder.mkdir()
            runs.append((name, victim, stack.enter_context(light("go on", folder))))
        for name, victim, started in runs:
            started.until(lambda started=started: all("together" in started.said(i) for i in range(2)))
            started.all[victim].send_signal(signal.Signals[name])
        began = time.monotonic()
        for name, victim, started in runs:
            assert started.all[1 - victim].wait(LIMIT) == 1, name
            said = started.said(1 - victim)
            assert "another process of this run died" in said
            assert "start the same command again in all processes to continue from the last checkpoint" in said
            assert "Traceback" not in said
        assert time.monotonic() - began < 60  # silence_seconds is 3; the rest is a busy machine
        for name, victim, started in runs:
            if name == "SIGSTOP":  # one that goes on after all finds out that it was the one
                started.all[victim].send_signal(signal.SIGCONT)
                assert started.all[victim].wait(LIMIT) == 1
                assert "this process itself stood still for " in started.said(victim)
                assert "Traceback" not in started.said(victim)


def test_a_training_whose_process_is_killed_stops_and_can_be_continued(alone, config, tmp_path):
    changed = vary(config, {"training.checkpoint_every": 2})
    workdir = tmp_path / "run"
    with workers(changed, workdir, tmp_path, 2, 2, pause=0.5, silence=20) as started:
        started.until(lambda: (workdir / "checkpoints" / "2").is_dir())
        started.all[1].kill()
        assert started.all[0].wait(LIMIT) == 1
        assert "another process of this run died" in started.said(0)
    with contextlib.suppress(BdfError):  # the step that was being saved, or the one before
        run(changed, workdir)
    assert_close_variables(alone[0], workdir)
    assert [m["step"] for m in metrics(workdir)] == list(range(1, STEPS + 1))


@pytest.mark.parametrize(
    ("what", "codes", "said"),
    [
        (
            "damage",
            [1, 1],
            ["error: process 1 of 2 stopped: image cam1/0001.jpg is damaged", "error: image cam1/0001.jpg"],
        ),
        ("bug", [1, 1], ["error: process 1 of 2 stopped: ZeroDivisionError: division by zero", "Traceback"]),
        ("agree", [1, 1], 2 * ["differ in their data:\n  fingerprint: 'abc' in process 0, 'abd' in process 1"]),
        ("first", [1, 1], 2 * ["error: another run is using this folder"]),
        ("fine", [0, 0], 2 * ["together"]),
    ],
)
def test_all_processes_end_and_say_why(what, codes, said, tmp_path):
    with light(what, tmp_path) as started:
        assert started.codes() == codes
        for i in range(2):
            assert said[i] in started.said(i)
            assert ("rror: " in started.said(i)) == (what != "fine")
            assert ("Traceback" in started.said(i)) == (what == "bug" and i == 1)


def test_a_coordinator_that_is_not_there_is_an_error_within_the_time_given(tmp_path):
    flags = [f"--coordinator=127.0.0.1:{free_port()}", "--processes=2", "--process=1", "--start_timeout=2"]
    run_it = [str(ROOT / "train.py"), f"--config={ROOT}/configs/demo.py", f"--workdir={tmp_path / 'run'}", *flags]
    with Processes([run_it], 1, tmp_path) as started:
        assert started.codes() == [1]
        assert started.said(0).startswith("error: the processes of this run did not find each other within 2 s at 127.")
        assert "stack trace" not in started.said(0)


def test_a_launcher_that_is_believed_in_vain_is_named_with_its_variables_and_the_way_out(tmp_path):
    port = free_port()
    step = SRUN | {"SLURM_JOB_ID": "1234", "SLURM_STEP_NODELIST": "127.0.0.1", "JAX_COORDINATOR_PORT": str(port)}
    run_it = [str(ROOT / "train.py"), f"--config={ROOT}/configs/demo.py", f"--workdir={tmp_path / 'run'}"]
    with Processes([[*run_it, "--start_timeout=2"]], 1, tmp_path, **step) as started:
        assert started.codes() == [1]
        variables = "SLURM (SLURM_NTASKS=2, SLURM_PROCID=1, SLURM_STEP_NODELIST=127.0.0.1)"
        first, last = started.said(0).splitlines()
        assert first.startswith(f"this is process 1 of 2, says {variables}: waiting up to 2 s for the others")
        assert last.startswith("error: the processes of this run did not find each other within 2 s: ")
        assert last.endswith(
            f"is what {variables} says: start all of them, or run this one alone with --distributed=off"
        )


def test_a_port_that_is_taken_is_named(tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        run_it = [str(ROOT / "train.py"), f"--config={ROOT}/configs/demo.py", f"--workdir={tmp_path / 'run'}"]
        flags = [f"--coordinator={address}", "--processes=2", "--process=0"]
        with Processes([run_it + flags], 1, tmp_path) as started:
            assert started.codes() == [1]
            assert started.said(0).startswith(f"error: --coordinator={address}: process 0 cannot listen at this port: ")


A = "10.0.0.1:1234"
SRUN = {"SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_STEP_NODELIST": "n1"}
OPEN_MPI = {"OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_RANK": "5", "OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:1"}


@pytest.mark.parametrize(
    ("given", "environ", "found"),
    [
        ({}, {}, None),
        ({"coordinator": A, "processes": 4, "process": 3}, {}, Launch(A, 4, 3)),
        ({}, {"JAX_COORDINATOR_ADDRESS": A, "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "0"}, Launch(A, 4, 0)),
        ({"process": 1}, {"JAX_COORDINATOR_ADDRESS": A, "JAX_NUM_PROCESSES": "4"}, Launch(A, 4, 1)),
        ({"processes": 1, "process": 0}, {}, None),
        ({}, SRUN | {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_ID": "0"}, Launch(None, 2, 1)),
        ({}, SRUN, Launch(None, 2, 1)),
        # A step of four tasks in a job of two says four, and one of one task is alone, whatever the job has.
        ({}, SRUN | {"SLURM_STEP_NUM_TASKS": "4"}, Launch(None, 4, 1)),
        ({}, SRUN | {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, None),
        ({}, SRUN | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, None),
        # The batch script, in two versions of SLURM; the shells of `salloc` and of a login to a node.
        ({}, {"SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, None),
        ({}, SRUN | {"SLURM_PROCID": "0", "SLURM_STEP_ID": "4294967291"}, None),
        ({}, SRUN | {"SLURM_PROCID": "0", "SLURM_STEP_ID": "4294967290", "SLURM_STEP_NUM_TASKS": "1"}, None),
        ({}, SRUN | {"SLURM_PROCID": "0", "SLURM_STEP_ID": "4294967290"}, None),
        ({}, SRUN | {"SLURM_PROCID": "0", "SLURM_STEP_ID": "4294967292"}, None),
        # mpirun in such a shell, or in a step that has one task on each of two nodes; srun --mpi=pmi2.
        ({}, SRUN | OPEN_MPI | {"SLURM_PROCID": "0", "SLURM_STEP_ID": "4294967290"}, Launch(None, 8, 5)),
        ({}, SRUN | OPEN_MPI | {"SLURM_STEP_NUM_TASKS": "2"}, Launch(None, 8, 5)),
        ({}, SRUN | {"PMI_SIZE": "2", "PMI_RANK": "1"}, Launch(None, 2, 1)),
        ({}, {"PMI_SIZE": "1", "PMI_RANK": "0"}, None),
        ({"coordinator": A}, {"PMI_SIZE": "4", "PMI_RANK": "3"}, Launch(A, 4, 3)),
        ({}, {"WORLD_SIZE": "4", "RANK": "3"}, None),
        ({"coordinator": A}, {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}, Launch(A, 2, 1)),
        ({}, {"TPU_WORKER_HOSTNAMES": "a,b"}, Launch()),
        ({}, {"TPU_WORKER_HOSTNAMES": "a,b", "JAX_PLATFORMS": "cpu"}, None),
        ({}, {"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        ({"detect": "off"}, {"TPU_WORKER_HOSTNAMES": "a,b"}, None),
        ({"detect": "on"}, {}, Launch()),
    ],
)
def test_how_a_process_was_launched(given, environ, found):
    assert find(**given, environ=environ) == found


@pytest.mark.parametrize(
    ("given", "environ", "message"),
    [
        ({"coordinator": A}, {}, "--processes=N and --process=I are missing"),
        ({"processes": 2, "process": 0}, {}, "--coordinator=HOST:PORT is missing"),
        ({"coordinator": A, "processes": 2, "process": 2}, {}, "--process=2: expected 0 to 1"),
        ({"coordinator": A, "processes": 2, "process": -1}, {}, "--process=-1: expected 0 to 1"),
        ({"coordinator": A, "processes": 0, "process": 0}, {}, "--processes=0: expected at least 1"),
        ({"coordinator": "10.0.0.1", "processes": 2, "process": 0}, {}, "expected HOST:PORT"),
        ({"coordinator": "no-such-host.invalid:1", "processes": 2, "process": 0}, {}, "the host is not known here"),
        (
            {},
            {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"},  # Open MPI 5 says no address
            "Open MPI (OMPI_COMM_WORLD_SIZE=2, OMPI_COMM_WORLD_RANK=1) has started several processes, and JAX cannot",
        ),
        ({}, {"PMI_SIZE": "2", "PMI_RANK": "1"}, "an MPI launcher (PMI_SIZE=2, PMI_RANK=1) has started several"),
        (
            {},
            {"WORLD_SIZE": "2", "RANK": "0", "TORCHELASTIC_RUN_ID": "none"},
            "or run this one alone with --distributed=off",
        ),
        ({}, {"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES=two in the environment: expected a whole number"),
    ],
)
def test_values_that_do_not_make_a_run_are_refused(given, environ, message):
    with pytest.raises(BdfError, match=re.escape(message)):
        find(**given, environ=environ)
