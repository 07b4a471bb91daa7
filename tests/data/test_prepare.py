"""Records hold the tree's files byte for byte, appear whole or not at all, and never mix two trees."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from published_trees import rename_in_gbk, write_ids, write_image, write_regdb, write_sysu

from bdf_jax.config import DataConfig
from bdf_jax.data import prepare as prepare_module
from bdf_jax.data.dataset import open_dataset
from bdf_jax.data.images import read_pixels
from bdf_jax.data.prepare import prepare
from bdf_jax.data.records import INDEX, Records
from bdf_jax.datasets import read_tree
from bdf_jax.errors import BdfError

COMMAND = [sys.executable, "-m", "bdf_jax.data.prepare"]


@pytest.mark.parametrize("dataset", ["sysu_mm01", "regdb", "llcm"])
def test_records_keep_the_original_files(dataset, request, tmp_path, capfd):
    root = request.getfixturevalue(dataset.split("_")[0])
    tree = read_tree(dataset, root)
    records = Records(prepare(tree, tmp_path / "dir", progress=False), tree.root)
    stored = {str(name): i for i, name in enumerate(records.index.names)}
    assert len(stored) == sum(len(index) for index in tree.parts.values())
    for index in tree.parts.values():
        positions = records.positions(index.names)
        for column in ("names", "pids", "cams", "modalities"):
            assert np.array_equal(getattr(records.index, column)[positions], getattr(index, column))
        for name, position in zip(index.names, positions, strict=True):
            assert stored[str(name)] == position
            assert records.encoded(position) == (root / name).read_bytes()
    out, err = capfd.readouterr()
    assert out + err == ""  # neither TFDS nor ArrayRecord has anything to tell the user


def test_records_keep_identities_beyond_32_bits(sysu, tmp_path):
    import tensorflow_datasets as tfds

    pid = 20230415123
    for cam in range(1, 7):
        (sysu / f"cam{cam}" / "0004").rename(sysu / f"cam{cam}" / str(pid)) if cam != 5 else None
    write_ids(sysu / "exp" / "test_id.txt", [6, pid, 20])
    tree = read_tree("sysu_mm01", sysu)
    folder = prepare(tree, tmp_path, progress=False)
    assert (Records(folder, tree.root).index.pids == pid).sum() == 15
    raw = tfds.builder_from_directory(folder).as_data_source("test", decoders={"image": tfds.decode.SkipDecoding()})
    assert max(example["id"] for example in raw) == pid


def test_names_in_another_encoding_are_kept_byte_for_byte(tmp_path):
    root = write_regdb(tmp_path / os.fsdecode("数据".encode("gbk")))
    name = rename_in_gbk(root)
    config = DataConfig(dataset="regdb", root=str(root), dir=str(tmp_path / "dir"), identities=2, trial=1)
    data = open_dataset(config, progress=False)
    assert sorted(map(len, (data.train, data.test))) == [16, 16]
    records = data.train.records
    position = records.positions(np.array([name]))[0]
    assert records.encoded(position) == records.encoded_all([position])[0] == (root / name).read_bytes()
    assert data.fingerprint == open_dataset(config, progress=False).fingerprint


def test_a_damaged_image_in_another_encoding_is_named_escaped(regdb, tmp_path):
    name = rename_in_gbk(regdb)
    (regdb / name).write_bytes(b"BM")
    with pytest.raises(
        BdfError, match=r"Visible/1/\\udcc4\\udcd0\\udcc8\\udccb_front_v_00000_1.bmp: expected"
    ) as caught:
        prepare(read_tree("regdb", regdb), tmp_path / "dir", progress=False)
    assert str(caught.value).encode()
    list_ = regdb / "idx" / "train_visible_1.txt"
    list_.write_bytes(list_.read_bytes().replace(b"_00001_", b"_00009_"))
    with pytest.raises(BdfError, match=r"of which 4 are missing: Visible/\d/\\udcc4") as caught:
        read_tree("regdb", regdb)
    assert str(caught.value).encode()


@pytest.mark.parametrize("suffix", [".tif", ".TIFF", ".webp", ".JP2", ".gif", ".ppm"])
def test_a_tree_of_any_format_that_is_decoded(regdb, tmp_path, suffix):
    for path in list(regdb.rglob("*.bmp")):
        Image.open(path).save(path.with_suffix(suffix))
        path.unlink()
    for path in (regdb / "idx").glob("*.txt"):
        path.write_text(path.read_text().replace(".bmp", suffix))
    tree = read_tree("regdb", regdb)
    records = Records(prepare(tree, tmp_path / "dir", progress=False), tree.root)
    assert len(records.index) == 32
    for position, name in enumerate(records.index.names):
        assert records.encoded(position) == (regdb / name).read_bytes()
        assert read_pixels(records.encoded(position), str(name), (24, 12)).shape == (24, 12, 3)


def test_any_tfds_user_can_read_the_records(sysu, tmp_path):
    import tensorflow_datasets as tfds

    tree = read_tree("sysu_mm01", sysu)
    builder = tfds.builder_from_directory(prepare(tree, tmp_path, progress=False))
    raw = builder.as_data_source("train+val", decoders={"image": tfds.decode.SkipDecoding()})
    assert len(raw) == len(tree.parts["train"]) + len(tree.parts["val"])
    example = raw[0]
    assert example["image"] == (sysu / example["path"].decode()).read_bytes()
    assert (example["id"], example["camera"]) == (tree.parts["train"].pids[0], tree.parts["train"].cams[0])
    assert builder.as_data_source("test")[0]["image"].shape == (24, 12, 3)


def test_files_whose_owner_and_group_have_no_name(sysu, tmp_path, monkeypatch):
    """In a container of another user, or in a project's folder on a server, they are mere numbers."""

    def no_name(number):
        raise KeyError(f"uid or gid not found: {number}")

    monkeypatch.setattr("pwd.getpwuid", no_name)
    monkeypatch.setattr("grp.getgrgid", no_name)
    tree = read_tree("sysu_mm01", sysu)
    records = Records(prepare(tree, tmp_path / "dir", progress=False), tree.root)
    assert len(records.index) == sum(len(index) for index in tree.parts.values())


def test_the_builder_works_by_hand(regdb, tmp_path):
    import tensorflow_datasets as tfds

    from bdf_jax.data.builder import builder_of

    builder = builder_of("regdb")(data_dir=tmp_path / "tfds")
    builder.progress = False
    config = tfds.download.DownloadConfig(manual_dir=regdb)
    builder.download_and_prepare(file_format="array_record", download_config=config)
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {"visible": 16, "thermal": 16}


def test_no_network_and_no_tensorflow(sysu, tmp_path):
    code = f"""if True:
        import socket, sys
        def refuse(*args, **kwargs): raise AssertionError("network")
        socket.socket.connect = socket.getaddrinfo = refuse
        from bdf_jax.data.prepare import main
        main("sysu_mm01", {str(sysu)!r}, {str(tmp_path / "dir")!r}, progress=False)
        assert not {{"tensorflow", "torch"}} & set(sys.modules)
    """
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_many_shards_keep_the_order(sysu, tmp_path, monkeypatch):
    from bdf_jax.data import builder as shards

    monkeypatch.setattr(shards, "SHARD_BYTES", 8000)
    tree = read_tree("sysu_mm01", sysu)
    folder = prepare(tree, tmp_path, progress=False)
    assert len(list(folder.glob("*-train.array_record-*"))) > 3
    records = Records(folder, tree.root)
    for position in range(len(records.index)):
        assert records.encoded(position) == (sysu / records.index.names[position]).read_bytes()


def test_prepared_once(sysu, tmp_path):
    tree = read_tree("sysu_mm01", sysu)
    folder = prepare(tree, tmp_path, progress=False)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert prepare(read_tree("sysu_mm01", f"{sysu}/"), tmp_path, progress=False) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_two_trees_in_one_folder_are_kept_apart(sysu, tmp_path):
    other = write_sysu(tmp_path / "other", images=2)
    trees = [read_tree("sysu_mm01", root) for root in (sysu, other)]
    folders = [prepare(tree, tmp_path / "dir", progress=False) for tree in trees]
    assert folders[0] != folders[1]
    assert [len(Records(folder, "").index) for folder in folders] == [
        sum(len(index) for index in tree.parts.values()) for tree in trees
    ]


# Bad images.


def test_every_bad_image_is_named_and_nothing_is_kept(sysu, tmp_path):
    tree = read_tree("sysu_mm01", sysu)
    names = [str(name) for part in ("train", "val", "test") for name in tree.parts[part].names]
    bad = names[:2] + names[-11:]
    for name in bad:
        (sysu / name).write_bytes((sysu / name).read_bytes()[:-200])
    (sysu / bad[1]).write_bytes(b"")
    tree = read_tree("sysu_mm01", sysu)
    with pytest.raises(BdfError) as caught:
        prepare(tree, tmp_path / "dir", progress=False)
    message = str(caught.value)
    assert message.startswith("13 images of the tree cannot be used")
    assert f"{sysu / bad[0]}: damaged image: image file is truncated" in message
    assert f"{sysu / bad[1]}: expected an image, found a file of zero bytes" in message
    assert [str(sysu / name) in message for name in bad] == [True] * 10 + [False] * 3
    assert "... and 3 more" in message
    assert visible_files(tmp_path / "dir") == []

    for name in bad:
        write_image(sysu / name)
    assert (prepare(read_tree("sysu_mm01", sysu), tmp_path / "dir", progress=False) / INDEX).is_file()


def test_an_image_that_vanishes_meanwhile(sysu, tmp_path):
    tree = read_tree("sysu_mm01", sysu)
    (sysu / "cam1/0001/0001.jpg").unlink()
    with pytest.raises(BdfError, match=r"cam1/0001/0001.jpg: cannot be read: No such file.* meanwhile, run again"):
        prepare(tree, tmp_path / "dir", progress=False)


# Interruptions, neighbours, full disks.


def test_a_killed_preparation_leaves_nothing_that_counts(sysu, tmp_path):
    grow(sysu, 800)
    home = tmp_path / "dir"
    command = [*COMMAND, "--dataset=sysu_mm01", f"--root={sysu}", f"--dir={home}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: list(home.glob("prepared/sysu_mm01/.*/**/*.array_record*")), process)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=20)
    assert not list(home.glob(f"prepared/sysu_mm01/*/{INDEX}"))
    assert list(home.glob("prepared/sysu_mm01/.*incomplete*"))
    folder = prepare(read_tree("sysu_mm01", sysu), home, progress=False)
    assert visible_files(home) == sorted(path for path in folder.iterdir())
    assert not list(home.glob("prepared/sysu_mm01/.*incomplete*"))


def test_two_processes_prepare_at_once(sysu, tmp_path):
    grow(sysu, 500)
    command = [*COMMAND, "--dataset=sysu_mm01", f"--root={sysu}", f"--dir={tmp_path / 'dir'}"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    assert sum("waiting for another process" in err for _, err in outputs) == 1
    assert sum("100%" in err for _, err in outputs) == 1  # the other one found the records
    folder = prepare(read_tree("sysu_mm01", sysu), tmp_path / "dir", progress=False)
    assert visible_files(tmp_path / "dir") == sorted(folder.iterdir())


def test_a_disk_that_is_too_small_is_seen_beforehand(sysu, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(prepare_module.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(BdfError, match=r"no space left .* 1 MiB needed, 0 MiB free.*--config.data.dir"):
        prepare(read_tree("sysu_mm01", sysu), tmp_path / "dir", progress=False)


def test_a_disk_that_fills_up_while_writing(sysu, tmp_path):
    # A process that may write 20 kB a file becomes the command; forking this one would fork JAX's threads with it.
    limited = (
        "import os, resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    command = [*COMMAND, "--dataset=sysu_mm01", f"--root={sysu}", f"--dir={tmp_path / 'dir'}"]
    done = subprocess.run([sys.executable, "-c", limited, *command], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "error: data.dir: no space left to write" in done.stderr
    assert "Traceback" not in done.stderr
    assert visible_files(tmp_path / "dir") == []
    assert not list((tmp_path / "dir").glob("prepared/sysu_mm01/.*incomplete*"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(sysu, tmp_path):
    (tmp_path / "dir").mkdir(mode=0o500)
    with pytest.raises(BdfError, match=r"data.dir: cannot write .*--config.data.dir"):
        prepare(read_tree("sysu_mm01", sysu), tmp_path / "dir", progress=False)


def test_a_file_where_the_folder_should_be(sysu, tmp_path):
    (tmp_path / "dir").write_text("")
    with pytest.raises(BdfError, match=r"data.dir: cannot write .*--config.data.dir"):
        prepare(read_tree("sysu_mm01", sysu), tmp_path / "dir", progress=False)


# The command.


def test_the_command_shows_progress_and_the_result(regdb, tmp_path):
    command = [*COMMAND, "--dataset=regdb", f"--root={regdb}/", f"--dir={tmp_path / 'dir'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "RegDB: 16 visible, 16 thermal images in" in done.stdout
    assert "100%" in done.stderr


def test_the_command_prints_errors_without_a_traceback(tmp_path):
    command = [*COMMAND, "--dataset=llcm", f"--root={tmp_path}", f"--dir={tmp_path / 'dir'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("error: LLCM tree")
    assert "Traceback" not in done.stderr


# Damage after preparation.


def damage(folder: Path, change) -> None:
    for path in folder.glob("*.array_record*"):
        path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: data[:20_000] + bytes(40_000) + data[60_000:],
        lambda data: bytes(len(data)),
    ],
    ids=["truncated", "empty", "hole", "zeros"],
)
def test_damaged_records_name_an_image_and_what_to_do(sysu, tmp_path, change):
    tree = read_tree("sysu_mm01", sysu)
    folder = prepare(tree, tmp_path, progress=False)
    damage(folder, change)
    records = Records(folder, tree.root)
    with pytest.raises(BdfError) as caught:
        [records.encoded(position) for position in range(len(records.index))]
    assert str(folder) in str(caught.value)
    assert str(sysu / "cam") in str(caught.value)
    assert "Delete that folder" in str(caught.value)


def test_a_missing_shard(sysu, tmp_path):
    tree = read_tree("sysu_mm01", sysu)
    folder = prepare(tree, tmp_path, progress=False)
    next(iter(folder.glob("*-train.array_record*"))).unlink()
    with pytest.raises(BdfError, match="Delete that folder"):
        Records(folder, tree.root).encoded(0)


def test_a_damaged_index(sysu, tmp_path):
    folder = prepare(read_tree("sysu_mm01", sysu), tmp_path, progress=False)
    (folder / INDEX).write_bytes((folder / INDEX).read_bytes()[:100])
    with pytest.raises(BdfError, match=r"index.npz cannot be read.*Delete that folder"):
        Records(folder, str(sysu))


# Helpers.


def grow(root: Path, images: int) -> None:
    """Adds copies of one image, so that preparing takes a while."""
    folder = root / "cam1" / "0001"
    data = (folder / "0001.jpg").read_bytes()
    for k in range(10, 10 + images):
        (folder / f"{k:04d}.jpg").write_bytes(data)


def visible_files(home: Path) -> list[Path]:
    return sorted(
        path
        for path in home.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(home).parts)
    )


def wait_for(condition, process: subprocess.Popen, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the process ended before it could be interrupted"
        assert time.monotonic() < end
        time.sleep(0.002)
