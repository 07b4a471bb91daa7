"""Zero padding: what enters the trunk. What becomes of pretrained weights, `tests/models/test_weights.py` says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from bdf_jax.evaluation.features import make_embed
from bdf_jax.method import find
from bdf_jax.models import Network, initial_variables
from bdf_jax.pixels import LUMA, MEAN, STD

ALL = {
    "zero_padding": (2, "after"),
    "zero_padding_before": (2, "before"),
    "zero_padding_3": (3, "before"),
    "zero_padding_3_after": (3, "after"),
}


@pytest.mark.parametrize(("method", "expected"), ALL.items())
def test_each_base_has_a_channel_of_its_own(method, expected):
    channels, zeros = expected
    config = small.tiny_method(method)
    network = Network.of(config, 5)
    variables = initial_variables(network, 0, (32, 16))
    pixels = np.random.default_rng(0).random((2, 1, 32, 16, 3)).astype(np.float32)
    images = {base: (x - MEAN) / STD for base, x in zip("VI", pixels, strict=True)}
    outputs = network.apply(variables, images, train=False)
    assert outputs["views"] == ("Zv", "Zi")
    assert variables["params"]["stem"]["conv"]["kernel"].shape[2] == channels
    for view, pixel, own in (("Zv", pixels[0, 0, 5, 6], 0), ("Zi", pixels[1, 0, 5, 6], channels - 1)):
        grey = sum(float(pixel[c]) * float(LUMA[c]) for c in range(3))
        for channel in range(channels):
            mean, std = (MEAN.mean(), STD.mean()) if channels == 2 else (MEAN[channel], STD[channel])
            value = grey if channel == own else 0.0
            entering = 0.0 if channel != own and zeros == "after" else (value - mean) / std
            np.testing.assert_allclose(outputs["pixels"][view][0, 5, 6, channel], entering, rtol=1e-4, atol=1e-5)


def test_a_picture_is_told_apart_from_the_same_picture_of_the_other_base():
    config = small.tiny_method("zero_padding")
    network = Network.of(config, 5)
    variables = initial_variables(network, 0, (32, 16))
    embed = make_embed(network, config.retrieve)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 16, 3), dtype=np.uint8)
    visible, infrared = (np.asarray(embed(variables, pixels, base)) for base in (0, 1))
    assert np.abs(visible - infrared).max() > 1e-3 * np.abs(visible).max()


def test_its_size():
    """A ResNet-50 whose first convolution has a channel less, 2048 x 512 with offset, normalisation, 512 x 395."""
    value = find("zero_padding")
    network = small.base_derivative(value.network, 395, value.views)
    images = dict.fromkeys("VI", jnp.zeros((1, 64, 32, 3)))
    shapes = jax.eval_shape(lambda x: network.init(jax.random.key(0), x, train=True), images)["params"]
    trunk = 23_508_032 - 7 * 7 * 64
    expected = trunk + 2048 * 512 + 512 + 2 * 512 + 512 * 395 + 395
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == expected
