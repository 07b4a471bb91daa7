"""Features that cannot be ranked honestly are refused, or said in a note: never a number in silence."""

import re

import ml_dtypes
import numpy as np
import protocol_definitions as definitions
import pytest
from feature_files import arrays_of, good, rows_of

from bdf_jax.errors import BdfError
from bdf_jax.evaluation import evaluate, protocols_for, top_k
from bdf_jax.evaluation.feature_rows import evaluate_files, notes


def with_features(change):
    arrays = good()
    features_ND = arrays["features"].copy()
    changed = change(features_ND)
    return {**arrays, "features": features_ND if changed is None else changed}


def every_fifth(value):
    def change(features_ND):
        features_ND[::5] = value

    return change


def test_good_features_have_no_notes(tmp_path):
    for similarity in ("cosine", "dot", "euclidean"):
        rows = rows_of(tmp_path / "F.npz", good(), similarity=similarity)
        assert notes(rows)[0].startswith("these are not the images of the published test set")
        assert len(notes(rows)) == 1
        assert rows[0]["notes"] == []


@pytest.mark.parametrize(
    ("change", "similarity", "said"),
    [
        (every_fifth(0), "cosine", r"features of 42 of 210 images are all zero.*cam1/0001/0001\.jpg, .* and 39 more"),
        (every_fifth(0), "dot", r"features of 42 of 210 images are all zero"),
        (every_fifth(-0.0), "cosine", r"features of 42 of 210 images are all zero"),
        (lambda f: f * 0, "cosine", r"features of 210 of 210 images are all zero"),
        (lambda f: f * 0, "euclidean", r"features of all 210 images are the same"),
        (lambda f: f * 0 + 7, "cosine", r"features of all 210 images are the same"),
        (lambda f: np.float64(1e-300) * f, "cosine", r"210 of 210 images are too small for float32"),
        (lambda f: f * np.float32(1e-40), "cosine", r"210 of 210 images are too small for float32"),
        (lambda f: np.where(np.arange(210)[:, None] == 8, np.float64(1e-300), f), "cosine", r"1 of 210 .* too small"),
        (lambda f: f * np.float32(1e20), "dot", r"210 of 210 images are so long .* beyond float32"),
        (lambda f: f * np.float32(1e20), "euclidean", r"210 of 210 images are so long .* beyond float32"),
        (lambda f: f * np.float32(1e-20), "dot", r"so short .* too small for float32"),
        (lambda f: f * np.float32(1e-20), "euclidean", r"so short .* too small for float32"),
        (every_fifth(np.float32(2e19)), "dot", r"42 of 210 images are so long"),
        (every_fifth(np.nan), "cosine", r"42 of 210 images are NaN, infinite or beyond float32"),
        (every_fifth(-np.inf), "euclidean", r"42 of 210 images are NaN, infinite or beyond float32"),
        (lambda f: (f * 1e38).astype(np.float64) * 100, "cosine", r"images are NaN, infinite or beyond float32"),
        # What float16 cannot hold is infinite in the file.
        (lambda f: np.clip(f * np.float32(1e5), -7e4, 7e4).astype(np.float16), "cosine", r"float16 ends at 65,504"),
        # So far from the origin that rounding decides the order.
        (lambda f: f + np.float32(3000), "cosine", r"so close together that float32 cannot order them"),
        (lambda f: f + np.float32(1e6), "dot", r"so close together that float32 cannot order them"),
        (lambda f: f * np.float32(1e-3) + np.float32(1), "cosine", r"so close together"),
        (lambda f: f.astype(np.float64) + 1e7, "euclidean", r"features differ by less than float32 tells apart"),
        # One image so far from all others that the rest cannot be told apart.
        (lambda f: np.where(np.arange(210)[:, None] == 8, np.float32(1e15), f), "euclidean", "so close together"),
    ],
)
def test_what_cannot_be_ranked_is_refused(change, similarity, said, tmp_path):
    with np.errstate(over="ignore", under="ignore"):
        arrays = with_features(change)
        np.savez(tmp_path / "F.npz", **arrays)
    with pytest.raises(BdfError, match=said) as caught:
        evaluate_files("sysu_mm01", str(tmp_path / "F.npz"), galleries=["agw"], similarity=similarity)
    assert str(tmp_path / "F.npz") in str(caught.value)


@pytest.mark.parametrize("scale", [1e-25, 1e-10, 1e10, 1e18, 1e30])
def test_the_scale_of_features_is_no_matter_to_the_cosine(scale, tmp_path):
    (plain,) = rows_of(tmp_path / "F.npz", good())
    (scaled,) = rows_of(tmp_path / "F.npz", with_features(lambda f: f * np.float32(scale)))
    assert scaled["mAP"] == pytest.approx(plain["mAP"], abs=1e-9)


def test_half_precision_ranks_as_what_it_holds(tmp_path):
    (plain,) = rows_of(tmp_path / "F.npz", with_features(lambda f: f.astype(np.float16).astype(np.float32)))
    (half,) = rows_of(tmp_path / "F.npz", with_features(lambda f: f.astype(np.float16)))
    assert half["mAP"] == plain["mAP"]


def test_a_zero_in_distances_is_a_place_and_is_noted(tmp_path):
    def one_zero(features_ND):
        features_ND[3] = 0

    rows = rows_of(tmp_path / "F.npz", with_features(one_zero), similarity="euclidean")
    assert rows[0]["notes"] == [
        "features of 1 of 210 images are all zero (cam1/0001/0004.jpg): rows of an array that were never written look "
        "like this"
    ]
    assert "F: features of 1 of 210 images are all zero" in notes(rows)[0]


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_images_with_the_features_of_another_person_are_noted(similarity, tmp_path):
    def last_batch_twice(features_ND):
        features_ND[-16:] = features_ND[:16]

    rows = rows_of(tmp_path / "F.npz", with_features(last_batch_twice), similarity=similarity)
    note = rows[0]["notes"][0]
    assert note.startswith(
        "features of 32 of 210 images are exactly those of another image, 32 of them in common with another person's; "
        "most often those of cam1/0001/0001.jpg, cam"
    )
    assert f"F: {note}" in notes(rows)


def test_a_constant_for_many_images_is_noted(tmp_path):
    rows = rows_of(tmp_path / "F.npz", with_features(every_fifth(1)))
    assert "features of 42 of 210 images are exactly those of another image" in rows[0]["notes"][0]


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_scores_that_are_the_same_for_other_people_are_noted(similarity, tmp_path):
    def signs(features_ND):
        return np.sign(features_ND[:, :9])  # a code of nine bits has ten different scores

    notes_of = rows_of(tmp_path / "F.npz", with_features(signs), similarity=similarity)[0]["notes"]
    assert re.match(r"\d\d % of the matches among 210 images have exactly the score of another", notes_of[-1])


def test_one_number_has_no_direction_but_two(tmp_path):
    rows = rows_of(tmp_path / "F.npz", with_features(lambda f: f[:, :1]))
    assert "of the matches among 210 images have exactly the score of another person's image" in rows[0]["notes"][0]


def test_two_pictures_of_one_person_may_be_the_same(tmp_path):
    def twins(features_ND):
        features_ND[1] = features_ND[0]  # the same frame twice happens in every data set

    assert rows_of(tmp_path / "F.npz", with_features(twins))[0]["notes"] == []


def test_each_trial_says_its_own(tmp_path):
    index = definitions.small_regdb()
    for trial in (1, 2):
        arrays = arrays_of(index, definitions.coarse_features(index, seed=0, dimensions=40))
        if trial == 2:
            arrays["features"][5:9] = 1
        np.savez(tmp_path / f"t{trial}.npz", **arrays)
    rows = evaluate_files("regdb", f"{tmp_path / 't1.npz'},{tmp_path / 't2.npz'}")
    assert rows[0]["notes"][0].startswith("trial 2: features of 4 of 56 images are exactly those of another image")
    assert not [note for note in rows[0]["notes"] if note.startswith("trial 1")]


def test_from_python_the_same_is_refused_and_noted():
    arrays, index = good(), definitions.small_sysu(seed=1)
    protocols = protocols_for("sysu_mm01", index, galleries=["agw"])

    def with_rows(value, dtype=np.float32):
        features_ND = arrays["features"].astype(dtype)
        features_ND[:3] = value
        return features_ND

    with pytest.raises(BdfError, match=r"3 of 210 images are all zero.*cam1/0001/0001\.jpg"):
        evaluate(with_rows(0), index, protocols)
    with pytest.raises(BdfError, match=r"3 of 210 images are too small"):
        evaluate(with_rows(1e-200, np.float64), index, protocols)
    with pytest.raises(BdfError, match=r"3 of 210 images are so long"):
        evaluate(with_rows(1e19), index, protocols, similarity="dot")
    with pytest.raises(BdfError, match="expected floating point, found complex64"):
        evaluate(with_rows(1j, np.complex64), index, protocols)
    assert "exactly those of another" in evaluate(with_rows(1), index, protocols)[0]["notes"][0]
    assert evaluate(with_rows(2, ml_dtypes.bfloat16), index, protocols)[0]["mAP"] > 50


def test_search_refuses_products_that_say_nothing():
    rng = np.random.default_rng(0)
    queries_QD, gallery_GD = rng.standard_normal((2, 20, 8)).astype(np.float32)

    def spoilt(array, value):
        array = array.copy()
        array[13] = value
        return array

    for value, options in ((np.nan, {}), (-np.inf, {}), (np.nan, {"euclidean": True}), (0, {"normalise": True})):
        with pytest.raises(BdfError, match="not finite"):
            top_k(queries_QD, spoilt(gallery_GD, value), 3, block=4, **options)
        with pytest.raises(BdfError, match="not finite"):
            top_k(spoilt(queries_QD, value), gallery_GD, 3, block=4, **options)
    with pytest.raises(BdfError, match="not finite"):
        top_k(queries_QD, spoilt(gallery_GD, 3e38), 3, euclidean=True)  # its distance is infinite, and it would be last
    with pytest.raises(BdfError, match="floating point"):
        top_k(queries_QD + 1j, gallery_GD, 3)
    for scale in (1e-30, 1e30):
        expected = top_k(queries_QD, gallery_GD, 3, normalise=True)
        scaled = top_k(queries_QD * np.float32(scale), gallery_GD * np.float32(scale), 3, normalise=True)
        np.testing.assert_array_equal(scaled[1], expected[1])
