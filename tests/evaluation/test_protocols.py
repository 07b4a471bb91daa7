"""Every protocol from features to percent, against the definitions in plain loops, and the published check values."""

import numpy as np
import protocol_definitions as definitions
import pytest
import scipy.io as scipy_io

from bdf_jax.data.index import INFRARED, VISIBLE, ImageIndex
from bdf_jax.datasets import gallery
from bdf_jax.errors import BdfError
from bdf_jax.evaluation import harness
from bdf_jax.evaluation.protocols import protocols_for
from bdf_jax.evaluation.statistics import METRICS

pytestmark = pytest.mark.smoke

ALL, INDOOR = (1, 2, 4, 5), (1, 2)


def percent(row):
    return [row[metric] for metric in METRICS]


def permutations_of(index: ImageIndex, seed: int):
    """Official-style permutations for the tree of an index."""
    rng = np.random.default_rng(seed)
    visible = index.modalities == VISIBLE
    keys, counts = np.unique(np.stack([index.cams, index.pids], 1)[visible], axis=0, return_counts=True)
    return {
        (cam, pid): np.stack([1 + rng.permutation(count) for _ in range(10)])
        for (cam, pid), count in zip(keys.tolist(), counts.tolist(), strict=True)
    }


def picks_of(permutations):
    counts = {key: value.shape[1] for key, value in permutations.items()}
    return gallery.Picks("these permutations", np.zeros(0, int), counts, permutations)


def by_definition(features_ND, index, query_modality, gallery_of_trial, ignores, cmc):
    """The mean over ten trials of the plain loops' metrics."""
    query = np.flatnonzero(index.modalities == query_modality)
    trials = []
    for trial in range(10):
        rows = gallery_of_trial(trial)
        scores_QG = features_ND[query] @ features_ND[rows].T
        labels = definitions.labels(index, query), definitions.labels(index, rows)
        trials.append(definitions.metrics(scores_QG, *labels, ignores, cmc)[0])
    return np.mean(trials, axis=0), trials


@pytest.fixture(scope="module")
def real_geometry():
    """The features of the published check values, at the true geometry of SYSU-MM01."""
    names, pids = gallery.published_images()
    cams = np.asarray([int(name[3]) for name in names])
    numbers = [gallery.image_number(name) for name in names]
    rng = np.random.default_rng(20201012)
    centres, cameras = rng.standard_normal((534, 64)), rng.standard_normal((7, 64))
    own = np.stack(
        [
            np.random.default_rng(key).standard_normal(64)
            for key in zip(pids.tolist(), cams.tolist(), numbers, strict=True)
        ]
    )
    features_ND = centres[pids] + 0.6 * cameras[cams] + 1.5 * own
    modalities = np.where(np.isin(cams, (3, 6)), INFRARED, VISIBLE).astype(np.int8)
    index = ImageIndex(names, pids.astype(np.int32), cams.astype(np.int32), modalities)
    return features_ND, index


def test_published_check_values(real_geometry):
    features_ND, index = real_geometry
    protocols = protocols_for("sysu_mm01", index, picks=gallery.shipped_picks())
    rows = {(r["gallery"], r["mode"], r["shots"]): r for r in harness.evaluate(features_ND, index, protocols)}

    assert len(rows) == 8
    expected = {
        "official": [57.820142, 86.910334, 93.718117, 97.804365, 50.591553, 30.821052],
        "agw": [57.278464, 86.547462, 93.794374, 97.925323, 50.390632, 30.918801],
    }
    for family, values in expected.items():
        np.testing.assert_allclose(percent(rows[family, "all", 1]), values, atol=2e-6)
        sizes = {("all", 1): 301, ("all", 10): 3010, ("indoor", 1): 112, ("indoor", 10): 1120}
        for (mode, shots), size in sizes.items():
            row = rows[family, mode, shots]
            assert (row["trials"], row["gallery_size"]) == (10, size)
            assert row["queries"] == {"all": 3803, "indoor": 2208}[mode]


def test_row_order_of_the_index_changes_nothing(real_geometry):
    features_ND, index = real_geometry
    shuffled = np.random.default_rng(0).permutation(len(index))
    options = {"picks": gallery.shipped_picks(), "modes": ["indoor"], "shots": [1]}
    rows = harness.evaluate(features_ND, index, protocols_for("sysu_mm01", index, **options))
    other_index = index.select(shuffled)
    others = harness.evaluate(features_ND[shuffled], other_index, protocols_for("sysu_mm01", other_index, **options))
    for row, other in zip(rows, others, strict=True):
        np.testing.assert_allclose(percent(other), percent(row), atol=1e-9)


@pytest.mark.parametrize(("mode", "cams"), [("all", ALL), ("indoor", INDOOR)])
@pytest.mark.parametrize("shots", [1, 10])
def test_sysu_galleries_and_metrics_with_ties_and_absent_identities(mode, cams, shots):
    index = definitions.small_sysu(seed=shots)
    features_ND = definitions.coarse_features(index, seed=3)
    permutations = permutations_of(index, seed=4)
    galleries = {
        "official": lambda t: definitions.official_gallery(index, permutations, cams, shots, t),
        "agw": lambda t: definitions.agw_gallery(index, cams, shots, t),
    }
    protocols = protocols_for("sysu_mm01", index, modes=[mode], shots=[shots], picks=picks_of(permutations))
    rows = harness.evaluate(features_ND, index, protocols, similarity="dot")
    for protocol, row in zip(protocols, rows, strict=True):
        draw = galleries[protocol.gallery]
        assert [r.tolist() for r in protocol.gallery_rows] == [draw(t) for t in range(10)]
        expected, trials = by_definition(features_ND, index, INFRARED, draw, definitions.sysu_ignores, "unique")
        np.testing.assert_allclose(percent(row), expected, atol=1e-5)
        for one, values in zip(row["per_trial"], trials, strict=True):
            np.testing.assert_allclose(percent(one), values, atol=1e-5)


def test_camera_3_ignores_camera_2_whoever_it_shows():
    index = definitions.sysu_index(
        [
            ("cam3/0001/0001.jpg", 1, 3),
            ("cam6/0001/0001.jpg", 1, 6),
            ("cam1/0001/0001.jpg", 1, 1),
            ("cam2/0001/0001.jpg", 1, 2),
            ("cam2/0002/0001.jpg", 2, 2),
        ]
    )
    features_ND = np.asarray([[1, 0], [1, 0], [0.1, 1], [1, 0.1], [1, 0]], np.float32)  # identity 2 is nearest
    (protocol,) = protocols_for("sysu_mm01", index, modes=["all"], shots=[1], galleries=["agw"], trial=0)
    (measured,) = harness.measure(features_ND, index, [protocol])
    assert index.cams[protocol.query_rows].tolist() == [3, 6]
    assert measured.ap_TQ[0].tolist() == pytest.approx([1, (1 / 2 + 2 / 3) / 2])
    assert measured.rank_TQ[0].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("direction", "query", "other"),
    [("visible_to_thermal", VISIBLE, INFRARED), ("thermal_to_visible", INFRARED, VISIBLE)],
)
def test_regdb_both_directions(direction, query, other):
    index = definitions.small_regdb()
    features_ND = definitions.coarse_features(index, seed=5)
    protocols = protocols_for("regdb", index, directions=[direction], trial=4)
    (row,) = harness.evaluate(features_ND, index, protocols, similarity="dot")
    everyone = np.flatnonzero(index.modalities == other)
    expected, _ = by_definition(features_ND, index, query, lambda t: everyone, definitions.nothing_ignored, "raw")
    np.testing.assert_allclose(percent(row), expected, atol=1e-5)
    assert (row["trials"], row["per_trial"][0]["trial"], row["gallery_size"]) == (1, 4, len(everyone))


@pytest.mark.parametrize(
    ("direction", "query", "other"),
    [("visible_to_infrared", VISIBLE, INFRARED), ("infrared_to_visible", INFRARED, VISIBLE)],
)
def test_llcm_ignores_only_its_own_identity_in_its_own_camera(direction, query, other):
    index = definitions.small_llcm(seed=6)
    features_ND = definitions.coarse_features(index, seed=7)
    protocols = protocols_for("llcm", index, directions=[direction])
    (row,) = harness.evaluate(features_ND, index, protocols, similarity="dot")
    expected, _ = by_definition(
        features_ND,
        index,
        query,
        lambda t: definitions.agw_gallery(index, range(1, 10), 1, t, other),
        definitions.llcm_ignores,
        "unique",
    )
    np.testing.assert_allclose(percent(row), expected, atol=1e-5)


def test_all_equal_features_rank_by_gallery_order():
    index = definitions.small_sysu(seed=8, ids=30)
    features_ND = np.tile(np.random.default_rng(0).standard_normal(65), (len(index), 1))
    permutations = permutations_of(index, seed=9)
    protocols = protocols_for("sysu_mm01", index, shots=[10], modes=["all"], picks=picks_of(permutations))
    rows = harness.evaluate(features_ND, index, protocols)
    for protocol, row in zip(protocols, rows, strict=True):
        trials = [
            definitions.metrics(
                np.zeros((len(protocol.query_rows), len(rows))),
                definitions.labels(index, protocol.query_rows),
                definitions.labels(index, rows),
                definitions.sysu_ignores,
                "unique",
            )[0]
            for rows in protocol.gallery_rows
        ]
        np.testing.assert_allclose(percent(row), np.mean(trials, axis=0), atol=1e-5)


def test_a_query_without_match_leaves_every_mean():
    index = definitions.sysu_index(
        [
            ("cam3/0001/0001.jpg", 1, 3),
            ("cam3/0003/0001.jpg", 3, 3),  # nobody in the gallery
            ("cam1/0001/0001.jpg", 1, 1),
            ("cam1/0002/0001.jpg", 2, 1),
        ]
    )
    features_ND = np.asarray([[1, 0], [0, 1], [1, 0.2], [0, 1]])
    protocols = protocols_for("sysu_mm01", index, modes=["all"], shots=[1], galleries=["agw"])
    (row,) = harness.evaluate(features_ND, index, protocols)
    assert (row["queries"], row["queries_without_match"], row["R1"], row["R20"], row["mAP"]) == (1, 1, 100, 100, 100)


def test_no_query_with_a_match_is_an_error():
    index = definitions.sysu_index([("cam3/0001/0001.jpg", 1, 3), ("cam1/0002/0001.jpg", 2, 1)])
    protocols = protocols_for("sysu_mm01", index, modes=["all"], shots=[1], galleries=["agw"])
    with pytest.raises(BdfError, match="no query has a match"):
        harness.evaluate(np.eye(2), index, protocols)


def test_a_gallery_under_20_identities_has_an_r20():
    index = definitions.small_regdb(ids=3, images=2)
    row = harness.evaluate(definitions.coarse_features(index, 1), index, protocols_for("regdb", index))[0]
    assert row["R20"] == 100


def test_two_images_of_one_number_are_no_official_choice():
    index = definitions.sysu_index(
        [("cam1/0001/0001.jpg", 1, 1), ("cam1/0001/0001.png", 1, 1), ("cam3/0001/0001.jpg", 1, 3)]
    )
    picks = gallery.Picks("a file", np.zeros(0, int), {(1, 1): 2}, {(1, 1): np.array([[1, 2]])})
    with pytest.raises(BdfError, match=r"'cam1/0001/0001.jpg' and 'cam1/0001/0001.png' have one number"):
        gallery.official_gallery(index, picks, cams=[1], shots=1, trial=0)


def test_official_picks_that_do_not_fit_name_the_other_family():
    index = definitions.small_sysu(seed=10)
    with pytest.raises(BdfError, match=r"pairs of camera and identity differ.*--gallery=agw"):
        protocols_for("sysu_mm01", index, picks=gallery.shipped_picks())
    with pytest.raises(BdfError, match="--gallery=agw"):
        protocols_for("sysu_mm01", index, galleries=["official"])
    assert protocols_for("sysu_mm01", index, galleries=["agw"])


def test_a_tree_brings_its_own_permutations(tmp_path):
    index = definitions.small_sysu(seed=11)
    permutations = permutations_of(index, seed=12)
    cells = np.empty((6, 1), object)
    for cam in range(1, 7):
        cells[cam - 1, 0] = np.empty((6, 1), object)
        for pid in range(1, 7):
            cells[cam - 1, 0][pid - 1, 0] = permutations.get((cam, pid), np.zeros((10, 0))).astype(np.uint8)
    (tmp_path / "exp").mkdir()
    scipy_io.savemat(tmp_path / "exp" / "rand_perm_cam.mat", {"rand_perm_cam": cells})

    assert gallery.tree_picks(tmp_path / "elsewhere") is None
    picks = gallery.tree_picks(tmp_path)
    assert picks is not None
    assert picks.counts == {key: value.shape[1] for key, value in permutations.items()}
    protocols = protocols_for("sysu_mm01", index, galleries=["official"], modes=["all"], shots=[10], picks=picks)
    expected = definitions.official_gallery(index, permutations, ALL, 10, 7)
    assert protocols[0].gallery_rows[7].tolist() == expected

    (tmp_path / "exp" / "rand_perm_cam.mat").write_bytes(b"not a MATLAB file")
    with pytest.raises(BdfError, match=r"rand_perm_cam\.mat"):
        gallery.tree_picks(tmp_path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"modes": ["indor"]}, "did you mean 'indoor'"),
        ({"shots": [5]}, "1, 10"),
        ({"galleries": ["own"]}, "official, agw"),
        ({"directions": ["visible_to_infrared"]}, "infrared_to_visible"),
        ({"trial": 10}, "0 to 9"),
    ],
)
def test_unknown_choices_name_the_known_ones(options, said):
    with pytest.raises(BdfError, match=said):
        protocols_for("sysu_mm01", definitions.small_sysu(seed=1), **options)


def test_a_camera_of_the_other_modality_is_an_error():
    index = definitions.small_sysu(seed=1)
    wrong = ImageIndex(index.names, index.pids, index.cams, 1 - index.modalities)
    with pytest.raises(BdfError, match="camera that does not go with their modality"):
        protocols_for("sysu_mm01", wrong, galleries=["agw"])
