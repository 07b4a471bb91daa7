"""Same parameters, same bytes; all or nothing on disk; errors that a user can act on."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from bdf_jax.data.world import write_world
from bdf_jax.data.world.__main__ import main
from bdf_jax.data.world.write import WORTH_A_PROCESS
from bdf_jax.errors import BdfError

SMALL = {"layout": "sysu_mm01", "train_ids": 4, "test_ids": 2, "images": 1, "size": (32, 16), "progress": False}
COMMAND = [sys.executable, "-m", "bdf_jax.data.world"]


def content(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_bytes_do_not_depend_on_the_number_of_processes(tmp_path):
    larger = SMALL | {"train_ids": 60, "test_ids": 26, "images": 2, "seed": 3}
    one, three = (content(write_world(tmp_path / f"by {n}", **larger, workers=n)) for n in (1, 3))
    assert len([name for name in one if name.endswith(".jpg")]) > 2 * WORTH_A_PROCESS, "enough for three processes"
    assert one == three


def test_another_seed_is_another_world_of_the_same_form(tmp_path):
    images = SMALL | {"images": 3}
    first, second = (content(write_world(tmp_path / f"{seed}", **images, seed=seed)) for seed in (3, 4))
    assert first.keys() == second.keys()
    assert all(first[name] != second[name] for name in first if name.endswith(".jpg"))
    assert first["exp/rand_perm_cam.mat"] != second["exp/rand_perm_cam.mat"]


@pytest.mark.parametrize("layout", ["sysu_mm01", "regdb", "llcm"])
def test_more_identities_leave_earlier_ones_as_they_were(tmp_path, layout):
    few = content(write_world(tmp_path / "few", **SMALL | {"layout": layout}))
    many = content(write_world(tmp_path / "many", **SMALL | {"layout": layout, "train_ids": 6, "test_ids": 3}))
    images = [name for name in few if name.endswith((".jpg", ".bmp"))]
    assert images
    assert all(few[name] == many[name] for name in images)


def test_a_complete_world_is_kept(tmp_path, capsys):
    root = write_world(tmp_path / "world", **SMALL)
    picture = next(root.glob("cam1/*/*.jpg"))
    picture.write_bytes(b"touched")
    assert write_world(tmp_path / "world", **SMALL | {"progress": True}) == root
    assert picture.read_bytes() == b"touched"
    assert "kept" in capsys.readouterr().err


def test_another_world_of_that_name_is_an_error_that_names_the_difference(tmp_path):
    root = write_world(tmp_path / "world", **SMALL)
    before = content(root)
    with pytest.raises(BdfError, match="seed 0 instead of 5"):
        write_world(root, **SMALL, seed=5)
    assert content(root) == before


@pytest.mark.parametrize("record", [None, "no json", "[1]", "{}"])
def test_other_content_is_never_touched(tmp_path, record):
    (tmp_path / "letter.txt").write_text("dear")
    if record is not None:
        (tmp_path / "world.json").write_text(record)
    before = content(tmp_path)
    with pytest.raises(BdfError, match="name another folder"):
        write_world(tmp_path, **SMALL)
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train_ids": 1}, "train_ids: expected 2"),
        ({"test_ids": 1}, "test_ids: expected 2"),
        ({"train_ids": -3}, "train_ids"),
        ({"train_ids": None}, "train_ids and test_ids"),
        ({"val_ids": 4}, "val_ids: expected 0 to 3"),
        ({"images": 0}, "images: expected 1"),
        ({"seed": -1}, "seed"),
        ({"size": (8, 64)}, "size"),
        ({"correlation": 1.5}, "correlation: expected 0 to 1, found 1.5"),
        ({"layout": "market1501"}, "layout: expected one of sysu_mm01, regdb, llcm"),
        ({"sensor": "radar"}, "sensor"),
        ({"geometry": "huge"}, "geometry"),
        ({"geometry": "full"}, "train_ids: geometry 'full' of sysu_mm01 has 395"),
        ({"workers": 0}, "workers"),
    ],
)
def test_impossible_values_are_named_before_anything_is_written(tmp_path, values, message):
    with pytest.raises(BdfError, match=re.escape(message)):
        write_world(tmp_path / "world", **SMALL | values)
    assert not list(tmp_path.iterdir())


def test_a_parent_that_is_a_file_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BdfError, match="cannot write"):
        write_world(tmp_path / "file" / "world", **SMALL)


def test_too_little_space_is_said_before_it_is_used(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100_000))  # no test fills a real disk
    with pytest.raises(BdfError, match=r"32 images need about 0\.\d MiB, free are 0\.1 MiB"):
        write_world(tmp_path / "world", **SMALL)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are POSIX")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_disk_that_takes_no_more_is_an_error_and_leaves_nothing(tmp_path, workers):
    # A limit on file size is the nearest to a full disk that a test may cause.
    program = (
        "import resource, sys; from bdf_jax.data.world.__main__ import main;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000));"
        f"sys.exit(main(['--layout=regdb', '--out={tmp_path / 'world'}', '--train-ids=22', '--test-ids=2',"
        f" '--workers={workers}']))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "error: " in run.stderr
    assert "cannot write the world" in run.stderr
    assert "Traceback" not in run.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupt_leaves_nothing_behind(tmp_path, workers):
    arguments = ["--layout=sysu_mm01", f"--out={tmp_path / 'world'}", "--train-ids=400", "--test-ids=9"]
    process = subprocess.Popen(
        [*COMMAND, *arguments, f"--workers={workers}"], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".world.partial-*/cam1/*/*.jpg")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal sends: to the workers, too
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in complaint
    assert "Traceback" not in complaint
    assert not list(tmp_path.iterdir())


def test_the_command_of_the_readme(tmp_path):
    arguments = ["--layout=regdb", f"--out={tmp_path / 'world'}", "--train-ids=3", "--test-ids=2", "--seed=7"]
    run = subprocess.run(
        [*COMMAND, *arguments, "--height=32", "--width=16"], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == str(tmp_path / "world")
    assert len(list((tmp_path / "world/Visible").iterdir())) == 5
    assert main([*arguments, "--height=32", "--width=16", "--correlation=0.9"]) == 1
