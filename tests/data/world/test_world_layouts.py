"""The trees have the published form, down to the official files."""

import json

import numpy as np
import pytest
import scipy.io
from PIL import Image

from bdf_jax.data.world import write_world
from bdf_jax.data.world.plan import make_plan, make_spec
from bdf_jax.datasets import read_tree

TRAIN, TEST, IMAGES = 14, 7, 2
SMALL = {"train_ids": TRAIN, "test_ids": TEST, "images": IMAGES, "size": (32, 16), "progress": False}


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    folder = tmp_path_factory.mktemp("worlds")
    return {layout: write_world(folder / layout, layout=layout, **SMALL) for layout in ("sysu_mm01", "regdb", "llcm")}


def ids_of(root, name):
    text = (root / "exp" / f"{name}_id.txt").read_text()
    assert text.count("\n") == 1, "one line"
    return [int(word) for word in text.strip().split(",")]


def test_sysu_has_splits_of_the_asked_sizes_that_share_nobody(roots):
    train, val, test = (ids_of(roots["sysu_mm01"], name) for name in ("train", "val", "test"))
    assert (len(train) + len(val), len(val), len(test)) == (TRAIN, 2, TEST)
    assert len({*train, *val, *test}) == TRAIN + TEST
    assert ids_of(roots["sysu_mm01"], "available") == sorted([*train, *val, *test])
    assert scipy.io.loadmat(roots["sysu_mm01"] / "exp/train_id.mat")["id"].tolist() == [train]


def test_sysu_everyone_is_seen_in_both_modalities_but_not_by_every_camera(roots):
    root, missing = roots["sysu_mm01"], 0
    for pid in ids_of(root, "available"):
        seen = [cam for cam in range(1, 7) if (root / f"cam{cam}/{pid:04d}").exists()]
        assert {1, 2, 4, 5} & set(seen)
        assert {3, 6} & set(seen)
        missing += len(seen) < 6
        for cam in seen:
            names = sorted(path.name for path in (root / f"cam{cam}/{pid:04d}").iterdir())
            assert names == [f"{k:04d}.jpg" for k in range(1, IMAGES + 1)]
    assert missing


def test_sysu_images_are_jpegs_of_the_asked_size_grey_where_infrared(roots):
    for cam in range(1, 7):
        with Image.open(next((roots["sysu_mm01"] / f"cam{cam}").glob("*/0001.jpg"))) as image:
            assert (image.format, image.size) == ("JPEG", (16, 32))
            assert image.mode == ("L" if cam in (3, 6) else "RGB")


def test_sysu_gallery_permutations_have_the_official_form(roots):
    root = roots["sysu_mm01"]
    cells = scipy.io.loadmat(root / "exp/rand_perm_cam.mat")["rand_perm_cam"]
    assert cells.shape == (6, 1)
    assert cells.dtype == object
    for cam in range(1, 7):
        rows = cells[cam - 1, 0]
        assert rows.shape == (max(ids_of(root, "available")), 1)
        for pid in range(1, len(rows) + 1):
            found = rows[pid - 1, 0]
            folder = root / f"cam{cam}/{pid:04d}"
            images = len(list(folder.iterdir())) if folder.exists() else 0
            assert found.shape == (10, images)
            assert found.dtype == np.uint8
            assert all(sorted(row) == list(range(1, images + 1)) for row in found.tolist())


def test_regdb_has_ten_different_divisions_with_labels_from_zero(roots):
    root, divisions = roots["regdb"], set()
    for trial in range(1, 11):
        people = {}
        for split, number in (("train", TRAIN), ("test", TEST)):
            for folder in ("Visible", "Thermal"):
                lines = (root / f"idx/{split}_{folder.lower()}_{trial}.txt").read_text().splitlines()
                paths, labels = zip(*(line.split(" ") for line in lines), strict=True)
                assert all((root / path).is_file() and path.startswith(f"{folder}/") for path in paths)
                by_label = {int(label): int(path.split("/")[1]) for path, label in zip(paths, labels, strict=True)}
                assert sorted(by_label) == list(range(number))
                assert len(lines) == number * IMAGES
                assert people.setdefault(split, by_label) == by_label, "both modalities number people alike"
        assert {*people["train"].values(), *people["test"].values()} == set(range(1, TRAIN + TEST + 1))
        divisions.add(frozenset(people["train"].values()))
    assert len(divisions) == 10


def test_regdb_has_ten_images_of_everyone_unless_told_otherwise():
    shots = make_plan(make_spec("regdb", 3, 2)).shots
    assert len(shots) == 5 * (10 + 10)
    assert {shot.place.band for shot in shots} == {"visible", "thermal"}


def test_regdb_images_are_bitmaps_named_as_published(roots):
    path = sorted((roots["regdb"] / "Thermal/5").iterdir())[0]
    gender, side, modality, number, pid = path.stem.split("_")
    assert gender in ("male", "female")
    assert side in ("front", "back")
    assert (modality, len(number), pid) == ("t", 5, "5")
    with Image.open(path) as image:
        assert (image.format, image.size) == ("BMP", (16, 32))


def test_llcm_tests_by_camera_and_leaves_the_third_infrared_one_empty(roots):
    root = roots["llcm"]
    assert sorted(path.name for path in (root / "test_nir").iterdir()) == [f"cam{cam}" for cam in range(1, 10)]
    assert not list((root / "test_nir/cam3").iterdir())
    assert list((root / "test_vis/cam3").iterdir())
    test = [int(word) for word in (root / "idx/test_id.txt").read_text().strip().split(",")]
    train = {int(path.name) for path in (root / "vis").iterdir()}
    assert (len(train), len(test), train & set(test)) == (TRAIN, TEST, set())
    for name in ("train_vis", "train_nir", "test_vis", "test_nir"):
        lines = [line.split(" ") for line in (root / f"idx/{name}.txt").read_text().splitlines()]
        assert all((root / path).is_file() for path, _ in lines)
        assert {int(label) for _, label in lines} == set(range(TRAIN if name.startswith("train") else TEST))


@pytest.mark.parametrize("layout", ["sysu_mm01", "regdb", "llcm"])
def test_the_reader_of_the_real_data_set_accepts_the_tree(roots, layout):
    tree = read_tree(layout, str(roots[layout]))
    assert {len(set(index.pids.tolist())) for index in tree.splits.values()} <= {TRAIN, TEST, TRAIN - 2, 2}
    assert json.loads((roots[layout] / "world.json").read_text())["layout"] == layout


def test_full_sysu_has_the_real_numbers():
    plan = make_plan(make_spec("sysu_mm01", None, None, geometry="full"))
    files = plan.files()
    split_of = {int(pid): name for name in ("train", "val", "test") for pid in files[f"exp/{name}_id.txt"].split(b",")}
    found = dict.fromkeys([(split, kind) for split in ("train", "val", "test") for kind in ("visible", "nir")], 0)
    for shot in plan.shots:
        found[split_of[shot.pid], shot.place.band] += 1
    assert list(found.values()) == [20284, 9929, 1974, 1980, 6775, 3803]
    assert len(split_of) == 296 + 99 + 96
    indoor = {shot.pid for shot in plan.shots if split_of[shot.pid] == "test" and shot.place.number in (1, 2)}
    assert sum(shot.place.band == "nir" and shot.pid in indoor for shot in plan.shots) == 2208


def test_full_regdb_and_llcm_have_the_real_numbers():
    plan = make_plan(make_spec("regdb", None, None, geometry="full"))
    assert len(plan.shots) == 412 * 20
    files = plan.files()
    assert all(files[f"idx/{split}_thermal_7.txt"].count(b"\n") == 2060 for split in ("train", "test"))
    plan = make_plan(make_spec("llcm", None, None, geometry="full"))
    assert len(plan.shots) == 46767
    assert plan.files()["idx/test_id.txt"].count(b",") == 350
