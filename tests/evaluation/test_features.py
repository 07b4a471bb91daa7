"""Embedding a split: every image once, the same vectors whatever the batch, the devices or the order."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import small

from bdf_jax.config import DataConfig, RetrieveConfig, WorldConfig, to_dict
from bdf_jax.data.dataset import open_dataset
from bdf_jax.data.images import read_pixels
from bdf_jax.evaluation.features import depends_on_modality, embed_split, make_embed
from bdf_jax.models import initial_variables
from bdf_jax.pixels import normalise

ROOT = Path(__file__).parents[2]
SIZE = (32, 16)
NETWORK = small.base_derivative(small.part(split_at=1), 4)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    world = WorldConfig(train_ids=4, test_ids=3, images=2, size=SIZE)
    return DataConfig(dir=str(tmp_path_factory.mktemp("data")), image_size=SIZE, world=world)


@pytest.fixture(scope="module")
def split(data):
    return open_dataset(data, progress=False).test


@pytest.fixture(scope="module")
def variables():
    made = initial_variables(NETWORK, 0, SIZE)
    # Statistics as after some training: without them the derivative would be the base up to a factor.
    noisy = jax.tree.map(
        lambda a: a + 0.1 * np.random.default_rng(1).random(a.shape).astype(np.float32), made["batch_stats"]
    )
    return {"params": made["params"], "batch_stats": noisy}


def embed(variables, split, **changes):
    batch_size = changes.pop("batch_size", 16)
    settings = RetrieveConfig(**changes)
    return embed_split(
        NETWORK, variables, split, image_size=SIZE, settings=settings, batch_size=batch_size, progress=False
    )


def one_by_one(variables, split, output, flip=False):
    """Normalised base and derivative vectors of each image alone, by the network without any of the code tested."""
    vectors = []

    @functools.partial(jax.jit, static_argnums=1)
    def apply(x, base):
        views = (("V", "Dv"), ("I", "Di"))[base]
        return NETWORK.apply(variables, {views[0]: x}, train=False, views=views)[output][0, :, 0]

    for row in range(len(split)):
        image = normalise(read_pixels(split.encoded(row), "", SIZE).copy())[None]
        base = int(split.index.modalities[row])
        both = np.asarray(apply(image, base))
        if flip:
            both = (both + np.asarray(apply(image[:, :, ::-1], base))) / 2
        vectors.append(both / np.linalg.norm(both, axis=-1, keepdims=True))
    return np.stack(vectors)


@pytest.mark.parametrize("feature", ["embedding", "pooled"])
def test_a_row_is_the_normalised_feature_of_its_image(variables, split, feature):
    found = embed(variables, split, feature=feature)
    expected = one_by_one(variables, split, feature)[:, 0]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_what_use_means(variables, split):
    both = one_by_one(variables, split, "embedding")
    base, derivative = both[:, 0], both[:, 1]
    np.testing.assert_allclose(embed(variables, split, use="derivative"), derivative, atol=1e-5)
    concat = embed(variables, split, use="concat")
    np.testing.assert_allclose(concat @ concat.T, (base @ base.T + derivative @ derivative.T) / 2, atol=1e-5)
    sum4 = embed(variables, split, use="sum4")
    four = base @ base.T + base @ derivative.T + derivative @ base.T + derivative @ derivative.T
    np.testing.assert_allclose(sum4 @ sum4.T, four, atol=1e-4)


def test_flip_tta_is_the_mean_of_both_mirror_images(variables, split):
    expected = one_by_one(variables, split, "embedding", flip=True)[:, 0]
    np.testing.assert_allclose(embed(variables, split, flip_tta=True), expected, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_the_size_of_the_batch_does_not_matter(variables, split, batch_size):
    np.testing.assert_allclose(embed(variables, split, batch_size=batch_size), embed(variables, split), atol=1e-6)


def test_both_modalities_share_a_program_where_the_network_treats_them_alike(variables):
    shared = small.base_derivative(small.part(), 4)
    assert not depends_on_modality(shared, RetrieveConfig())
    assert depends_on_modality(shared, RetrieveConfig(use="sum4"))
    assert depends_on_modality(NETWORK, RetrieveConfig())
    step = make_embed(NETWORK, RetrieveConfig())
    for _ in range(3):
        step(variables, np.zeros((4, *SIZE, 3), np.uint8), 0)
    assert step._cache_size() == 1


def test_eight_devices_give_the_features_of_one(variables, split, data, tmp_path):
    """The whole of it in a process with eight devices; the last batch is padded to a multiple of them."""
    script = (
        "import json, sys, numpy as np\n"
        "from bdf_jax.config import from_dict\n"
        "from bdf_jax.data.dataset import open_dataset\n"
        "from bdf_jax.evaluation.features import embed_split\n"
        "from bdf_jax.models import Network\n"
        "config = from_dict(json.loads(sys.argv[1]))\n"
        "stored = np.load(sys.argv[2], allow_pickle=True)['variables'].item()\n"
        "split = open_dataset(config.data, progress=False).test\n"
        "features = embed_split(Network.of(config, 4), stored, split, image_size=config.data.image_size,\n"
        "                       settings=config.retrieve, batch_size=13, progress=False)\n"
        "np.save(sys.argv[3], features)\n"
    )
    config = small.tiny_method(data=data, replaces={"network.split_at": 1})
    np.savez(tmp_path / "v.npz", variables=np.array(jax.tree.map(np.asarray, variables), dtype=object))
    command = [json.dumps(to_dict(config)), str(tmp_path / "v.npz"), str(tmp_path / "f.npy")]
    done = subprocess.run(
        [sys.executable, "-c", script, *command],
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "8"},
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    np.testing.assert_allclose(np.load(tmp_path / "f.npy"), embed(variables, split), atol=1e-6)
