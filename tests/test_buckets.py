"""Work folders in buckets, against real servers of both kinds on the loopback address."""

import importlib.util
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import jax
import numpy as np
import pytest
import small

import bdf_jax
from bdf_jax.buckets import claim, mirror
from bdf_jax.buckets.store import open_store
from bdf_jax.checkpoints import load_state
from bdf_jax.config import AugmentConfig, DataConfig, EvaluationConfig, TrainingConfig, WorldConfig, vary
from bdf_jax.errors import BdfError
from bdf_jax.training.curves import read_curves
from bdf_jax.training.loop import run
from bdf_jax.training.optimiser import Adam
from bdf_jax.trouble import Trouble

sys.path.insert(0, str(Path(__file__).parent / "training"))
from whole_runs import command_line, wait_until

NEEDED = ("gcsfs", "s3fs", "moto", "gcp_storage_emulator")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (requirements-test.txt has them)"),
]
BOTH = pytest.mark.parametrize("scheme", ["gs", "s3"])


class Server:
    """An emulator in a process of its own; `stop` is a network that is cut."""

    def __init__(self, *command):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        words = [str(self.port) if word == "PORT" else word for word in command]
        self._process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(self.url, timeout=5)
                return
            except urllib.error.HTTPError:
                return
            except OSError:
                assert time.monotonic() < deadline
                assert self._process.poll() is None
                time.sleep(0.1)

    def stop(self):
        self._process.kill()
        self._process.wait()


def gs_server():
    script = "import sys; from gcp_storage_emulator.__main__ import main; sys.exit(main(sys.argv[1:]))"
    words = ("start", "--host=127.0.0.1", "--port", "PORT", "--in-memory", "--default-bucket=runs")
    return Server(sys.executable, "-c", script, *words)


def s3_server():
    return Server(sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "PORT")


@pytest.fixture(scope="module", autouse=True)
def servers():
    gs, s3 = gs_server(), s3_server()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", gs.url)
        use_s3(patch, s3)
        yield
    gs.stop()
    s3.stop()


def use_s3(patch, server):
    patch.setenv("AWS_ENDPOINT_URL", server.url)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        patch.setenv(name, "test")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    from s3fs import S3FileSystem

    S3FileSystem(skip_instance_cache=True).mkdir("runs")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    world = WorldConfig(train_ids=6, test_ids=3, images=2, size=(32, 16))
    return small.tiny_method(
        data=DataConfig(dir=str(tmp_path_factory.mktemp("data")), world=world),
        replaces={
            "data.identities": 4, "data.images": 2, "augment": AugmentConfig(pad=2),
            "optimiser": Adam(1e-3, warmup_epochs=1.0),
        },
        training=TrainingConfig(steps=6, log_every=1, checkpoint_every=2, tensorboard=False),
        evaluation=EvaluationConfig(batch_size=16),
    )  # fmt: skip


@pytest.fixture(scope="module")
def local(config, tmp_path_factory):
    """The same run on a disk, that nothing happened to."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    return workdir, run(config, workdir)


def whole_steps(address):
    return sorted({int(name.split("/")[1]) for name in open_store(address).list() if name.endswith("_METADATA")})


@BOTH
def test_a_run_that_is_killed_continues_and_is_bit_for_bit_the_one_on_a_disk(
    scheme, config, local, tmp_path, monkeypatch
):
    address = f"{scheme}://runs/killed-{scheme}"
    slow = vary(config, {"data.dir": str(tmp_path)})
    shutil.copytree(config.data.dir, tmp_path, dirs_exist_ok=True)
    with subprocess.Popen(
        command_line(slow, address), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_until(lambda: whole_steps(address), process)
        process.send_signal(signal.SIGSTOP)  # or it would end before the others have come so far
        with pytest.raises(BdfError, match=r"another run (on this machine )?is using this folder"):
            run(slow, address)  # of this machine, by its disk
        with pytest.raises(BdfError, match=r"another run is using this folder \(process \d+ on "):
            run(config, address)  # by the claim in the bucket
        process.send_signal(signal.SIGKILL)
    assert json.loads(open_store(address).read("config.json"))["training"]["steps"] == 6
    rows = run(config, address)
    assert rows == local[1]
    jax.tree.map(np.testing.assert_array_equal, load_state(address)[1], load_state(local[0])[1])
    assert open_store(address).read("metrics.jsonl") == (local[0] / "metrics.jsonl").read_bytes()
    assert whole_steps(address) == [4, 6]
    assert not [name for name in open_store(address).list() if name.startswith(".claims")]

    model = bdf_jax.load(address, 4)
    assert (model.step, model.source) == (4, address)
    assert read_curves([address])[0].series["loss"][0].tolist() == [1, 2, 3, 4, 5, 6]
    with pytest.raises(BdfError, match=rf"{address}: no checkpoint of step 5; there are 4, 6"):
        bdf_jax.load(address, 5)
    other = vary(config, {"optimiser.decay": 0.5})
    with pytest.raises(BdfError, match=rf"--workdir={address}: the folder holds a run of another configuration"):
        run(other, address)


@BOTH
def test_evaluation_and_its_report_beside_the_run(scheme, config, local):
    address = f"{scheme}://runs/copy/of-{scheme}"
    names = sorted(path.relative_to(local[0]).as_posix() for path in local[0].rglob("*") if path.is_file())
    open_store(address).send(local[0], [name for name in names if name != ".lock"])
    command = [sys.executable, "evaluate.py", f"--workdir={address}", f"--report={address}/report", "--mode=all"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1], timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert f"report: {address}/report/index.html" in done.stdout
    held = open_store(f"{address}/report").list()
    assert {"index.html", "cmc.png", "similarities.png"} <= held.keys()


@BOTH
def test_a_bucket_that_is_not_there(scheme, config):
    for attempt in (lambda address: run(config, address), bdf_jax.load, lambda address: read_curves([address])):
        with pytest.raises(Trouble, match=rf"{scheme}://no-such-bucket/a: this place cannot be listed: there is no"):
            attempt(f"{scheme}://no-such-bucket/a")


@BOTH
def test_a_folder_that_is_not_there(scheme):
    with pytest.raises(BdfError, match=rf"{scheme}://runs/nothing: no such folder"):
        bdf_jax.load(f"{scheme}://runs/nothing")


def test_a_network_that_is_cut_while_saving_keeps_the_last_whole_checkpoint(config, monkeypatch):
    """Between the files of step 4: step 2 counts. gcsfs does not give up for half a minute, so s3 it is."""
    address = "s3://runs/cut"
    monkeypatch.setattr(mirror, "PATIENCE_SECONDS", 0.0)
    server, send = s3_server(), mirror.Mirror._copy_step
    use_s3(monkeypatch, server)

    def cut(self, step):
        if step == 4:
            server.stop()
        send(self, step)

    monkeypatch.setattr(mirror.Mirror, "_copy_step", cut)
    what = (
        rf"the checkpoint of step 4 could not be copied: {address}: .*cannot be reached.*"
        "the checkpoint of step 2 is whole there"
    )
    with pytest.raises(Trouble, match=what):
        run(config, address)


def test_no_permission_is_said_and_is_no_damage(config, monkeypatch):
    server = s3_server()
    use_s3(monkeypatch, server)
    request = urllib.request.Request(
        f"{server.url}/moto-api/reset-auth", data=b"0", method="POST", headers={"Content-Type": "text/plain"}
    )
    urllib.request.urlopen(request, timeout=10)
    for attempt in (lambda address: run(config, address), bdf_jax.load):
        with pytest.raises(Trouble, match=r"s3://runs/closed: this place cannot be listed: no permission"):
            attempt("s3://runs/closed")
    server.stop()


def test_a_run_on_another_machine_that_gives_no_sign_of_life_is_followed(monkeypatch, caplog):
    monkeypatch.setattr(claim, "ABANDONED_SECONDS", 3.0)
    monkeypatch.setattr(claim, "LOOK_SECONDS", 0.1)
    store = open_store("s3://runs/abandoned")
    store.create(claim._name(7), json.dumps({"owner": "x", "host": "far", "pid": 3}).encode())
    with claim.claimed_place(store, "--workdir") as mine:
        assert store.list(claim.FOLDER).keys() == {claim._name(8)}
        store.create(claim._name(9), json.dumps({"owner": "y", "host": "near", "pid": 4}).encode())
        mine._beat()
        with pytest.raises(BdfError, match=r"another run \(process 4 on near\) has taken this folder over"):
            mine.check()
    assert "a run (process 3 on far) was here" in caplog.text
    assert store.list(claim.FOLDER).keys() == {claim._name(8), claim._name(9)}


def test_only_one_of_two_creates_an_object():
    store = open_store("s3://runs/create")
    assert [store.create("a", b"1"), store.create("a", b"2")] == [True, False]
    assert store.read("a") == b"1"
