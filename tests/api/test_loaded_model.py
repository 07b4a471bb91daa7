"""A checkpoint as an object: any images in, the vectors of `evaluate.py` and pictures of derivatives out."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from small_run import CONFIG, SIZE, save_run

import bdf_jax
from bdf_jax.api.warned import SkippedImages
from bdf_jax.config import WorldConfig, vary
from bdf_jax.data.dataset import open_dataset
from bdf_jax.data.levels import NarrowRange
from bdf_jax.errors import BdfError
from bdf_jax.evaluation.features import embed_split
from bdf_jax.models import Network

ROOT = Path(__file__).parents[2]


def test_importing_the_package_imports_nothing_heavy():
    script = (
        "import sys, bdf_jax\n"
        "heavy = {'jax', 'flax', 'numpy', 'PIL', 'orbax', 'tensorflow_datasets', 'scipy', 'tqdm'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert {'load', 'Model', 'Gallery', 'open_gallery', 'BdfError'} <= set(dir(bdf_jax))\n"
        "from bdf_jax import Gallery, Model, load, open_gallery\n"
        "try: bdf_jax.loda\n"
        "except AttributeError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stdout == "module 'bdf_jax' has no attribute 'loda'\n", done.stderr


def test_a_checkpoint_loads_by_its_work_folder_and_by_its_own(run):
    for path, step in ((run, None), (str(run), 7), (run / "checkpoints", None), (run / "checkpoints" / "7", None)):
        model = bdf_jax.load(path, step)
        assert (model.step, model.image_size, model.num_classes) == (7, SIZE, 4)


@pytest.fixture
def ten_bits(people, tmp_path):
    """The same people by a camera of 10 bits, whose files have 16, and by one of 8, in grey."""
    for path in sorted(people.rglob("*.png")):
        grey = np.asarray(Image.open(path).convert("L"))
        for kind, values in (("8", grey), ("10", grey.astype(np.uint16) * 4)):
            copy = tmp_path / kind / path.relative_to(people)
            copy.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(copy)
    return tmp_path


def test_a_camera_of_ten_bits_is_told_and_seen_as_one_of_eight_with_a_white_level(run, model, ten_bits):
    expected = model.embed(ten_bits / "8", "infrared", progress=False)
    with pytest.warns(NarrowRange, match=r"^person 0/1\.png: its values go from .*\(white=1023 in Python.*4 more such"):
        dark = model.embed(ten_bits / "10", "infrared", progress=False)
    assert np.abs(dark - expected).max() > 1e-3
    given = {"white": 1020, "progress": False}
    np.testing.assert_array_equal(model.embed(ten_bits / "10", "infrared", **given), expected)
    np.testing.assert_array_equal(model.gallery(ten_bits / "10", "infrared", **given).features_ND, expected)
    np.testing.assert_array_equal(
        model.derive(ten_bits / "10", "infrared", **given).bases,
        model.derive(ten_bits / "8", "infrared", progress=False).bases,
    )
    with pytest.raises(BdfError, match="white: expected a value above black"):
        model.embed(ten_bits / "10", "infrared", white=5, black=7)
    # What was white in training is white here.
    trained = bdf_jax.load(run)
    trained.config = vary(trained.config, {"data.white": 1020.0})
    np.testing.assert_array_equal(trained.embed(ten_bits / "10", "infrared", progress=False), expected)


def test_pictures_of_a_saved_gallery_have_its_white_level(model, ten_bits, tmp_path):
    gallery = model.gallery(ten_bits / "10", "infrared", white=1020, progress=False)
    gallery.save(tmp_path / "g.npz")
    for row in range(len(gallery)):
        np.testing.assert_array_equal(bdf_jax.open_gallery(tmp_path / "g.npz").picture(row), gallery.picture(row))
    found = gallery.search(ten_bits / "10", 1, white=1020, progress=False)
    assert found.names[:, 0].tolist() == gallery.names.tolist()


def test_what_is_no_checkpoint_is_refused(run, tmp_path):
    for path, step, problem in (
        (tmp_path / "none", None, "no such folder"),
        (tmp_path, None, "expected a training run"),
        (run, 8, "no checkpoint of step 8; there are 7"),
        (None, None, "expected the path of a work folder or a checkpoint, found NoneType"),
    ):
        with pytest.raises(BdfError, match=problem):
            bdf_jax.load(path, step)
    with pytest.raises(BdfError, match=r"retrieve\.use"):
        bdf_jax.load(run, use="everything")


@pytest.mark.parametrize("changes", [{}, {"use": "concat", "feature": "pooled"}, {"use": "sum4", "flip_tta": True}])
def test_embeddings_are_those_of_evaluation(run, tmp_path_factory, changes):
    """Both over every test image of a data set, file by file, in both modalities."""
    data = tmp_path_factory.mktemp("data")
    world = WorldConfig(train_ids=4, test_ids=3, images=1, size=(40, 20))
    config = vary(CONFIG, {"data.dir": str(data), **{f"retrieve.{k}": v for k, v in changes.items()}})
    config = vary(config, {f"data.world.{k}": v for k, v in vars(world).items()})
    dataset = open_dataset(config.data, progress=False)
    model = bdf_jax.load(run, **changes)
    network = Network.of(config, 4)
    expected = embed_split(
        network, model.variables, dataset.test, image_size=SIZE, settings=config.retrieve, batch_size=8, progress=False
    )
    index = dataset.test.index
    for number, modality in enumerate(("visible", "infrared")):
        rows = np.flatnonzero(index.modalities == number)
        found = model.embed([os.path.join(dataset.root, index.names[row]) for row in rows], modality, progress=False)
        np.testing.assert_allclose(found, expected[rows], atol=1e-5)
        if changes.get("use") != "sum4":
            np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert found.dtype == np.float32


def test_the_modality_matters(model, people):
    visible, infrared = (model.embed(people, modality, progress=False) for modality in ("visible", "infrared"))
    assert np.abs(visible - infrared).max() > 1e-2


def test_rows_are_in_the_order_of_paths_and_do_not_depend_on_what_is_beside_them(model, people):
    paths = model.paths(people)
    assert paths == sorted(str(path) for path in people.rglob("*.*"))
    together = model.embed(people, "visible", progress=False)
    assert together.shape == (10, model.embed(paths[0], "visible").shape[1])
    np.testing.assert_array_equal(model.embed(paths, "visible", progress=False), together)
    for row in (0, 9):
        np.testing.assert_allclose(model.embed(paths[row], "visible")[0], together[row], atol=1e-5)
        np.testing.assert_allclose(model.embed(Path(paths[row]), "visible")[0], together[row], atol=1e-5)


def test_every_kind_of_image_in_memory_is_embedded_as_the_file_is(model, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, *SIZE, 3), dtype=np.uint8)
    for row, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{row}.png")
    expected = model.embed(tmp_path, "infrared", progress=False)
    given = {
        "a stack": pixels,
        "a list of arrays": list(pixels),
        "a stack of JAX": jnp.asarray(pixels),
        "a list of JAX": [jnp.asarray(image) for image in pixels],
        "16 bits": pixels.astype(np.uint16) * 257,
        "floating point": pixels / 255,
        "floating point of JAX": jnp.asarray(pixels / np.float32(255)),
        "Pillow": [Image.fromarray(image) for image in pixels],
        "a mixture": [
            pixels[0],
            Image.fromarray(pixels[1]),
            str(tmp_path / "2.png"),
            tmp_path / "3.png",
            pixels[4] / 255,
        ],
    }
    for what, images in given.items():
        found = model.embed(images, "infrared", progress=False)
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=what)
    grey = np.random.default_rng(1).integers(0, 256, SIZE, dtype=np.uint8)
    replicated = model.embed(np.repeat(grey[..., None], 3, axis=2), "infrared")
    np.testing.assert_allclose(model.embed(grey, "infrared"), replicated, atol=1e-6)


def test_a_bar_is_drawn_unless_it_is_not_wanted(model, people, capsys):
    model.embed(people, "visible")
    assert "embedding" in capsys.readouterr().err
    model.embed(people, "visible", progress=False)
    model.embed(model.paths(people)[0], "visible")  # nobody waits for one image
    assert capsys.readouterr().err == ""


def test_wrong_words_are_refused(model, people):
    for modality in ("thermal", "", None, 0, "Visible"):
        with pytest.raises(BdfError, match="modality: expected 'visible' or 'infrared', found"):
            model.embed(people, modality)
    with pytest.raises(BdfError, match="on_error: expected 'raise' or 'skip', found 'ignore'"):
        model.embed(people, "visible", on_error="ignore")


@pytest.fixture
def damaged(people, tmp_path):
    """Twenty images, three of which cannot be read."""
    source = next(people.rglob("*.png")).read_bytes()
    for row in range(20):
        (tmp_path / f"{row:02}.png").write_bytes(source)
    (tmp_path / "03.png").write_bytes(source[: len(source) // 2])
    (tmp_path / "07.png").write_bytes(b"")
    (tmp_path / "19.png").unlink()
    (tmp_path / "19.png").symlink_to("nowhere")
    return tmp_path


def test_a_damaged_image_is_refused_by_name(model, damaged):
    with pytest.raises(BdfError, match=r"^03\.png: damaged image"):
        model.embed(damaged, "visible", progress=False)
    with pytest.raises(BdfError, match=r"none of 2 images could be read: .*03\.png.*07\.png"):
        model.embed([damaged / "03.png", damaged / "07.png"], "visible", on_error="skip", progress=False)
    with pytest.raises(BdfError, match=r"nowhere\.jpg: cannot be read: No such file"):
        model.embed("nowhere.jpg", "visible")


def test_skipped_images_are_named_and_leave_rows_of_nan(model, damaged):
    with pytest.warns(
        SkippedImages, match=r"3 of 20 images skipped: 03\.png: .*; 07\.png: .*zero bytes; 19\.png: "
    ) as told:
        found = model.embed(damaged, "visible", on_error="skip", progress=False)
    assert told[0].filename == __file__
    assert len(found) == 20
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(found).any(axis=1)), [3, 7, 19])
    np.testing.assert_allclose(found[18], model.embed(damaged / "18.png", "visible")[0], atol=1e-5)


def test_what_pillow_only_warns_of_is_no_warning_here(model, tmp_path):
    """Warnings are errors in these tests."""
    image = Image.fromarray(np.zeros((*SIZE, 3), np.uint8))
    image.save(tmp_path / "exif.jpg", exif=b"Exif\0\0MM\0*\0\0\0\xff\xff\xff\xff\xff")
    assert np.isfinite(model.embed(tmp_path / "exif.jpg", "visible")).all()


def test_derivatives_are_those_of_the_network_as_pixels(model, people):
    images = np.random.default_rng(0).integers(0, 256, (11, *SIZE, 3), dtype=np.uint8)
    for number, modality in enumerate(("visible", "infrared")):
        found = model.derive(images, modality, progress=False)
        assert (found.shape, found.dtype) == (images.shape, np.uint8)
        assert isinstance(found, np.ndarray)
        np.testing.assert_array_equal(found.bases, images)
        normalised = (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        network = Network.of(model.config, 4)
        view, images_of = ("Dv", "Di")[number], {"VI"[number]: normalised}
        outputs = network.apply(jax.device_get(model.variables), images_of, train=False, views=(view,))
        levels = (np.asarray(outputs["pixels"][view]) * [0.229, 0.224, 0.225] + [0.485, 0.456, 0.406]) * 255
        np.testing.assert_allclose(found, np.clip(levels, 0, 255), atol=0.51)


def test_a_network_without_generators_makes_no_derivatives(tmp_path, people):
    config = vary(CONFIG, {"views.Di": None, "losses.mml.edges": "V>V I>I", "losses.mdl.edges": "V<>I Dv<>I"})
    model = bdf_jax.load(save_run(tmp_path, config))
    assert len(model.derive(people, "visible", progress=False)) == 10
    with pytest.raises(BdfError, match="makes no other view of infrared images; its views of them are I"):
        model.derive(people, "infrared")


def test_a_fingerprint_is_that_of_parameters_and_settings(run, model, tmp_path):
    assert bdf_jax.load(run, batch_size=3).fingerprint == model.fingerprint
    others = [
        bdf_jax.load(save_run(tmp_path, seed=1)),
        bdf_jax.load(run, use="concat"),
        bdf_jax.load(run, flip_tta=True),
    ]
    assert len({other.fingerprint for other in others} | {model.fingerprint}) == 4


def test_eight_devices_give_the_vectors_of_one_and_one_those_of_eight(run, model, people, tmp_path):
    """A process with eight devices uses a checkpoint saved with one, and saves one that is used here."""
    script = (
        "import sys, jax, numpy as np, bdf_jax\n"
        "from jax.sharding import Mesh, NamedSharding, PartitionSpec\n"
        "from bdf_jax.checkpoints import Checkpoints, load_metadata\n"
        "from pathlib import Path\n"
        "model = bdf_jax.load(sys.argv[1])\n"
        "assert len(jax.local_devices()) == 8 and '8 cpu' in repr(model)\n"
        "np.save(sys.argv[3] + '/features.npy', model.embed(sys.argv[2], 'visible', progress=False))\n"
        "shards = NamedSharding(Mesh(np.array(jax.devices()), ('x',)), PartitionSpec())\n"
        "checkpoints = Checkpoints(Path(sys.argv[3]))\n"
        "state = {**jax.device_put(model.variables, shards), 'opt_state': {}}\n"
        "checkpoints.save(9, state, load_metadata(sys.argv[1]))\n"
        "checkpoints.close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(run), str(people), str(tmp_path)],
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "8"},
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    expected = model.embed(people, "visible", progress=False)
    np.testing.assert_allclose(np.load(tmp_path / "features.npy"), expected, atol=1e-5)
    again = bdf_jax.load(tmp_path)
    assert again.fingerprint == model.fingerprint
    np.testing.assert_array_equal(again.embed(people, "visible", progress=False), expected)


def test_memory_does_not_grow_with_the_folder(model, tmp_path):
    """No more than a few batches are decoded ahead: of 400 images read by 4 at a time, at most a handful wait."""
    few = bdf_jax.load(model.source, batch_size=4)
    from bdf_jax.api.pictures import Images

    class Counted(Images):
        """Counts how many images were decoded and not yet embedded."""

        decoded = most = 0

        def pixels(self, row, size):
            self.decoded += 1
            return np.zeros((*size, 3), np.uint8)

    images = Counted()
    for row in range(400):
        images.add(str(row), None)
    with few._batches(images, "raise") as batches:
        for done, (rows, _, _) in enumerate(batches):
            images.most = max(images.most, images.decoded - 4 * done)
            assert rows == range(4 * done, 4 * done + 4)
    assert images.decoded == 400
    assert images.most <= 16


def test_a_model_shows_what_it_is(model):
    for shown in (repr(model), model._repr_html_()):
        for fact in ("step", "tiny", "32 x 16 pixels", "embedding", "1 cpu"):
            assert fact in shown


def test_a_notebook_computes_right_sums_after_it(run):
    """What XLA for CPU makes wrong of some sums without a flag (bdf_jax/xla.py)."""
    code = f"""if True:
        import jax, jax.numpy as jnp, numpy as np
        import bdf_jax
        bdf_jax.load({str(run)!r})
        A = np.random.default_rng(0).normal(size=(8, 16, 16, 3)).astype(np.float32)
        found = float(jax.jit(lambda A, s: (A @ jnp.full((3, 8), s)).sum())(A, 0.3))
        assert abs(found - A.astype(float).sum() * 2.4) < 1e-3
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
