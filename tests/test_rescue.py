"""Folders that the storage of checkpoints takes for a pattern, and runs that were lost in one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from bdf_jax.checkpoints import Checkpoints, Metadata, load_variables, rescue
from bdf_jax.comparison.jobs import Job, run_jobs
from bdf_jax.config import Config, vary
from bdf_jax.errors import BdfError
from bdf_jax.training.loop import run

ROOT = Path(__file__).parents[1]
METADATA = Metadata(vary(Config(), {"data.image_size": (64, 32)}), "abc", 7)
WORLD = vary(Config(), {"data.world.train_ids": 4, "data.world.test_ids": 2})


def state(value):
    return {
        "params": {"w.a": {"b": jnp.full(5, value)}},
        "batch_stats": {"mean": jnp.full((3, 3), -value)},
        "opt_state": (jnp.zeros((), jnp.int32), {"mu": jnp.full(5, 10 * value)}),
    }


def save(workdir, *steps):
    checkpoints = Checkpoints(workdir)
    try:
        for step in steps:
            checkpoints.save(step, state(float(step)), METADATA)
        checkpoints.wait()
    finally:
        checkpoints.close()


@pytest.fixture
def lost(tmp_path, monkeypatch):
    """Two checkpoints as they were left in a folder with brackets, before anything looked at them after saving."""
    monkeypatch.setattr("bdf_jax.checkpoints.saving.check_arrays", lambda *_: None)
    save(tmp_path / "agw[lr=0.1]", 3, 6)
    return (tmp_path / "agw[lr=0.1]").rename(tmp_path / "renamed")


@pytest.mark.parametrize("name", ["agw[lr=0.1]", "all*", "which?", "back\\slash"])
@pytest.mark.parametrize("below", ["", "/run"])
def test_a_work_folder_that_would_lose_its_checkpoints_is_refused_before_it_is_made(tmp_path, name, below):
    workdir = f"{tmp_path}/{name}{below}"
    for start in (lambda: run(WORLD, workdir), lambda: run_jobs([Job("one", Path(workdir), WORLD)])):
        with pytest.raises(BdfError, match=r"--workdir=.*: checkpoints cannot be kept in a folder with .* in its path"):
            start()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "name", ["a]b", "a{b}", "a%41", "a#b", "a b", "a|b", "$HOME", "人é", "a\nb", "a:b", "-a", "x=y,z"]
)
def test_in_a_folder_of_any_other_name_checkpoints_are_kept(tmp_path, name):
    save(tmp_path / name, 1)
    np.testing.assert_array_equal(load_variables(tmp_path / name)[1]["params"]["w.a"]["b"], np.full(5, 1.0))


def test_a_checkpoint_whose_arrays_cannot_be_found_again_is_never_finished(tmp_path, caplog):
    with pytest.raises(BdfError, match="of step 1 could not be saved: of 4 arrays that were written 0 can be found"):
        save(tmp_path / "[a]", 1)
    assert not (tmp_path / "[a]" / "checkpoints" / "1").exists()
    assert not [record for record in caplog.records if record.exc_info], "no traceback"


def test_a_good_run_can_be_read_in_a_folder_with_brackets(tmp_path):
    save(tmp_path / "good", 1)
    moved = (tmp_path / "good").rename(tmp_path / "a [b]*?")
    assert load_variables(moved)[2] == 1
    moved = moved.rename(tmp_path / "a\\b")
    with pytest.raises(BdfError, match=r"cannot be kept in a folder with \\ in its path"):
        load_variables(moved)


def test_a_lost_run_is_not_called_damaged_and_is_rescued_whole(lost):
    before = {path: path.read_bytes() for path in lost.rglob("*") if path.is_file()}
    for attempt in (lambda: load_variables(lost), lambda: load_variables(lost, 3), lambda: Checkpoints(lost)):
        with pytest.raises(BdfError, match=r"nothing is lost: python -m bdf_jax rescue --workdir=.*renamed") as error:
            attempt()
        assert "damaged" not in str(error.value)
    assert before == {path: path.read_bytes() for path in before}
    assert rescue(lost) == {3: "rescued", 6: "rescued"}
    assert rescue(lost) == {3: "whole before", 6: "whole before"}
    for step in (3, 6):
        np.testing.assert_array_equal(load_variables(lost, step)[1]["batch_stats"]["mean"], np.full((3, 3), -step))
    listing = lost / "checkpoints" / "6" / "SHA256SUMS"
    assert "state/manifest.ocdbt" in listing.read_text()
    subprocess.run(["sha256sum", "--check", "--quiet", listing.name], cwd=listing.parent, check=True)
    changed = {path.name for path, content in before.items() if path.read_bytes() != content}
    assert changed == {"SHA256SUMS"}
    checkpoints = Checkpoints(lost)  # and the run continues
    restored, step = checkpoints.restore(state(0.0))
    checkpoints.save(9, state(9.0), METADATA)
    checkpoints.close()
    assert step == 6
    np.testing.assert_array_equal(restored["opt_state"][1]["mu"], np.full(5, 60.0))


def test_the_arrays_of_several_processes_are_joined(lost):
    """The folder of process 0 divided by hand into those of two."""
    import tensorstore

    step = lost / "checkpoints" / "6"
    first, context = step / "state" / "ocdbt.process_0", tensorstore.Context()

    def opened(folder):
        spec = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder}/"}}
        return tensorstore.KvStore.open(spec, context=context).result()

    whole = opened(first)
    for key in whole.list().result():
        process = 1 + (b"mean" in key)
        opened(step / "state" / f"ocdbt.process_{process}").write(key, whole.read(key).result().value).result()
    for file in sorted(first.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    first.rmdir()
    (step / "SHA256SUMS").unlink()
    assert rescue(lost)[6] == "rescued"
    np.testing.assert_array_equal(load_variables(lost, 6)[1]["batch_stats"]["mean"], np.full((3, 3), -6.0))
    np.testing.assert_array_equal(load_variables(lost, 6)[1]["params"]["w.a"]["b"], np.full(5, 6.0))


def test_what_is_damaged_besides_is_not_rescued_and_the_command_says_so(lost):
    values = max((lost / "checkpoints" / "3").rglob("d/*"), key=lambda file: file.stat().st_size)
    values.write_bytes(values.read_bytes()[:-1])
    command = [sys.executable, "-m", "bdf_jax", "rescue", f"--workdir={lost}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "checkpoint of step 3: cannot be rescued: state/ocdbt.process_0/d/" in done.stdout
    assert "checkpoint of step 6: rescued" in done.stdout
    assert "1 of 2 checkpoints cannot be rescued" in done.stderr
    assert not (lost / "checkpoints" / "3" / "state" / "manifest.ocdbt").exists()


def test_a_list_that_was_lost_later_is_damage(tmp_path):
    save(tmp_path / "run", 1)
    (tmp_path / "run" / "checkpoints" / "1" / "state" / "manifest.ocdbt").unlink()
    with pytest.raises(BdfError, match=r"damaged checkpoint: state/manifest\.ocdbt"):
        load_variables(tmp_path / "run")
    assert rescue(tmp_path / "run")[1].startswith("cannot be rescued: state/manifest.ocdbt")


def test_a_folder_without_checkpoints_is_named(tmp_path):
    with pytest.raises(BdfError, match="expected the --workdir of a training run with checkpoints, found none"):
        rescue(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "notes.json").write_text(json.dumps({}))
    with pytest.raises(BdfError, match="found none"):
        rescue(tmp_path)
