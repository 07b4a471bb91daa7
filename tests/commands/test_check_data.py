"""`python -m bdf_jax check-data`: what is said of trees that are whole, damaged, elsewhere or something else."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from bdf_jax.__main__ import main
from bdf_jax.data.check import check_tree
from bdf_jax.data.world import write_world
from bdf_jax.datasets import BENCHMARKS
from bdf_jax.errors import BdfError

DATASETS = ("sysu_mm01", "regdb", "llcm")


@pytest.fixture(scope="session")
def worlds(tmp_path_factory):
    home = tmp_path_factory.mktemp("worlds")
    for layout in DATASETS:
        write_world(
            home / layout, layout=layout, train_ids=6, test_ids=3, images=2, size=(16, 16), workers=1, progress=False
        )
    return home


@pytest.fixture
def tree(worlds, tmp_path):
    """A copy of a world that may be damaged; without `real`, the world's own record is taken away."""

    def copy(dataset, real=False):
        root = tmp_path / "trees" / dataset
        shutil.copytree(worlds / dataset, root)
        if real:
            (root / "world.json").unlink()
        return root

    return copy


def command(capsys, *arguments):
    code = main(["check-data", *map(str, arguments)])
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    return code, printed.out, printed.err


def as_json(capsys, dataset, root, *more):
    code, out, _ = command(capsys, f"--dataset={dataset}", f"--root={root}", "--json", *more)
    report = json.loads(out)
    assert code == (0 if report["usable"] else 1)
    return report


def names_of(problems):
    return {name for problem in problems for name in problem["names"]}


# What is published.


def test_the_published_numbers_are_those_of_the_papers():
    sysu = BENCHMARKS["sysu_mm01"].numbers()
    table = {"train": (296, 20284, 9929), "val": (99, 1974, 1980), "test": (96, 6775, 3803)}
    for split, (identities, visible, infrared) in table.items():
        assert (sysu.images[split, None, 0], sysu.images[split, None, 1]) == (visible, infrared)
        assert sysu.identities[split, None, 0] == sysu.identities[split, None, 1] == identities
        assert sum(sysu.images[split, cam, 0] for cam in (1, 2, 4, 5)) == visible
        assert sum(sysu.images[split, cam, 1] for cam in (3, 6)) == infrared
    assert sorted(sysu.splits["val"]) == [pid for pid in range(334, 434) if pid != 347]
    regdb = BENCHMARKS["regdb"].numbers()
    assert regdb.images["all", 1, 0] == regdb.images["all", 2, 1] == 4120
    assert regdb.images["test, trial 3", None, None] == 4120
    assert regdb.identities["train, trial 10", None, None] == 206
    llcm = BENCHMARKS["llcm"].numbers()
    assert (llcm.identities["train", None, None], llcm.identities["test", None, None]) == (713, 351)


# Trees that are whole.


@pytest.mark.parametrize("dataset", DATASETS)
def test_a_world_is_whole_and_said_to_be_synthetic(worlds, capsys, dataset):
    code, out, err = command(capsys, f"--dataset={dataset}", f"--root={worlds / dataset}/")
    assert code == 0, out + err
    files = [path for path in (worlds / dataset).rglob("*") if path.suffix in (".jpg", ".bmp")]
    assert f"nothing missing, nothing corrupt; {len(files)} images decoded" in out
    assert "not the published counts (synthetic)" in out
    assert " *" not in out  # a world differs by nature, no line needs a mark for it
    assert "differs from" not in out
    assert "missing:" not in out
    code, out, _ = command(capsys, f"--dataset={dataset}", f"--root={worlds / dataset}", "--quick")
    assert code == 0
    assert "images not decoded (--quick)" in out


def test_the_counts_are_those_of_the_files(worlds, capsys):
    root = worlds / "sysu_mm01"
    report = as_json(capsys, "sysu_mm01", root)
    ids = {
        split: {int(w) for w in (root / "exp" / f"{split}_id.txt").read_text().split(",")}
        for split in ("train", "val", "test")
    }
    for row in report["counts"]:
        if row["camera"] is not None:
            files = [
                path
                for pid in ids[row["split"]]
                for path in (root / f"cam{row['camera']}" / f"{pid:04d}").glob("*.jpg")
            ]
            assert row["images"] == len(files)
            assert row["identities"] == len({path.parent.name for path in files})
    regdb = {row["split"]: row for row in as_json(capsys, "regdb", worlds / "regdb", "--quick")["counts"]}
    assert len(regdb) == 21
    assert (regdb["train, trial 4"]["images"], regdb["test, trial 4"]["identities"]) == (24, 3)


def test_a_tree_that_is_not_the_published_one_can_be_used_but_is_warned_of(tree, capsys):
    report = as_json(capsys, "sysu_mm01", tree("sysu_mm01", real=True))
    assert report["usable"]
    assert report["warnings"][0].startswith("not the published counts: ")


def test_the_galleries_are_shipped_where_the_archive_lacks_them(tree, capsys):
    root = tree("sysu_mm01")
    own = as_json(capsys, "sysu_mm01", root, "--quick")
    assert "the tree's own exp/rand_perm_cam.mat" in own["galleries"]
    (root / "exp" / "rand_perm_cam.mat").unlink()
    assert "use --gallery=agw" in as_json(capsys, "sysu_mm01", root, "--quick")["galleries"]
    (root / "exp" / "rand_perm_cam.mat").write_bytes(b"no MATLAB file")
    broken = as_json(capsys, "sysu_mm01", root, "--quick")
    assert not broken["usable"]
    assert "expected a MATLAB file" in broken["corrupt"][0]["what"]


# Damage: everything at once, and all of it is told.


def test_every_damage_of_sysu_is_told_in_one_report(tree, capsys):
    root = tree("sysu_mm01")
    (root / "exp" / "val_id.txt").write_text("1,two,3\n")
    test_ids = [int(word) for word in (root / "exp" / "test_id.txt").read_text().split(",")]
    pid = f"{test_ids[0]:04d}"
    (root / "cam4" / pid / "0001.jpg").unlink()
    (root / "cam5" / pid / "0002.jpg").write_bytes((root / "cam5" / pid / "0002.jpg").read_bytes()[:200])
    (root / "cam6" / pid / "0001.jpg").write_bytes(b"")
    for cam in root.glob("cam*"):
        shutil.rmtree(cam / f"{test_ids[1]:04d}", ignore_errors=True)
    shutil.rmtree(root / "cam1")
    report = as_json(capsys, "sysu_mm01", root)
    assert {"cam1", "exp/val_id.txt", f"cam4/{pid}/0001.jpg", f"{test_ids[1]:04d}"} <= names_of(report["missing"])
    assert {f"cam5/{pid}/0002.jpg", f"cam6/{pid}/0001.jpg"} <= names_of(report["corrupt"])
    assert "Sun Yat-sen University" in report["source"]
    assert {row["split"] for row in report["counts"]} == {"train", "val", "test"}
    code, out, err = command(capsys, "--dataset=sysu_mm01", f"--root={root}")
    assert code == 1
    assert f"cam4/{pid}/0001.jpg" in out
    assert "Where to get it: SYSU-MM01" in out
    assert err.splitlines()[-1].startswith(f"error: {root}: ")


def test_images_that_are_numbered_by_the_clock_are_no_gaps(tree, capsys):
    root = tree("sysu_mm01")
    folder = next((root / "cam2").iterdir())
    (folder / "0001.jpg").rename(folder / "1681550000123.jpg")
    report = as_json(capsys, "sysu_mm01", root, "--quick")
    assert report["usable"]
    assert any(f"cam2/{folder.name}: the numbers go to 1681550000123" in warning for warning in report["warnings"])


def test_every_damage_of_regdb_is_told_in_one_report(tree, capsys):
    root = tree("regdb")
    visible = sorted((root / "Visible").rglob("*.bmp"))
    visible[0].unlink()
    visible[5].write_bytes(visible[5].read_bytes()[:300])
    (root / "idx" / "test_thermal_7.txt").unlink()
    (root / "idx" / "train_visible_2.txt").write_text("Visible/1/a.bmp\n")
    (root / "idx" / "test_visible_3.txt").write_text((root / "idx" / "train_visible_3.txt").read_text())
    labels = root / "idx" / "train_thermal_9.txt"
    labels.write_text(labels.read_text().replace(" 1\n", " 0\n"))
    report = as_json(capsys, "regdb", root)
    assert any("two identities share a label" in p["what"] and labels.name in p["what"] for p in report["missing"])
    expected = {str(visible[0].relative_to(root)), "idx/test_thermal_7.txt", "idx/train_visible_2.txt"}
    assert expected <= names_of(report["missing"])
    assert names_of(report["corrupt"]) == {str(visible[5].relative_to(root))}
    assert any("train_*_3.txt" in p["what"] and "share 6 identities" in p["what"] for p in report["missing"])


def test_every_damage_of_llcm_is_told_in_one_report(tree, capsys):
    root = tree("llcm")
    listed = [line.split()[0] for line in (root / "idx" / "train_nir.txt").read_text().splitlines()]
    (root / listed[0]).unlink()
    shutil.rmtree(root / "test_vis" / "cam2")
    (root / "idx" / "test_id.txt").write_text("")
    victim = next((root / "vis").rglob("*.jpg"))
    Image.fromarray(np.full((8, 8), 300, np.float32)).save(victim, format="TIFF")  # degrees, say
    report = as_json(capsys, "llcm", root)
    assert {listed[0], "test_vis/cam2", "idx/test_id.txt"} <= names_of(report["missing"])
    assert names_of(report["corrupt"]) == {str(victim.relative_to(root))}
    shutil.rmtree(root / "test_nir" / "cam3")  # empty as published, so it may be absent
    assert "test_nir/cam3" not in names_of(as_json(capsys, "llcm", root)["missing"])


@pytest.mark.parametrize("dataset", DATASETS)
def test_a_ruin_still_gets_a_whole_report(tree, capsys, dataset):
    root = tree(dataset)
    for path in list(root.rglob("*")):
        if path.is_file():
            path.write_bytes(b"\xff\xfe\x00rubbish")
    code, out, _ = command(capsys, f"--dataset={dataset}", f"--root={root}")
    assert code == 1
    assert "corrupt:" in out
    assert "missing:" in out
    for path in list(root.rglob("*")):
        if path.is_file():
            path.unlink()
    assert not check_tree(dataset, root, progress=False).usable


def test_an_identity_of_too_many_digits_is_told(tree, capsys):
    root = tree("regdb")
    folder = next((root / "Thermal").iterdir())
    folder.rename(root / "Thermal" / ("7" * 20))
    report = as_json(capsys, "regdb", root, "--quick")
    assert any(f"Thermal/{'7' * 20}: an identity is a number" in problem["what"] for problem in report["corrupt"])
    (root / "Thermal" / ("7" * 20)).rename(root / "Thermal" / ("7" * 18))
    assert not as_json(capsys, "regdb", root, "--quick")["corrupt"]


def test_names_in_another_encoding_are_told_escaped(tree, capsys):
    root = tree("regdb")
    victim = next((root / "Thermal").rglob("*.bmp"))
    name = os.fsdecode("男人\033[1m.bmp".encode("gbk"))
    (victim.parent / name).write_bytes(b"BM")
    shown = f"Thermal/{victim.parent.name}/\\udcc4\\udcd0\\udcc8\\udccb\\x1b[1m.bmp"
    assert names_of(as_json(capsys, "regdb", root)["corrupt"]) == {shown}
    code, out, _ = command(capsys, "--dataset=regdb", f"--root={root}")
    assert code == 1
    assert f"corrupt: {shown}: expected an image" in out


def test_quick_finds_empty_files(tree, capsys):
    root = tree("regdb")
    victim = next((root / "Thermal").rglob("*.bmp"))
    victim.write_bytes(b"")
    report = as_json(capsys, "regdb", root, "--quick")
    assert names_of(report["corrupt"]) == {str(victim.relative_to(root))}


# Elsewhere.


def test_a_root_that_is_too_high_too_low_or_of_another_data_set_is_recognised(worlds, tmp_path, capsys):
    def refusal(dataset, root):
        code, _, err = command(capsys, f"--dataset={dataset}", f"--root={root}")
        assert code == 1
        assert "--config" not in err.replace("--config=configs/demo.py", "")
        return err

    sysu = worlds / "sysu_mm01"
    assert f"Did you mean {worlds / 'sysu_mm01'}?" in refusal("sysu_mm01", worlds)
    assert f"Did you mean {worlds / 'regdb'}?" in refusal("regdb", worlds / "regdb" / "Visible")
    assert f"Did you mean {sysu}?" in refusal("sysu_mm01", sysu / "cam1" / "0001")
    assert "--dataset=sysu_mm01" in refusal("llcm", sysu)
    assert "--dataset=llcm" in refusal("regdb", worlds / "llcm")
    nowhere = refusal("regdb", worlds / "regbd")
    assert "no such folder; did you mean" in nowhere
    packed = tmp_path / "SYSU-MM01.zip"
    packed.write_bytes(b"PK")
    assert "expected a folder, found a file; unpack the archive" in refusal("sysu_mm01", packed)
    assert "It holds SYSU-MM01.zip: unpack that first." in refusal("sysu_mm01", tmp_path)
    (tmp_path / "inner").mkdir()
    shutil.copytree(worlds / "llcm", tmp_path / "inner" / "llcm")
    assert f"--dataset=llcm --root={tmp_path / 'inner' / 'llcm'}" in refusal("regdb", tmp_path / "inner")


def test_an_unknown_data_set_is_refused_in_the_api_too(tmp_path):
    with pytest.raises(BdfError, match="expected one of sysu_mm01, regdb, llcm; found 'market'"):
        check_tree("market", tmp_path)
