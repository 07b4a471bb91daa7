"""What a published tree holds, and every way in which it can be wrong."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from published_trees import SYSU_ABSENT, SYSU_IDS, write_ids, write_image

from bdf_jax.data.index import INFRARED, VISIBLE
from bdf_jax.data.trees import key
from bdf_jax.datasets import read_tree
from bdf_jax.errors import BdfError


def refusal(dataset: str, root: Path | str, **kwargs: object) -> str:
    with pytest.raises(BdfError) as caught:
        read_tree(dataset, root, **kwargs)  # type: ignore[arg-type]
    return str(caught.value)


# What is read.


def test_sysu_rows_follow_from_their_paths(sysu):
    tree = read_tree("sysu_mm01", sysu)
    for split, ids in SYSU_IDS.items():
        index = tree.splits[split]
        expected = sorted(
            (f"cam{cam}/{pid:04d}/{k:04d}.jpg", pid, cam, INFRARED if cam in (3, 6) else VISIBLE)
            for pid in ids
            for cam in range(1, 7)
            if (pid, cam) not in SYSU_ABSENT
            for k in (1, 2, 3)
        )
        rows = zip(index.names, index.pids, index.cams, index.modalities, strict=True)
        assert [(str(name), int(pid), int(cam), int(modality)) for name, pid, cam, modality in rows] == expected


def test_regdb_trials_divide_the_same_images(regdb):
    tree = read_tree("regdb", regdb)
    everything = sorted([*tree.parts["visible"].names, *tree.parts["thermal"].names])
    for trial in (1, 2):
        train, test = tree.splits[f"train/{trial}"], tree.splits[f"test/{trial}"]
        assert sorted([*train.names, *test.names]) == everything
        assert set(train.pids).isdisjoint(test.pids)
        for index in (train, test):
            assert list(index.names) == sorted(index.names)
            assert [int(name.split("/")[1]) for name in index.names] == list(index.pids)
            assert np.array_equal(index.cams, index.modalities + 1)
            assert np.array_equal(index.modalities == VISIBLE, np.char.startswith(index.names, "Visible/"))
    assert set(tree.splits["train/1"].pids) != set(tree.splits["train/2"].pids)


def test_llcm_cameras_come_from_the_test_folders(llcm):
    tree = read_tree("llcm", llcm)
    train, test = tree.splits["train"], tree.splits["test"]
    assert sorted(set(train.pids)) == [1, 4, 6]
    assert sorted(set(test.pids)) == [2, 3]
    assert [f"cam{cam}" for cam in test.cams] == [name.split("/")[1] for name in test.names]
    assert 3 not in test.cams[test.modalities == INFRARED]


def test_ids_and_cameras_are_parsed_below_the_root(tmp_path, sysu):
    moved = tmp_path / "cam9" / "0042" / "cam1 data"
    moved.parent.mkdir(parents=True)
    sysu.rename(moved)
    assert set(read_tree("sysu_mm01", moved).splits["test"].pids) == set(SYSU_IDS["test"])


def test_the_root_may_be_relative_or_in_the_home_folder_or_end_in_a_slash(sysu, monkeypatch):
    monkeypatch.chdir(sysu.parent)
    monkeypatch.setenv("HOME", str(sysu.parent))
    trees = [read_tree("sysu_mm01", root) for root in (sysu, f"{sysu}/", sysu.name, f"./{sysu.name}", f"~/{sysu.name}")]
    assert {tree.root for tree in trees} == {str(sysu)}
    assert len({tree.key for tree in trees}) == 1


def test_files_that_are_no_images_are_passed_over(sysu):
    before = read_tree("sysu_mm01", sysu)
    for name in (
        "cam1/Thumbs.db",
        "cam1/0001/._0001.jpg",
        "cam1/0001/.DS_Store",
        "cam2/notes/a.jpg",
        "cam2/0999/1.jpg",
    ):
        (sysu / name).parent.mkdir(exist_ok=True)
        (sysu / name).write_bytes(b"x")
    assert read_tree("sysu_mm01", sysu).key == before.key


def test_lists_may_be_written_on_windows(sysu):
    path = sysu / "exp" / "test_id.txt"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().strip() + b",\r\n")
    assert set(read_tree("sysu_mm01", sysu).splits["test"].pids) == set(SYSU_IDS["test"])


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "cam1/0001/0001.jpg").unlink(),
        lambda root: write_image(root / "cam1/0001/0009.jpg"),
        lambda root: (root / "cam1/0001/0001.jpg").rename(root / "cam1/0001/0007.jpg"),
        lambda root: write_image(root / "cam1/0001/0001.jpg", size=(30, 12)),
        lambda root: write_image(root / "cam1/0001/0001.jpg"),  # the same bytes, written again
        lambda root: (
            write_ids(root / "exp/train_id.txt", [1, 2, 5, 7]),
            write_ids(root / "exp/val_id.txt", [3, 9, 11]),
        ),
    ],
)
def test_the_key_follows_every_change_of_what_would_be_prepared(sysu, change):
    before = read_tree("sysu_mm01", sysu).key
    assert read_tree("sysu_mm01", sysu).key == before
    change(sysu)
    assert read_tree("sysu_mm01", sysu).key != before


# Trees whose times say little.


def variant(root: Path, to: Path, time: int | None) -> Path:
    """Other pictures in BMP files of the same names and sizes, all of one time or each of its original's (None)."""
    for path in sorted(root.rglob("*")):
        copy = to / path.relative_to(root)
        if path.suffix == ".bmp":
            copy.parent.mkdir(parents=True, exist_ok=True)
            Image.open(path).transpose(Image.Transpose.ROTATE_180).save(copy)
        elif path.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
    for path in (file for file in to.rglob("*") if file.is_file()):
        shutil.copystat(root / path.relative_to(to), path) if time is None else os.utime(path, (time, time))
    return to


def all_at(root: Path, time: int) -> Path:
    for path in root.rglob("*"):
        os.utime(path, (time, time))
    return root


@pytest.mark.parametrize("time", [0, 1, 315532800, None])
def test_a_variant_of_the_same_names_sizes_and_times_is_another_tree(regdb, tmp_path, time):
    if time is not None:
        all_at(regdb, time)
    assert read_tree("regdb", variant(regdb, tmp_path / "b", time)).key != read_tree("regdb", regdb).key
    assert read_tree("regdb", shutil.copytree(regdb, tmp_path / "c")).key == read_tree("regdb", regdb).key


def test_one_image_of_many_without_times(regdb, monkeypatch):
    """Sampling would not see it."""
    monkeypatch.setattr(key, "SAMPLED", 2)
    before = read_tree("regdb", all_at(regdb, 1)).key
    path = regdb / read_tree("regdb", regdb).parts["visible"].names[5]
    path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))
    assert read_tree("regdb", all_at(regdb, 1)).key != before


def test_one_time_for_all_is_no_part_of_the_key(regdb):
    """Some mounts give every file the time of mounting."""
    assert read_tree("regdb", all_at(regdb, 1)).key == read_tree("regdb", all_at(regdb, 1_700_000_000)).key


def test_of_a_tree_with_times_a_sample_is_read(sysu, monkeypatch):
    """Seconds as an archive keeps them, shared by a few files each; without any limit a start would read the tree."""
    for i, path in enumerate(sorted(sysu.rglob("*.jpg"))):
        os.utime(path, (1_700_000_000 + i // 4,) * 2)
    read = []
    monkeypatch.setattr(key, "SAMPLED", 10)
    monkeypatch.setattr(key, "_digests", lambda root, names: read.append(len(names)) or {})
    assert read_tree("sysu_mm01", sysu).key
    assert read == [10]


# Wrong places.


def test_a_folder_that_does_not_exist_is_named_with_its_neighbour(sysu):
    message = refusal("sysu_mm01", sysu.parent / "sysu_mm01")
    assert "no such folder" in message
    assert f"did you mean {sysu}?".lower() in refusal("sysu_mm01", sysu.parent / "SYSU-MM02").lower()
    assert "--config.data.root" in message
    assert "licence agreement" in message


def test_an_empty_folder(tmp_path):
    message = refusal("sysu_mm01", tmp_path)
    for part in ("an empty folder", "cam1 .. cam6", "train_id.txt", "licence agreement", "configs/demo.py"):
        assert part in message


def test_a_file_instead_of_a_folder(tmp_path):
    (tmp_path / "SYSU-MM01.zip").write_bytes(b"PK")
    assert "unpack the archive" in refusal("sysu_mm01", tmp_path / "SYSU-MM01.zip")


@pytest.mark.parametrize("below", ["", "a"])
def test_a_parent_of_the_tree(sysu, below, tmp_path):
    if below:
        (tmp_path / below).mkdir()
        sysu = sysu.rename(tmp_path / below / sysu.name)
    assert f"Did you mean {sysu}?" in refusal("sysu_mm01", tmp_path)


@pytest.mark.parametrize("below", ["cam1", "exp", "cam1/0001"])
def test_a_folder_inside_the_tree(sysu, below):
    assert f"Did you mean {sysu}?" in refusal("sysu_mm01", sysu / below)


def test_the_tree_of_another_data_set(regdb, llcm):
    assert "--config.data.dataset=regdb" in refusal("sysu_mm01", regdb)
    assert "--config.data.dataset=llcm" in refusal("regdb", llcm)


def test_an_unreadable_tree_is_no_traceback(sysu, monkeypatch):
    (sysu / "exp" / "val_id.txt").unlink()
    (sysu / "exp" / "val_id.txt").symlink_to(sysu / "exp" / "val_id.txt")
    assert "val_id.txt" in refusal("sysu_mm01", sysu)


# Identities of many digits: a date and a number, a vehicle's registration.


def renumbered(root: Path, pid: str) -> str:
    """Gives the first identity of training, trial 1, another number everywhere; the old one."""
    old = (root / "idx" / "train_visible_1.txt").read_text().split("/")[1]
    for folder in ("Visible", "Thermal"):
        (root / folder / old).rename(root / folder / pid)
    for path in (root / "idx").glob("*.txt"):
        path.write_text(re.sub(rf"/{old}/", f"/{pid}/", path.read_text()))
    return old


def test_an_identity_may_have_eighteen_digits(regdb):
    renumbered(regdb, "000202304151230000007")
    train = read_tree("regdb", regdb).splits["train/1"]
    assert train.pids.max() == 202304151230000007
    assert (train.pids == 202304151230000007).sum() == 4


def test_one_of_nineteen_digits_is_named(regdb, sysu):
    renumbered(regdb, "1" * 19)
    assert f"folder {regdb}/Visible/{'1' * 19}: an identity is a number of at most 18 digits" in refusal("regdb", regdb)
    path = sysu / "exp" / "train_id.txt"
    path.write_text(path.read_text() + "9" * 5000)
    message = refusal("sysu_mm01", sysu)
    assert f"{path}: an identity is a number of at most 18 digits, found 5000 digits" in message
    assert len(message) < 500


# Incomplete trees.


@pytest.mark.parametrize(
    ("dataset", "folder"),
    [
        *(("sysu_mm01", f"cam{cam}") for cam in range(1, 7)),
        ("sysu_mm01", "exp"),
        ("regdb", "Thermal"),
        ("regdb", "idx"),
        ("llcm", "test_nir"),
        ("llcm", "test_vis/cam4"),
    ],
)
def test_a_missing_folder(dataset, folder, request):
    root = request.getfixturevalue(dataset.split("_")[0])
    shutil.rmtree(root / folder)
    message = refusal(dataset, root)
    assert "missing" in message
    assert folder in message
    assert "incomplete: unpack" in message


@pytest.mark.parametrize("cam", [1, 3])
def test_an_empty_camera_folder(sysu, cam):
    shutil.rmtree(sysu / f"cam{cam}")
    (sysu / f"cam{cam}").mkdir()
    message = refusal("sysu_mm01", sysu)
    assert f"cam{cam}/ has no image" in message
    assert "an empty folder" in message


@pytest.mark.parametrize(
    ("dataset", "name"),
    [
        ("sysu_mm01", "exp/train_id.txt"),
        ("sysu_mm01", "exp/val_id.txt"),
        ("sysu_mm01", "exp/test_id.txt"),
        ("regdb", "idx/train_visible_1.txt"),
        ("regdb", "idx/test_thermal_1.txt"),
        ("llcm", "idx/train_nir.txt"),
        ("llcm", "idx/test_id.txt"),
    ],
)
def test_a_missing_list(dataset, name, request):
    root = request.getfixturevalue(dataset.split("_")[0])
    (root / name).unlink()
    message = refusal(dataset, root)
    assert f"{name} is missing" in message
    assert "published archive" in message


def test_only_the_trial_asked_for_needs_its_lists(regdb):
    (regdb / "idx" / "test_thermal_2.txt").unlink()
    assert set(read_tree("regdb", regdb, trials=(1,)).splits) == {"train/1", "test/1"}
    assert "test_thermal_2.txt is missing" in refusal("regdb", regdb, trials=(2,))
    assert "train_visible_7.txt is missing" in refusal("regdb", regdb, trials=(7,))


@pytest.mark.parametrize(
    ("text", "found"),
    [("", "an empty file"), ("\n", "an empty file"), ("1,2,x3", "'x3'"), ("1,-2", "'-2'"), ("1;2", "'1;2'")],
)
def test_a_malformed_id_list(sysu, text, found):
    (sysu / "exp" / "train_id.txt").write_text(text)
    message = refusal("sysu_mm01", sysu)
    assert str(sysu / "exp" / "train_id.txt") in message
    assert "comma-separated" in message
    assert found in message


def test_an_id_list_that_is_no_text(sysu):
    (sysu / "exp" / "train_id.txt").write_bytes(b"\xff\xd8\xff\xe0")
    assert "expected a text file" in refusal("sysu_mm01", sysu)


@pytest.mark.parametrize("line", ["Visible/1/a.bmp", "Visible/a.bmp 0", "Thermal/1/a.bmp 0", "Visible/x/a.bmp 0", "0"])
def test_a_malformed_index_line(regdb, line):
    path = regdb / "idx" / "train_visible_1.txt"
    path.write_text(path.read_text() + line + "\n")
    message = refusal("regdb", regdb)
    assert f"{path}, line 9" in message
    assert repr(line) in message


def test_a_listed_image_that_is_not_there(regdb, llcm):
    name = (regdb / "idx" / "test_thermal_1.txt").read_text().split()[0]
    (regdb / name).unlink()
    message = refusal("regdb", regdb)
    assert f"idx/test_thermal_1.txt lists 8 images, of which 1 are missing: {name}" in message
    name = (llcm / "idx" / "train_nir.txt").read_text().split()[0]
    (llcm / name).unlink()
    assert name in refusal("llcm", llcm)


def test_a_listed_image_that_is_called_otherwise(regdb):
    path = regdb / "idx" / "train_visible_1.txt"
    image = regdb / path.read_text().split()[0]
    image.rename(image.with_suffix(".BMP"))
    assert f"There is {image.with_suffix('.BMP').relative_to(regdb)}: lists must name" in refusal("regdb", regdb)
    image.with_suffix(".BMP").rename(image.with_suffix(".raw"))
    path.write_text(path.read_text().replace(image.name, image.with_suffix(".raw").name))
    message = refusal("regdb", regdb)
    assert f"There is a file {image.with_suffix('.raw').relative_to(regdb)}, but images have names in .apng" in message


def test_files_that_are_not_called_like_images_are_said_to_be_there(regdb, sysu):
    for path in list((regdb / "Thermal").rglob("*.bmp")):
        path.rename(path.with_suffix(".raw"))
    message = refusal("regdb", regdb)
    assert "Thermal/ has no image" in message
    assert "There are files such as Thermal/1/male_front_t_00000_1.raw, but images have names in .apng" in message
    assert "unpack" not in message
    for path in list((sysu / "cam6").rglob("*.jpg")):
        path.rename(path.with_suffix(".heic"))
    assert "There are files such as cam6/0001/0001.heic" in refusal("sysu_mm01", sysu)


def test_two_folders_of_one_identity_are_no_person(sysu, regdb):
    shutil.copytree(sysu / "cam3" / "0005", sysu / "cam3" / "5")
    assert "cam3: the folders 0005 and 5 are both of identity 5" in refusal("sysu_mm01", sysu)
    (regdb / "Visible" / "007").mkdir()
    assert read_tree("regdb", regdb)
    shutil.copy(next((regdb / "Visible" / "7").iterdir()), regdb / "Visible" / "007")
    assert "Visible: the folders 007 and 7 are both of identity 7; expected one folder" in refusal("regdb", regdb)


def test_listed_identities_that_the_tree_lacks(sysu):
    for cam in range(1, 7):
        for pid in (4, 20):
            shutil.rmtree(sysu / f"cam{cam}" / f"{pid:04d}", ignore_errors=True)
    assert "exp/test_id.txt lists 3 identities, of which 2 have no image in the tree: 4, 20" in refusal(
        "sysu_mm01", sysu
    )


@pytest.mark.parametrize(("cams", "word"), [((3, 6), "infrared"), ((1, 2, 4, 5), "visible")])
@pytest.mark.parametrize("pid", [5, 11])
def test_an_identity_to_train_on_without_one_modality(sysu, cams, word, pid):
    for cam in cams:
        shutil.rmtree(sysu / f"cam{cam}" / f"{pid:04d}", ignore_errors=True)
    message = refusal("sysu_mm01", sysu)
    assert (
        f"1 of the identities to train on (exp/{'train' if pid == 5 else 'val'}_id.txt) have no {word} image: {pid}"
        in (message)
    )


def test_regdb_identity_without_thermal_images(regdb):
    path = regdb / "idx" / "train_thermal_1.txt"
    pid = path.read_text().split("/")[1]
    path.write_text("".join(f"{line}\n" for line in path.read_text().splitlines() if line.split("/")[1] != pid))
    assert f"have no infrared image: {pid}" in refusal("regdb", regdb)


def test_folders_and_labels_must_mean_the_same_people(regdb, llcm):
    """A set in RegDB's layout whose thermal folders are numbered otherwise: only the labels say who is who."""
    path = regdb / "idx" / "test_thermal_1.txt"
    lines = path.read_text().splitlines()
    first, second = lines[0].split("/")[1], lines[2].split("/")[1]
    for old, new in ((first, "x"), (second, first), ("x", second)):
        (regdb / "Thermal" / old).rename(regdb / "Thermal" / new)
    swapped = {first: second, second: first}
    parts = [line.split("/") for line in lines]
    path.write_text("".join(f"Thermal/{swapped.get(pid, pid)}/{rest}\n" for _, pid, rest in parts))
    message = refusal("regdb", regdb, trials=(1,))
    assert "two identities share a label: idx/test_visible_1.txt, line 1 ('Visible/" in message
    assert "and idx/test_thermal_1.txt, line 1 ('Thermal/" in message
    assert "agree one to one" in message

    path = llcm / "idx" / "train_nir.txt"
    path.write_text(path.read_text().replace(".jpg 0", ".jpg 00").replace("_nir.jpg 2", "_nir.jpg 7"))
    message = refusal("llcm", llcm)
    assert "an identity has two labels: idx/train_vis.txt, line 5" in message
    assert "idx/train_nir.txt, line 5" in message


def test_the_labels_of_an_identity_may_differ_between_roles_and_trials(regdb):
    path = regdb / "idx" / "train_thermal_1.txt"
    labels = {line.split()[1] for line in path.read_text().splitlines()}
    for part in ("visible", "thermal"):
        for name in (f"train_{part}_1", f"test_{part}_2"):
            path = regdb / "idx" / f"{name}.txt"
            path.write_text("".join(f"{line}0\n" for line in path.read_text().splitlines()))
    assert len(read_tree("regdb", regdb).splits["train/1"]) == 4 * len(labels)


def test_people_may_not_be_trained_and_tested_on(sysu, regdb):
    write_ids(sysu / "exp" / "test_id.txt", [4, 5, 6, 7])
    assert "exp/train_id.txt and exp/test_id.txt share 2 identities: 5, 7" in refusal("sysu_mm01", sysu)
    shutil.copy(regdb / "idx" / "train_visible_1.txt", regdb / "idx" / "test_visible_1.txt")
    assert "share 4 identities" in refusal("regdb", regdb)
