"""Feature files, from the command line as their users see it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import protocol_definitions as definitions
import pytest
import scipy.io as scipy_io

from bdf_jax.data.index import ImageIndex
from bdf_jax.datasets import gallery
from bdf_jax.errors import BdfError
from bdf_jax.evaluation import feature_rows
from bdf_jax.evaluation.feature_file import load_features, save_features
from bdf_jax.evaluation.statistics import METRICS
from bdf_jax.evaluation.test_sets import check_test_set

ROOT = Path(__file__).parents[2]


def arrays_of(index: ImageIndex, features_ND):
    return {
        "features": features_ND,
        "pids": index.pids,
        "cams": index.cams,
        "modality": index.modalities,
        "names": index.names,
    }


@pytest.fixture
def small(tmp_path):
    """A good file of a small data set of its own, and its arrays."""
    index = definitions.small_sysu(seed=1)
    arrays = arrays_of(index, definitions.coarse_features(index, seed=2))
    np.savez(tmp_path / "F.npz", **arrays)
    return tmp_path / "F.npz", arrays


def evaluate(*flags):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(ROOT / "evaluate.py"), *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, env=environment, check=False)


def test_command_line_prints_a_table_and_writes_json(small, tmp_path):
    path, arrays = small
    order = np.random.default_rng(3).permutation(len(arrays["names"]))
    np.savez(tmp_path / "G.npz", **{key: value[order] for key, value in arrays.items()})
    ran = evaluate(
        f"--features={path}", "--dataset=sysu_mm01", "--gallery=agw", "--shots=1,10", "--mode=all",
        f"--compare={tmp_path / 'G.npz'}", f"--json={tmp_path / 'out' / 'rows.json'}",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    rows = json.loads((tmp_path / "out" / "rows.json").read_text())
    assert [(r["model"], r["shots"]) for r in rows] == [("F", 1), ("F", 10), ("G", 1), ("G", 10)]
    for row, other in zip(rows[:2], rows[2:], strict=True):
        assert (row["dataset"], row["mode"], row["gallery"]) == ("sysu_mm01", "all", "agw")
        assert (row["direction"], row["trials"]) == ("infrared_to_visible", 10)
        assert (row["similarity"], row["rerank"], row["flip_tta"]) == ("cosine", False, False)
        assert row["test_set"] == "own"
        for metric in METRICS:  # the same images in another order
            assert other[metric] == pytest.approx(row[metric], abs=1e-9)
            low, high = row[f"{metric}_ci"]
            assert low <= row[metric] <= high
        assert all(d["difference"] == 0 and not d["clear"] for d in row["compare"]["metrics"])
        assert f"{row['mAP']:.2f}" in ran.stdout
    for word in ("R1", "mINP", "similarity", "rerank", "F minus G"):
        assert word in ran.stdout
    assert "not the images of the published test set" in ran.stderr


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--dataset=sysu_mm01"], "--features"),
        (["--features=absent.npz"], "--dataset"),
        (["--features=absent.npz", "--dataset=sysu_mm01"], "absent.npz"),
        (["--features=absent.npz", "--dataset=sysu"], "did you mean 'sysu_mm01'"),
        (["--features=absent.npz", "--dataset=sysu_mm01", "--shots=one"], "--shots"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_not_a_traceback(flags, said):
    ran = evaluate(*flags)
    assert ran.returncode == 1
    assert ran.stderr.startswith("error: ")
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr


def test_what_is_saved_is_read_again(tmp_path):
    index = definitions.small_llcm(seed=4)
    features_ND = definitions.coarse_features(index, seed=5)
    save_features(
        tmp_path / "new" / "S.npz", features_ND, index, similarity="dot", flags={"use": "sum4", "flip_tta": True}
    )
    file = load_features(tmp_path / "new" / "S.npz")
    np.testing.assert_array_equal(file.features_ND, features_ND)
    for column in ("names", "pids", "cams", "modalities"):
        np.testing.assert_array_equal(getattr(file.index, column), getattr(index, column))
    assert (file.similarity, file.flags) == ("dot", {"feature": "", "use": "sum4", "flip_tta": True})
    rows = feature_rows.evaluate_files("llcm", str(tmp_path / "new" / "S.npz"))
    assert {row["similarity"] for row in rows} == {"dot"}
    assert feature_rows.evaluate_files("llcm", str(tmp_path / "new" / "S.npz"), similarity="cosine") != rows
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["S.npz"]


def broken(**changes):
    return lambda arrays: {**arrays, **{key: change(arrays[key]) for key, change in changes.items()}}


def with_nan(features_ND):
    features_ND = features_ND.copy()
    features_ND[[3, 7], 0] = np.nan, np.inf
    return features_ND


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (broken(features=with_nan), r"features of 2 of \d+ images are NaN.*0004\.jpg"),
        (broken(features=lambda f: f[:, 0]), r"features: expected \(\d+, D\)"),
        (broken(features=lambda f: f[1:]), r"features: expected"),
        (broken(features=lambda f: f.astype(int)), "floating point"),
        (broken(features=lambda f: f.astype(float) * 1e39), "beyond float32"),
        (broken(pids=lambda p: p[1:]), "pids: expected"),
        (broken(cams=lambda c: c.astype(float)), r"cams: expected .* integers"),
        (broken(modality=lambda m: m + 1), r"modality is 0 .visible. or 1"),
        (broken(names=lambda n: np.concatenate([n[:-2], n[:2]])), r"2 of \d+ names occur more than once"),
        (broken(names=lambda n: n.astype(object)), "names is an array of Python objects"),
        (broken(names=lambda n: n[:, None]), r"names: expected \(N,\)"),
        (lambda arrays: {key: arrays[key] for key in ("features", "names")}, "missing pids, cams, modality"),
        (
            lambda arrays: {**arrays, "similarity": np.asarray("l2")},
            "similarity: expected cosine, dot, euclidean, max4, min4, found 'l2'",
        ),
        (lambda arrays: {**arrays, "flip_tta": np.zeros(3)}, "flip_tta: expected one value"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(small, change, said):
    path, arrays = small
    np.savez(path, **change(arrays))
    with pytest.raises(BdfError, match=said) as caught:
        load_features(path)
    assert str(path) in str(caught.value)


def test_identities_beyond_32_bits_are_kept(small):
    path, arrays = small
    np.savez(path, **{**arrays, "pids": arrays["pids"].astype(np.uint64) + 20230415000})
    np.testing.assert_array_equal(load_features(path).index.pids, arrays["pids"].astype(np.int64) + 20230415000)
    np.savez(path, **{**arrays, "pids": arrays["pids"].astype(np.uint64) + 2**63})
    with pytest.raises(BdfError, match=r"pids: .* at most 18 digits.*0001\.jpg has 9223372036854775809"):
        load_features(path)


def test_files_that_are_no_feature_files(tmp_path):
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "text.npz").write_text("not a zip file")
    (tmp_path / "empty.npz").write_bytes(b"")
    np.savez(tmp_path / "good.npz", features=np.zeros((2, 2)))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "good.npz").read_bytes()[:100])
    for name in ("one.npy", "text.npz", "empty.npz", "cut.npz", "good.npz", "absent.npz", ""):
        with pytest.raises(BdfError, match="expected"):
            load_features(tmp_path / name)


@pytest.fixture(scope="module")
def published():
    names, pids = gallery.published_images()
    rows = zip(names.tolist(), pids.tolist(), [int(name[3]) for name in names], strict=True)
    return definitions.sysu_index(list(rows))


def test_the_published_test_set_is_recognised_in_any_order(published):
    shuffled = published.select(np.random.default_rng(0).permutation(len(published)))
    kind, picks, differs = check_test_set("sysu_mm01", shuffled)
    assert (len(published), kind, differs) == (10578, "published", "")
    assert picks is gallery.shipped_picks()


def test_missing_images_and_unknown_identities_are_counted_and_named(published):
    with pytest.raises(BdfError, match=r"2 test images are missing \(cam1/0006/0001\.jpg, cam1/0006/0002\.jpg\)"):
        check_test_set("sysu_mm01", published.select(np.arange(2, len(published))))
    more = definitions.sysu_index(
        [
            *zip(published.names.tolist(), published.pids.tolist(), published.cams.tolist(), strict=True),
            ("cam1/0001/0001.jpg", 1, 1),
            ("cam1/0002/0001.jpg", 2, 1),
            ("cam1/0006/0099.jpg", 6, 1),
        ]
    )
    with pytest.raises(BdfError, match=r"2 identities are unknown: 1, 2, 2 images; 1 images do not belong"):
        check_test_set("sysu_mm01", more)


def test_columns_that_contradict_the_names(published):
    wrong = ImageIndex(published.names, np.roll(published.pids, 1), published.cams, published.modalities)
    with pytest.raises(BdfError, match=r"rows contradict their names: .* has identity"):
        check_test_set("sysu_mm01", wrong)


def test_another_data_sets_file_is_recognised(published):
    with pytest.raises(BdfError, match="--dataset=sysu_mm01"):
        check_test_set("regdb", published)


def test_official_galleries_of_an_unknown_tree_name_the_other_family(small):
    with pytest.raises(BdfError, match=r"test images are missing .*--gallery=agw"):
        feature_rows.evaluate_files("sysu_mm01", str(small[0]))


def test_regdb_must_have_206_identities_of_ten_and_ten_images():
    assert check_test_set("regdb", definitions.small_regdb(206, 10)) == ("published", None, "")
    with pytest.raises(BdfError, match=r"206 identities, here are 205"):
        check_test_set("regdb", definitions.small_regdb(205, 10))
    whole = definitions.small_regdb(206, 10)
    with pytest.raises(BdfError, match=r"2 do not: identity 1 has 9 visible, identity 206 has 9 infrared"):
        check_test_set("regdb", whole.select(np.arange(1, len(whole) - 1)))
    assert check_test_set("regdb", definitions.small_regdb(20, 3)) == ("own", None, "")


def write_tree(root: Path, index: ImageIndex, lists: dict[str, str]):
    """Empty images: a test list needs no pixels."""
    for name in index.names.tolist():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    for name, text in lists.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_a_tree_tells_its_test_images_and_brings_its_galleries(tmp_path):
    everyone = definitions.small_sysu(seed=2, ids=8, absent=0)
    lists = {"train": "1,2", "val": "3", "test": "4,5,6,7,8"}
    write_tree(tmp_path / "tree", everyone, {f"exp/{name}_id.txt": ids for name, ids in lists.items()})
    index = everyone.select(everyone.pids > 3)
    save_features(tmp_path / "F.npz", definitions.coarse_features(index, seed=0), index)
    options = {"modes": ["all"], "shots": [1], "root": tmp_path / "tree"}
    with pytest.raises(BdfError, match=r"shipped with the project.*--gallery=agw"):  # no exp/rand_perm_cam.mat
        feature_rows.evaluate_files("sysu_mm01", str(tmp_path / "F.npz"), **options)
    (row,) = feature_rows.evaluate_files("sysu_mm01", str(tmp_path / "F.npz"), galleries=["agw"], **options)
    assert row["test_set"] == "tree"

    cells = np.empty((6, 1), object)
    for cam in range(1, 7):
        cells[cam - 1, 0] = np.empty((8, 1), object)
        for pid in range(1, 9):
            count = ((everyone.cams == cam) & (everyone.pids == pid)).sum()
            cells[cam - 1, 0][pid - 1, 0] = np.tile(np.arange(1, count + 1, dtype=np.uint8), (10, 1))
    scipy_io.savemat(tmp_path / "tree" / "exp" / "rand_perm_cam.mat", {"rand_perm_cam": cells})
    rows = feature_rows.evaluate_files("sysu_mm01", str(tmp_path / "F.npz"), **options)
    assert [(r["gallery"], r["gallery_size"]) for r in rows] == [("official", 20), ("agw", 20)]
    assert rows[0]["mAP_std"] < 1e-9  # every trial has the same permutation

    save_features(tmp_path / "F.npz", definitions.coarse_features(everyone, seed=0), everyone)
    with pytest.raises(BdfError, match=r"3 identities are unknown: 1, 2, 3"):
        feature_rows.evaluate_files("sysu_mm01", str(tmp_path / "F.npz"), **options)


def test_a_regdb_tree_tells_the_identities_of_each_trial(tmp_path):
    everyone = definitions.small_regdb(ids=6)
    lists = {}
    for part, modality in (("visible", 0), ("thermal", 1)):
        for trial, tested in ((1, (1, 2, 3)), (2, (4, 5, 6))):
            for role in ("train", "test"):
                rows = (everyone.modalities == modality) & (np.isin(everyone.pids, tested) == (role == "test"))
                listed = everyone.select(rows)
                lines = [f"{name} {pid}\n" for name, pid in zip(listed.names, listed.pids, strict=True)]
                lists[f"idx/{role}_{part}_{trial}.txt"] = "".join(lines)
    write_tree(tmp_path / "tree", everyone, lists)
    index = everyone.select(everyone.pids > 3)
    save_features(tmp_path / "F.npz", definitions.coarse_features(index, seed=0), index)
    rows = feature_rows.evaluate_files("regdb", str(tmp_path / "F.npz"), root=tmp_path / "tree", trial=2)
    assert {row["test_set"] for row in rows} == {"tree"}
    with pytest.raises(BdfError, match=r"24 test images are missing .*3 identities are unknown: 4, 5, 6"):
        feature_rows.evaluate_files("regdb", str(tmp_path / "F.npz"), root=tmp_path / "tree", trial=1)


def test_regdbs_ten_trials_are_averaged(tmp_path):
    index = definitions.small_regdb()
    single = []
    for trial in range(1, 11):
        features_ND = definitions.coarse_features(index, seed=trial)
        save_features(tmp_path / f"t{trial}.npz", features_ND, index)
        single.append(feature_rows.evaluate_files("regdb", str(tmp_path / f"t{trial}.npz"), trial=trial))
    rows = feature_rows.evaluate_files("regdb", str(tmp_path / "t{trial}.npz"))
    listed = ",".join(str(tmp_path / f"t{trial}.npz") for trial in range(1, 11))
    assert [r["mAP"] for r in feature_rows.evaluate_files("regdb", listed)] == [r["mAP"] for r in rows]
    for i, row in enumerate(rows):
        assert row["trials"] == 10
        assert [one["trial"] for one in row["per_trial"]] == list(range(1, 11))
        for metric in METRICS:
            values = [rows_of_trial[i][metric] for rows_of_trial in single]
            assert row[metric] == pytest.approx(np.mean(values))
            assert row[f"{metric}_std"] == pytest.approx(np.std(values, ddof=1))
    with pytest.raises(BdfError, match="one test split and takes one file"):
        feature_rows.evaluate_files("sysu_mm01", listed)


def test_comparison_needs_the_same_images(small, tmp_path):
    path, arrays = small
    np.savez(tmp_path / "G.npz", **{key: value[1:] for key, value in arrays.items()})
    with pytest.raises(BdfError, match=r"only the first has 1 \(cam"):
        feature_rows.evaluate_files("sysu_mm01", str(path), compare=str(tmp_path / "G.npz"), galleries=["agw"])


def test_near_chance_is_said_with_its_likely_causes(tmp_path):
    index = definitions.small_regdb(ids=40)
    rng = np.random.default_rng(0)
    for name, centres in (("noise", 0), ("good", 3)):
        features_ND = centres * rng.standard_normal((41, 32))[index.pids] + rng.standard_normal((len(index), 32))
        save_features(tmp_path / f"{name}.npz", features_ND, index)
        rows = feature_rows.evaluate_files("regdb", str(tmp_path / f"{name}.npz"))
        said = [note for note in feature_rows.notes(rows) if "near chance" in note]
        assert bool(said) == (name == "noise")
        assert not said or "weights that were not loaded" in said[0]


def test_a_mistyped_mode_is_named_before_any_file_is_read():
    with pytest.raises(BdfError, match="mode: expected one of all, indoor; found 'al'; did you mean 'all'"):
        feature_rows.evaluate_files("sysu_mm01", "nowhere.npz", modes=["al"])
