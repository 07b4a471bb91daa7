"""Galleries: the ranking by its definition, files that come back as they were or are refused, and how both look."""

import json
import os
import shutil
import tracemalloc
import zipfile

import numpy as np
import pytest
from PIL import Image
from small_run import CONFIG, SIZE, save_run

import bdf_jax
from bdf_jax.api.gallery import Gallery
from bdf_jax.api.model import Model
from bdf_jax.api.warned import SkippedImages
from bdf_jax.errors import BdfError


@pytest.fixture(scope="module")
def gallery(model, people):
    return model.gallery(people, progress=False)


@pytest.fixture
def saved(gallery, tmp_path):
    gallery.save(tmp_path / "people.npz")
    return tmp_path / "people.npz"


def test_a_search_ranks_by_cosine(model, gallery, people):
    """By plain loops over features of each image alone."""
    paths = model.paths(people)
    queries = [paths[3], paths[8]]
    found = gallery.search(queries, 4, modality="infrared", progress=False)
    for q, query in enumerate(queries):
        vector = model.embed(query, "infrared")[0]
        scores = [float(vector @ model.embed(path, "visible")[0]) for path in paths]
        best = sorted(range(len(paths)), key=lambda row: -scores[row])[:4]
        np.testing.assert_allclose(found.scores[q], [scores[row] for row in best], atol=1e-5)
        assert found.names[q].tolist() == [os.path.relpath(paths[row], people) for row in best]
        assert found.ids[q].tolist() == [os.path.basename(os.path.dirname(paths[row])) for row in best]


def test_an_image_of_the_gallery_finds_itself(gallery, model, people):
    for path in model.paths(people)[:3]:
        names, ids, scores = gallery.search(path, 1, modality="visible")
        assert (names[0], ids[0]) == (os.path.relpath(path, people), os.path.basename(os.path.dirname(path)))
        assert scores[0] == pytest.approx(1, abs=1e-5)


def test_one_image_gives_a_list_and_several_give_lists(gallery, people):
    image = np.zeros((*SIZE, 3), np.uint8)
    assert [part.shape for part in gallery.search(image, 3)] == [(3,)] * 3
    assert [part.shape for part in gallery.search([image], 3)] == [(1, 3)] * 3
    assert [part.shape for part in gallery.search(people, 3, progress=False)] == [(10, 3)] * 3
    assert gallery.search(image).scores.shape == (10,)
    assert model_of_two(gallery).search(image).scores.shape == (2,)


def model_of_two(gallery):
    return gallery.model.gallery(np.zeros((2, *SIZE, 3), np.uint8), progress=False)


def test_equal_images_keep_the_order_of_the_gallery(model):
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    gallery = model.gallery([image, 255 - image, image], progress=False)
    assert gallery.search(image, 3, "visible").names.tolist() == ["image 0", "image 2", "image 1"]


@pytest.mark.parametrize("k", [0, -1, 11, 2.5, "3", True, [1]])
def test_a_k_that_is_none_is_refused(gallery, k):
    with pytest.raises(BdfError, match="k: expected a number from 1 to the gallery's 10 images, found"):
        gallery.search(np.zeros((*SIZE, 3), np.uint8), k)


def test_who_is_shown(model, tmp_path, people):
    """The folder of an image; its own name directly in the gallery's folder; or what is said."""
    (tmp_path / "cam1" / "0007").mkdir(parents=True)
    Image.new("RGB", (4, 8)).save(tmp_path / "cam1" / "0007" / "0001.png")
    Image.new("RGB", (4, 8)).save(tmp_path / "anna.png")
    paths = [str(tmp_path / "anna.png"), str(tmp_path / "cam1" / "0007" / "0001.png")]

    def ids(images, given=None):
        return model.gallery(images, ids=given, progress=False).ids.tolist()

    assert ids(tmp_path) == ["anna", "0007"]
    assert ids(paths) == [tmp_path.name, "0007"]
    assert ids(np.zeros((2, *SIZE, 3), np.uint8)) == ["image 0", "image 1"]
    assert ids(tmp_path, [4, "b"]) == ["4", "b"]
    assert ids(tmp_path, {"anna.png": "Anna", "cam1/0007/0001.png": 7}) == ["Anna", "7"]
    assert ids(tmp_path, lambda name: name[:4]) == ["anna", "cam1"]
    (tmp_path / "ids.csv").write_text("id,name\nAnna,anna.png\n7,cam1/0007/0001.png\n")
    assert ids(tmp_path, tmp_path / "ids.csv") == ["Anna", "7"]
    (tmp_path / "wrong.csv").write_text("person,file\nAnna,anna.png\n")
    for given, problem in (
        ([1, 2, 3], "ids: expected one for each of 2 images, found 3"),
        ({"anna.png": 1}, "ids: 1 of 2 images have none: cam1/0007/0001.png"),
        (tmp_path / "wrong.csv", "columns name and id"),
        (tmp_path / "none.csv", "columns name and id"),
    ):
        with pytest.raises(BdfError, match=problem):
            ids(tmp_path, given)


def test_what_cannot_be_read_is_left_out_and_named(model, people, tmp_path):
    shutil.copytree(people, tmp_path / "people")
    (tmp_path / "people" / "person 0" / "bad.png").write_bytes(b"nothing")
    with pytest.raises(BdfError, match=r"person 0/bad\.png: expected an image"):
        model.gallery(tmp_path / "people", progress=False)
    with pytest.warns(SkippedImages, match=r"1 of 11 images skipped: person 0/bad\.png"):
        gallery = model.gallery(tmp_path / "people", on_error="skip", progress=False)
    assert len(gallery) == len(gallery.ids) == len(gallery.features_ND) == 10
    assert np.isfinite(gallery.features_ND).all()
    assert "bad.png" in gallery.skipped[0]
    assert "bad.png" in repr(gallery)
    with pytest.warns(SkippedImages, match="1 of 2 images skipped"):
        found = gallery.search([tmp_path / "no.png", tmp_path / "people" / "person 1" / "0.jpg"], 1, on_error="skip")
    assert found.names.shape == (1, 1)
    assert "no.png" in found.skipped[0]


def test_a_saved_gallery_comes_back_memory_mapped(gallery, saved, model, people):
    for opened in (bdf_jax.open_gallery(saved), Gallery.open(str(saved), model), model.open_gallery(saved)):
        assert isinstance(opened.features_ND, np.memmap)
        np.testing.assert_array_equal(opened.features_ND, gallery.features_ND)
        assert (opened.names.tolist(), opened.ids.tolist()) == (gallery.names.tolist(), gallery.ids.tolist())
        assert (opened.modality, opened.folder) == ("visible", str(people))
        found, expected = (each.search(people / "person 2" / "0.jpg", 5) for each in (opened, gallery))
        assert found.lists() == expected.lists()
    with np.load(saved) as arrays:  # anyone can read it
        np.testing.assert_array_equal(arrays["features"], gallery.features_ND)
        assert arrays["names"].tolist() == gallery.names.tolist()
    assert sorted(os.listdir(saved.parent)) == ["people.npz"]


def test_opening_does_not_read_the_features(model, tmp_path):
    N, D = 20_000, 128
    names = np.array([f"{row}.png" for row in range(N)])
    Gallery(model, np.ones((N, D), np.float32), names, names, "visible").save(tmp_path / "large.npz")
    for verify in (True, False):
        tracemalloc.start()
        opened = bdf_jax.open_gallery(tmp_path / "large.npz", model, verify=verify)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(opened) == N
        assert most < opened.features_ND.nbytes / 2


def test_a_gallery_of_another_model_or_setting_is_refused(saved, run, tmp_path):
    other = bdf_jax.load(save_run(tmp_path / "other", CONFIG, seed=1))
    for model in (other, bdf_jax.load(run, feature="pooled")):
        with pytest.raises(BdfError, match=r"people\.npz: this gallery was embedded by another model, of step 7 in"):
            model.open_gallery(saved)
    assert len(bdf_jax.load(run, batch_size=1).open_gallery(saved)) == 10


def test_without_a_model_the_one_it_was_embedded_by_is_loaded_with_its_settings(run, people, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    gallery = bdf_jax.load(tmp_path / "run", use="concat").gallery(people, progress=False)
    gallery.save(tmp_path / "g.npz")
    assert bdf_jax.open_gallery(tmp_path / "g.npz").model.settings["use"] == "concat"
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(BdfError, match=r"g\.npz: the model of this gallery cannot be loaded again .*model="):
        bdf_jax.open_gallery(tmp_path / "g.npz")


def test_a_damaged_gallery_is_refused(saved, model, tmp_path):
    whole = saved.read_bytes()
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        saved.write_bytes(whole[:length])
        with pytest.raises(BdfError, match=r"people\.npz: damaged gallery, or not a gallery"):
            model.open_gallery(saved)
    random, noticed = np.random.default_rng(0), 0
    for position in random.integers(0, len(whole), 150):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << int(random.integers(8))
        saved.write_bytes(bytes(flipped))
        try:
            opened = model.open_gallery(saved)
        except BdfError:
            noticed += 1
        else:  # a bit that nobody reads, such as the time of a member
            with np.load(saved) as arrays:
                np.testing.assert_array_equal(opened.features_ND, arrays["features"])
                assert opened.names.tolist() == arrays["names"].tolist()
    assert noticed > 100


def test_other_files_are_refused(model, tmp_path, people):
    np.savez(tmp_path / "features.npz", features=np.zeros((2, 3)))
    np.savez_compressed(tmp_path / "compressed.npz", **gallery_arrays(features=np.zeros((2, 3), np.float32)))
    np.savez(tmp_path / "objects.npz", **gallery_arrays(names=np.array([{}, {}])))
    np.savez(tmp_path / "lengths.npz", **gallery_arrays(names=np.array(["a", "b", "c"])))
    np.savez(tmp_path / "format.npz", **gallery_arrays(about=np.asarray(json.dumps(ABOUT | {"format": 9}))))
    for name, problem in (
        ("features.npz", "not a gallery: it lacks names"),
        ("compressed.npz", "compressed"),
        ("objects.npz", "damaged gallery, or not a gallery"),
        ("lengths.npz", "do not fit"),
        ("format.npz", "format 1, found 9"),
        ("none.npz", "found nothing"),
        (str(people), "found a folder"),
    ):
        with pytest.raises(BdfError, match=problem):
            model.open_gallery(tmp_path / name)


ABOUT = {"format": 1, "model": "", "source": "", "step": 0, "folder": ""}


def gallery_arrays(**changes):
    arrays = {
        "features": np.zeros((2, 3), np.float32),
        "names": np.array(["a", "b"]),
        "ids": np.array(["a", "b"]),
        "modality": np.zeros(2, np.int8),
        "about": np.asarray(json.dumps(ABOUT)),
    }
    return arrays | changes


def test_what_is_no_path_and_no_model_is_refused(gallery, saved, model, run, people):
    for attempt, problem in (
        (lambda: bdf_jax.open_gallery(None), "expected the path of a gallery file, found NoneType"),
        (lambda: bdf_jax.open_gallery(saved, 3), "model: expected what bdf_jax.load returns, or a path, found int"),
        (lambda: gallery.save(None), "expected the path of a file to write, found NoneType"),
        (lambda: gallery.save(""), "expected the name of a file"),
        (
            lambda: model.gallery(people, ids=3),
            "ids: expected a list, a dictionary, a function .* found int",
        ),
    ):
        with pytest.raises(BdfError, match=problem):
            attempt()
    assert len(bdf_jax.open_gallery(saved, run)) == 10


def test_what_cannot_be_saved_leaves_the_old_file(gallery, saved, tmp_path):
    before = saved.read_bytes()
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder", saved / "below"):
        with pytest.raises(BdfError, match="cannot be written"):
            gallery.save(path)
    assert saved.read_bytes() == before
    gallery.save(saved)  # over itself
    opened = gallery.model.open_gallery(saved)
    opened.save(saved)  # also while it is mapped
    np.testing.assert_array_equal(gallery.model.open_gallery(saved).features_ND, gallery.features_ND)
    assert zipfile.ZipFile(saved).testzip() is None


def test_names_of_any_bytes_survive(model, tmp_path):
    names = [b"<script>alert(1)</script>", b"new\nline", b"latin-\xe9", b"quote\"'&", b"[red]markup[/red]"]
    for name in names:
        folder = os.path.join(os.fsencode(tmp_path / "g"), name.replace(b"/", b""))
        os.makedirs(folder)
        Image.new("RGB", (8, 16), "green").save(os.path.join(folder, b"0.png"))
    gallery = model.gallery(tmp_path / "g", progress=False)
    gallery.save(tmp_path / "g.npz")
    opened = model.open_gallery(tmp_path / "g.npz")
    assert opened.names.tolist() == gallery.names.tolist()
    assert sorted(map(os.fsencode, opened.ids.tolist())) == sorted(name.replace(b"/", b"") for name in names)
    found = opened.search(tmp_path / "g", progress=False)
    for shown in (opened._repr_html_(), found._repr_html_()):
        assert "<script" not in shown
        assert "&lt;script&gt;" in shown
        assert shown.encode()
        assert shown.count("<img ") >= 5  # read again from the folder
    assert repr(found).encode()
    assert repr(opened).encode()
    assert json.dumps(found.lists())


def test_a_picture_that_is_gone_leaves_a_place(model, people, tmp_path):
    shutil.copytree(people, tmp_path / "people")
    model.gallery(tmp_path / "people", progress=False).save(tmp_path / "g.npz")
    shutil.rmtree(tmp_path / "people")
    opened = model.open_gallery(tmp_path / "g.npz")
    assert "no picture at hand" in opened._repr_html_()
    found = opened.search(np.zeros((*SIZE, 3), np.uint8), 2)
    assert found._repr_html_().count("<img ") == 1  # the query


def test_pictures_are_an_array_that_shows_itself(model, people):
    pictures = model.derive(people, "visible", progress=False)
    assert pictures._repr_html_().count("<img ") == 20
    assert "person 0/0.jpg" in pictures._repr_html_()
    assert pictures[:3]._repr_html_().count("<img ") == 3
    assert pictures[0]._repr_html_().count("<img ") == 1
    assert (pictures / 255)[0] is not None
    assert type(pictures + 1) is np.ndarray
    assert isinstance(pictures.mean(), float)
    assert pictures.reshape(-1)._repr_html_() is None
    assert repr(pictures) == f"<Pictures (10, {SIZE[0]}, {SIZE[1]}, 3) uint8, visible images and their derivatives>"


@pytest.mark.parametrize(("value", "said"), [(0, "are all zero, and have no cosine"), (np.nan, "are NaN or infinite")])
def test_vectors_without_a_similarity_are_refused_by_name(value, said, gallery, saved, model, people, monkeypatch):
    embed_images = Model.embed_images

    def spoilt(self, *arguments, **options):
        gathered, features_ND, failed = embed_images(self, *arguments, **options)
        features_ND[-1] = value
        return gathered, features_ND, failed

    with monkeypatch.context() as patched:
        patched.setattr(Model, "embed_images", spoilt)
        with pytest.raises(BdfError, match=rf"^features of 1 of 10 images {said}.*: person \d/\d\.(jpg|png)"):
            model.gallery(people, progress=False)
        with pytest.raises(BdfError, match=rf"^queries: features of 1 of 10 images {said}"):
            gallery.search(people, progress=False)
    Gallery(model, np.where(np.arange(10)[:, None] == 3, np.float32(value), gallery.features_ND), gallery.names,
            gallery.ids, "visible").save(saved)  # fmt: skip
    with pytest.raises(BdfError, match=rf"people\.npz: damaged gallery: features of 1 of 10 images {said}"):
        model.open_gallery(saved)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\xff\xd8\xff\xe0" + bytes(40), "found a JPEG image"),
        (b"\x80\x04\x95", "found a pickle"),
        (b"a,b\n", "found text"),
        (b"", "found an empty file"),
    ],
)
def test_a_file_of_another_kind_is_told_what_it_is(data, said, model, tmp_path):
    (tmp_path / "g.npz").write_bytes(data)
    with pytest.raises(BdfError, match=rf"g\.npz: damaged gallery, or not a gallery: {said}"):
        model.open_gallery(tmp_path / "g.npz")
