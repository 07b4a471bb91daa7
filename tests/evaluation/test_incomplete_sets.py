"""What is published of a test set is asked of every feature file and tree that has its identities."""

import json
import shutil
from pathlib import Path

import numpy as np
import protocol_definitions as definitions
import pytest
from feature_files import arrays_of

from bdf_jax import __main__ as command_line
from bdf_jax.data.index import ImageIndex
from bdf_jax.datasets import BENCHMARKS, gallery
from bdf_jax.datasets.benchmark import RECORD
from bdf_jax.errors import BdfError
from bdf_jax.evaluation.feature_file import save_features
from bdf_jax.evaluation.feature_rows import evaluate_files, notes
from bdf_jax.evaluation.test_sets import check_test_set, tree_differs


def llcm(identities=351, visible=8680, infrared=7166) -> ImageIndex:
    """As many identities and images as LLCM tests on; no infrared image of camera 3."""
    rng, rows = np.random.default_rng(0), []
    for folder, modality, total in (("vis", 0, visible), ("nir", 1, infrared)):
        cells = [(pid, cam) for pid in range(1, identities + 1) for cam in (1, 2, 4, 9 - pid % 3)]
        counts = np.bincount(rng.integers(len(cells), size=total - len(cells)), minlength=len(cells)) + 1
        rows += [
            (f"test_{folder}/cam{cam}/{pid:04d}/{k:04d}.jpg", pid, cam, modality)
            for (pid, cam), count in zip(cells, counts.tolist(), strict=True)
            for k in range(count)
        ]
    names, pids, cams, modalities = zip(*rows, strict=True)
    return ImageIndex(np.array(names), np.array(pids), np.array(cams, np.int32), np.array(modalities, np.int8))


@pytest.fixture(scope="module")
def whole():
    return llcm()


def infrared_rows(index):
    return np.flatnonzero(index.modalities == 1)


def without(index, rows):
    return index.select(np.setdiff1d(np.arange(len(index)), rows))


def test_the_whole_of_llcm_is_the_published_set(whole):
    known = BENCHMARKS["llcm"].numbers()
    assert [known.images["test", None, modality] for modality in (0, 1)] == [8680, 7166]
    assert check_test_set("llcm", whole) == ("published", None, "")
    assert check_test_set("llcm", whole, own=True) == ("published", None, "")  # to insist is not to rename


def test_a_last_batch_that_was_dropped_is_missed(whole):
    order = infrared_rows(whole)
    index = without(whole, order[-(len(order) % 1024) :])
    said = r"of 7,166 infrared test images 1,022 are missing; the last that is there is test_nir/cam.*jpg.*--own"
    with pytest.raises(BdfError, match=said):
        check_test_set("llcm", index)
    name, _, differs = check_test_set("llcm", index, own=True)
    assert name == "own"
    assert "1,022 are missing" in differs


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda index: without(index, [0]), "of 8,680 visible test images 1 are missing"),
        (lambda index: without(index, infrared_rows(index)), r"of 7,166 .* 7,166 are missing, and 351 identities have"),
        (
            lambda index: without(index, infrared_rows(index)[index.pids[infrared_rows(index)] == 7]),
            r"infrared test images \d+ are missing; .* and 1 identities have none \(7\)",
        ),
        (lambda index: without(index, np.flatnonzero(index.pids == 7)), "351 identities, here are 350"),
        (lambda index: llcm(visible=8681), "8,681 visible test images are 1 more than the 8,680"),
        (lambda index: llcm(identities=352), "352 .*some belong to training"),
        (
            lambda index: ImageIndex(
                np.char.replace(np.char.replace(index.names, "cam4", "cam3"), "vis/cam3", "vis/cam4"),
                index.pids,
                np.where((index.cams == 4) & (index.modalities == 1), 3, index.cams),
                index.modalities,
            ),
            r"infrared images are of cameras that took none \(3\)",
        ),
        (
            lambda index: ImageIndex(
                np.char.replace(index.names, "cam4", "cam12"),
                index.pids,
                np.where(index.cams == 4, 12, index.cams),
                index.modalities,
            ),
            r"visible images are of cameras that took none \(12\); infrared images are of .* none \(12\)",
        ),
    ],
)  # fmt: skip
def test_identities_images_and_cameras_must_be_llcms(change, said, whole):
    index = change(whole)
    with pytest.raises(BdfError, match=said):
        check_test_set("llcm", index)
    assert check_test_set("llcm", index, own=True).name == "own"


def test_regdb_must_have_every_image_of_every_identity():
    index = without(definitions.small_regdb(206, 10), [5])
    with pytest.raises(BdfError, match=r"as many infrared images; 1 do not: identity 1 has 9 visible"):
        check_test_set("regdb", index)
    assert check_test_set("regdb", index, own=True).name == "own"


def test_who_insists_gets_rows_of_another_name(tmp_path, capsys):
    index = without(definitions.small_regdb(206, 10), [5])
    rng = np.random.default_rng(0)
    features_ND = rng.standard_normal((207, 16))[index.pids] + rng.standard_normal((len(index), 16))
    path = tmp_path / "F.npz"
    save_features(path, features_ND, index)
    with pytest.raises(BdfError, match="--own"):
        evaluate_files("regdb", str(path))
    rows = evaluate_files("regdb", str(path), own=True)
    assert {row["test_set"] for row in rows} == {"own"}
    said = notes(rows)
    assert "identity 1 has 9 visible" in said[0]
    assert "do not compare with published ones" in said[1]
    flags = [f"--features={path}", "--dataset=regdb", f"--json={tmp_path / 'rows.json'}"]
    assert command_line.main(["evaluate", *flags]) == 1
    assert "identity 1 has 9 visible" in capsys.readouterr().err
    assert command_line.main(["evaluate", *flags, "--own"]) == 0
    printed = capsys.readouterr()
    assert "test_set" in printed.out
    assert "own" in printed.out
    assert "identity 1 has 9 visible" in printed.err
    assert {row["test_set"] for row in json.loads((tmp_path / "rows.json").read_text())} == {"own"}


def test_images_that_do_not_belong_are_no_test_set_at_all(tmp_path):
    names, pids = gallery.published_images()
    rows = list(zip(names.tolist(), pids.tolist(), [int(name[3]) for name in names], strict=True))
    some_missing = definitions.sysu_index(rows[4:])
    with pytest.raises(BdfError, match="4 test images are missing"):
        check_test_set("sysu_mm01", some_missing)
    assert check_test_set("sysu_mm01", some_missing, own=True).name == "own"
    with pytest.raises(BdfError, match="1 images do not belong"):
        check_test_set("sysu_mm01", definitions.sysu_index([*rows, ("cam1/0006/0999.jpg", 6, 1)]), own=True)


def write_llcm_tree(root: Path, index: ImageIndex) -> None:
    """Empty images: a test list needs no pixels. One person to train on."""
    extra = [f"{folder}/0400/0400_0.jpg" for folder in ("vis", "nir")]
    for name in (*index.names.tolist(), *extra):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / "idx").mkdir()
    for folder, name in zip(("vis", "nir"), extra, strict=True):
        for cam in range(1, 10):
            (root / f"test_{folder}" / f"cam{cam}").mkdir(exist_ok=True)
        (root / "idx" / f"train_{folder}.txt").write_text(f"{name} 0\n")
    (root / "idx" / "test_id.txt").write_text(",".join(map(str, np.unique(index.pids))))


def test_a_tree_with_the_published_identities_must_have_their_images(whole, tmp_path):
    index = without(whole, infrared_rows(whole)[:5])
    write_llcm_tree(tmp_path / "tree", index)
    with pytest.raises(BdfError, match=r"tree: llcm: .*of 7,166 infrared test images 5 are missing"):
        check_test_set("llcm", index, root=tmp_path / "tree")
    name, _, differs = check_test_set("llcm", index, root=tmp_path / "tree", own=True)
    assert (name, "5 are missing" in differs) == ("own", True)
    # The same as a world that this project wrote: it never claimed to be the published set.
    (tmp_path / "tree" / RECORD).write_text("{}")
    assert check_test_set("llcm", index, root=tmp_path / "tree").name == "tree"
    shutil.rmtree(tmp_path / "tree")


def test_a_tree_of_other_people_is_a_data_set_of_its_own(tmp_path):
    index = definitions.small_llcm(seed=3)
    write_llcm_tree(tmp_path / "tree", index)
    assert check_test_set("llcm", index, root=tmp_path / "tree") == ("tree", None, "")
    one_missing = without(index, [3])
    with pytest.raises(BdfError, match=r"1 test images are missing"):
        check_test_set("llcm", one_missing, root=tmp_path / "tree")
    assert check_test_set("llcm", one_missing, root=tmp_path / "tree", own=True).name == "own"


def test_folders_of_the_published_sysu_mm01_are_counted():
    names, pids = gallery.published_images()
    cams = [int(name[3]) for name in names]
    everything = definitions.sysu_index(list(zip(names.tolist(), pids.tolist(), cams, strict=True)))
    assert tree_differs("sysu_mm01", everything, "/data/S") == ""
    lacking = without(everything, np.flatnonzero((everything.cams == 6) & (everything.pids == 6))[:2])
    assert "found 10,576, and other numbers in 1 folders: cam6/0006 has " in tree_differs(
        "sysu_mm01", lacking, "/data/S"
    )
    renamed = ImageIndex(np.char.add("x", everything.names), *list(vars(everything).values())[1:])
    assert tree_differs("sysu_mm01", renamed, "/data/S") == ""
    others = everything.select(everything.pids != 6)  # another list of test identities
    assert tree_differs("sysu_mm01", others, "/data/S") == ""


def test_small_sets_are_their_own_as_ever(tmp_path):
    for dataset, index in (
        ("llcm", definitions.small_llcm(seed=1)),
        ("regdb", definitions.small_regdb(20, 3)),
        ("sysu_mm01", definitions.small_sysu(seed=1)),
    ):
        assert check_test_set(dataset, index) == ("own", None, "")
        np.savez(tmp_path / "F.npz", **arrays_of(index, definitions.coarse_features(index, seed=0, dimensions=40)))
        galleries = ["agw"] if dataset == "sysu_mm01" else None
        assert evaluate_files(dataset, str(tmp_path / "F.npz"), galleries=galleries)[0]["notes"] == []
