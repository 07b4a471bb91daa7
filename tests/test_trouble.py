"""Trouble of the machine is not damage: nothing is moved or called damaged, and the message names the remedy."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from bdf_jax.checkpoints import Checkpoints, Metadata, load_variables, newest_metadata
from bdf_jax.config import Config, vary
from bdf_jax.data.images import read_pixels
from bdf_jax.data.index import ImageIndex
from bdf_jax.data.records import INDEX, Records
from bdf_jax.errors import BdfError
from bdf_jax.evaluation.feature_file import save_features
from bdf_jax.process import run_command
from bdf_jax.trouble import IN_TRAINING, Trouble, enough_memory

ROOT = Path(__file__).parents[1]
METADATA = Metadata(vary(Config(), {"data.image_size": (64, 32)}), "abc", 7)
UNREADABLE = "/proc/self/mem"  # reading its first bytes is a real input/output error


def state(value):
    return {"params": {"w": jnp.full(5, value)}, "batch_stats": {"m": jnp.zeros(3)}, "opt_state": {"c": jnp.zeros(())}}


@pytest.fixture
def saved(tmp_path):
    checkpoints = Checkpoints(tmp_path / "run")
    for step in (3, 6):
        checkpoints.save(step, state(float(step)), METADATA)
    checkpoints.close()
    return tmp_path / "run"


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def break_reading(file):
    file.unlink()
    file.symlink_to(UNREADABLE)


FILES = ("SHA256SUMS", "_CHECKPOINT_METADATA", "state/manifest.ocdbt")


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_the_disk_does_not_give_is_not_damage(saved, name):
    break_reading(saved / "checkpoints" / "6" / name)
    before = names(saved)
    for attempt in (lambda: Checkpoints(saved), lambda: load_variables(saved), lambda: load_variables(saved, 6)):
        with pytest.raises(Trouble, match=r"checkpoints/6: .* cannot be read: Input/output error") as error:
            attempt()
        assert "damaged" not in str(error.value)
    assert names(saved) == before


def test_without_digests_it_is_not_damage_either(saved):
    (saved / "checkpoints" / "6" / "SHA256SUMS").unlink()
    break_reading(next((saved / "checkpoints" / "6" / "state" / "d").iterdir()))
    for attempt in (lambda: Checkpoints(saved), lambda: load_variables(saved)):
        with pytest.raises(Trouble, match="cannot be read: Input/output error"):
            attempt()


def test_the_newest_configuration_is_not_taken_from_an_older_checkpoint_meanwhile(saved):
    break_reading(saved / "checkpoints" / "6" / "_CHECKPOINT_METADATA")
    with pytest.raises(Trouble):
        newest_metadata(saved)


AS_ANOTHER_USER = """
import os, sys
sys.path.insert(0, sys.argv[1])
from bdf_jax.checkpoints import Checkpoints, load_variables
from bdf_jax.errors import BdfError

load_variables(sys.argv[2], 3)  # imports everything while this user may
os.chmod(sys.argv[3], 0)
if os.getuid() == 0:
    os.setgid(65534), os.setuid(65534)
for attempt in (lambda: Checkpoints(__import__("pathlib").Path(sys.argv[2])), lambda: load_variables(sys.argv[2])):
    try:
        attempt()
        print("no error")
    except BdfError as error:
        print(error)
"""


@pytest.mark.parametrize("closed", ["checkpoints/6/SHA256SUMS", "checkpoints/6/state", "checkpoints/6", "checkpoints"])
def test_what_a_colleague_s_umask_closed_is_named_and_left_where_it_is(saved, closed):
    with tempfile.TemporaryDirectory() as home:  # pytest's own folders are closed to others
        workdir = saved.rename(Path(home) / "run")
        for path in (Path(home), workdir, *workdir.rglob("*")):
            path.chmod(0o777 if path.is_dir() else 0o644)
        before = names(workdir)
        command = [sys.executable, "-c", AS_ANOTHER_USER, str(ROOT), str(workdir), str(workdir / closed)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        (workdir / closed).chmod(0o777)
        assert names(workdir) == before
    said = done.stdout.splitlines()
    assert len(said) == 2, done.stderr
    assert all("Permission denied" in line and "damaged" not in line for line in said), done.stdout


def test_a_whole_checkpoint_that_cannot_be_loaded_is_not_moved(saved):
    checkpoints = Checkpoints(saved)
    before = names(saved)
    with pytest.raises(BdfError, match=r"6: every file is as it was written, but this program cannot load it"):
        checkpoints.restore({"params": {"another": jnp.zeros(7)}})
    checkpoints.close()
    assert names(saved) == before


def test_a_whole_checkpoint_for_which_memory_does_not_suffice_is_not_moved(saved, monkeypatch):
    def fails(*_, **__):
        raise ValueError("RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes")  # as TensorStore says it

    (saved / "checkpoints" / "6" / "SHA256SUMS").unlink()
    checkpoints = Checkpoints(saved)
    before = names(saved)
    monkeypatch.setattr(checkpoints._orbax, "load", fails)
    monkeypatch.setattr("bdf_jax.checkpoints.loading.ocp.load", fails)
    for attempt in (lambda: checkpoints.restore(state(0.0)), lambda: load_variables(saved)):
        with pytest.raises(Trouble, match="checkpoints/6: cannot be loaded: out of memory"):
            attempt()
    checkpoints.close()
    assert names(saved) == before


def features(folder):
    """A file of two people, each seen by a visible and an infrared camera."""
    pids = np.array([1, 1, 2, 2])
    index = ImageIndex(np.array(list("abcd")), pids, np.int32([1, 2, 1, 2]), np.int8([0, 1, 0, 1]))
    save_features(folder / "f.npz", np.eye(4, 8, dtype=np.float32), index)
    return str(folder / "f.npz")


@pytest.mark.parametrize(
    "command", ["train.py", "evaluate.py", "evaluate.py --features", "-m bdf_jax embed", "-m bdf_jax export"]
)
def test_a_platform_that_is_not_there_is_named_with_those_that_are(saved, tmp_path, command):
    words = {
        "train.py": [f"--config={ROOT}/configs/demo.py", f"--workdir={tmp_path}/new"],
        "evaluate.py": [f"--workdir={saved}"],
        "evaluate.py --features": [features(tmp_path), "--dataset=llcm"],
        "-m bdf_jax embed": [f"--model={saved}", f"--images={ROOT}", "--modality=visible", f"--out={tmp_path}/x.npz"],
        "-m bdf_jax export": [f"--model={saved}", f"--out={tmp_path}/exported"],
    }
    done = subprocess.run(
        [sys.executable, *command.split(), *words[command]], cwd=ROOT, capture_output=True, text=True, check=False,
        env=os.environ | {"JAX_PLATFORMS": "nowhere"},
    )  # fmt: skip
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: JAX_PLATFORMS=nowhere: JAX has no such device here")
    assert "installed for cpu" in last
    assert "Traceback" not in done.stderr
    assert "damaged" not in done.stderr
    assert not (tmp_path / "new").exists()


def test_memory_that_does_not_suffice_ends_with_what_needs_less():
    what = r"^out of memory .*--config\.network\.remat=block, --config\.training\.slices=4"
    with pytest.raises(Trouble, match=what), enough_memory(IN_TRAINING):
        jax.device_get(jnp.zeros(1 << 46, jnp.uint8))
    with pytest.raises(ValueError, match="something else"), enough_memory(IN_TRAINING):
        raise ValueError("something else")


def ends(command, capsys):
    return run_command(command), capsys.readouterr().err


def test_a_command_ends_without_a_traceback_and_an_error_of_ours_with_one(capsys):
    code, said = ends(lambda: Path(UNREADABLE).read_bytes() and None, capsys)
    assert (code, said) == (1, "error: Input/output error\n")
    code, said = ends(lambda: bytearray(1 << 60) and None, capsys)
    assert code == 1
    assert said.startswith("error: out of memory")
    assert "--config.network.dtype=bfloat16" in said
    assert "--batch-size" in said
    code, said = ends(lambda: os.listdir(ROOT / "nowhere") and None, capsys)
    assert (code, said) == (1, f"error: {ROOT}/nowhere: No such file or directory\n")
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 // 0)


def test_records_that_the_disk_does_not_give_are_not_to_be_deleted(tmp_path):
    (tmp_path / INDEX).symlink_to(UNREADABLE)
    with pytest.raises(Trouble, match=r"index\.npz.*: Input/output error") as error:
        Records(tmp_path, "tree")
    assert "Delete" not in str(error.value)


def test_an_image_for_which_memory_does_not_suffice_is_not_damaged(tmp_path, monkeypatch):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")

    def fails(*_, **__):
        raise MemoryError

    monkeypatch.setattr(Image, "open", fails)
    with pytest.raises(Trouble, match=r"a\.png: out of memory$"):
        read_pixels(str(tmp_path / "a.png"), "a.png", (4, 2))
