"""Augmentation: pure, keyed by the global image index, shared by nothing but the key."""

import jax
import jax.numpy as jnp
import numpy as np

from bdf_jax.augment import augment, step_key
from bdf_jax.config import AugmentConfig
from bdf_jax.pixels import MEAN, STD, denormalise, normalise

H, W = 32, 16
NOTHING = AugmentConfig(flip=0.0, pad=0, erase=0.0)


def assert_same(found, expected):
    """Up to the last bit, which compiled and separate operations round differently."""
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def images(n=6, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 2, H, W, 3), dtype=np.uint8)


def test_normalisation_is_imagenets_and_reversible():
    x = images()
    assert_same(normalise(x), (x / 255.0 - MEAN) / STD)
    np.testing.assert_array_equal(denormalise(normalise(x)), x)


def test_without_augmentation_images_are_only_normalised():
    assert_same(augment(images(), step_key(0, 3), NOTHING), normalise(images()))


def test_any_share_of_the_batch_is_augmented_as_in_the_whole():
    x, key, config = images(), step_key(7, 11), AugmentConfig(pad=4)
    whole = augment(x, key, config)
    shares = [augment(x[i : i + 2], key, config, first_pair=i) for i in (0, 2, 4)]
    np.testing.assert_array_equal(whole, np.concatenate(shares))


def test_seed_step_and_index_each_change_the_outcome():
    same = np.broadcast_to(images(1), (4, 2, H, W, 3))
    config = AugmentConfig(pad=4)
    first = np.asarray(augment(same, step_key(0, 0), config)).reshape(8, -1)
    assert len(np.unique(first[::2], axis=0)) > 1  # the four visible images are equal, their augmentations are not
    for key in (step_key(0, 1), step_key(1, 0)):
        assert (np.asarray(augment(same, key, config)).reshape(8, -1) != first).any()


def test_flip_mirrors_the_width_only():
    x = images()
    always = augment(x, step_key(0, 0), AugmentConfig(flip=1.0, pad=0, erase=0.0))
    assert_same(always, normalise(x)[..., ::-1, :])


def test_a_crop_is_a_window_of_the_image_padded_with_black():
    x, pad = images(), 3
    cropped = np.asarray(denormalise(augment(x, step_key(0, 0), AugmentConfig(flip=0.0, pad=pad, erase=0.0))))
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad), (0, 0)))
    offsets = set()
    for n in range(len(x)):
        for b in range(2):
            windows = {
                (top, left): padded[n, b, top : top + H, left : left + W]
                for top in range(2 * pad + 1)
                for left in range(2 * pad + 1)
            }
            found = [offset for offset, window in windows.items() if (window == cropped[n, b]).all()]
            assert len(found) == 1
            offsets.update(found)
    assert len(offsets) > 3


def test_erasing_puts_the_mean_into_one_box_of_the_given_area():
    config = AugmentConfig(flip=0.0, pad=0, erase=1.0, erase_area=(0.1, 0.3), erase_aspect=(0.5, 2.0))
    white = np.full((64, 2, H, W, 3), 255, np.uint8)
    erased = (np.asarray(augment(white, step_key(0, 0), config)) == 0).all(-1).reshape(-1, H, W)
    shares = []
    for mask in erased:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()  # a full box
        assert mask.sum() == (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
        shares.append(mask.mean())
    assert 0.05 < min(shares) < 0.15
    assert 0.2 < max(shares) < 0.35


def test_probabilities_are_those_of_the_configuration():
    x = np.broadcast_to(images(1)[:, :1], (400, 1, H, W, 3))
    flipped = augment(x, step_key(0, 0), AugmentConfig(flip=0.3, pad=0, erase=0.0))
    flipped = abs(flipped - normalise(x)[..., ::-1, :]).max(axis=(1, 2, 3, 4)) < 1e-4
    assert 0.2 < flipped.mean() < 0.4
    erased = (augment(x, step_key(0, 0), AugmentConfig(flip=0.0, pad=0, erase=0.3)) == 0).any(axis=(1, 2, 3, 4))
    assert 0.2 < erased.mean() < 0.4


def test_it_is_one_compiled_function_of_the_step():
    compiled = jax.jit(lambda x, step: augment(x, step_key(0, step), AugmentConfig(pad=2)))
    assert_same(compiled(images(), jnp.int32(5)), augment(images(), step_key(0, 5), AugmentConfig(pad=2)))
