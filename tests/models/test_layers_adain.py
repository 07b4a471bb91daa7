"""Layers that make images of content and style, against their definitions in loops; sizes to the unit."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdf_jax.models.critics_scales import ResidualScales, StridedScales
from bdf_jax.models.layers_adain import (
    MLP,
    Decoder,
    ImageNorm,
    PaddedConv,
    StyleEncoder,
    adain,
    enlarged,
    halved,
    instance_norm,
)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def size(module, *shapes):
    inputs = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
    variables = jax.eval_shape(lambda *x: module.init(jax.random.key(0), *x), *inputs)
    return sum(leaf.size for leaf in jax.tree.leaves(variables))


def reflected(i, n):
    """Where a row beyond the edge lies: mirrored, without repeating the edge itself."""
    return -i if i < 0 else 2 * (n - 1) - i if i >= n else i


@pytest.mark.parametrize("mode", ["reflect", "zeros"])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"), [(1, 1, 0, 1), (3, 2, 1, 1), (4, 2, 1, 1), (7, 1, 3, 1), (3, 1, 3, 3)]
)
def test_a_padded_convolution_is_its_sum(mode, kernel, stride, padding, dilation):
    H, W = 8, 6
    x = normal(1, H, W, 2)
    conv = PaddedConv(3, kernel, stride, padding, dilation, mode)
    params = conv.init(jax.random.key(0), jnp.asarray(x))["params"]
    params["bias"] = normal(3, seed=1)
    out = np.asarray(conv.apply({"params": params}, jnp.asarray(x)))
    weight = np.asarray(params["kernel"])
    rows, columns = ((n + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1 for n in (H, W))
    assert out.shape == (1, rows, columns, 3)
    for i in range(rows):
        for j in range(columns):
            total = np.array(params["bias"])
            for a in range(kernel):
                for b in range(kernel):
                    y, z = i * stride - padding + a * dilation, j * stride - padding + b * dilation
                    if mode == "zeros" and not (0 <= y < H and 0 <= z < W):
                        continue
                    total = total + x[0, reflected(y, H), reflected(z, W)] @ weight[a, b]
            np.testing.assert_allclose(out[0, i, j], total, atol=1e-4)


def test_an_image_smaller_than_the_kernel_becomes_one_pixel():
    conv = PaddedConv(2, 4, 2, 1)
    assert conv.init_with_output(jax.random.key(0), jnp.ones((1, 4, 1, 3)))[0].shape == (1, 2, 1, 2)


def test_adain_gives_each_channel_of_each_image_the_styles_deviation_and_mean():
    x, scale, offset = normal(2, 4, 3, 5), normal(2, 5, seed=1), normal(2, 5, seed=2)
    plain, styled = np.asarray(instance_norm(x)), np.asarray(adain(x, scale, offset))
    for n in range(2):
        for c in range(5):
            values = [float(x[n, i, j, c]) for i in range(4) for j in range(3)]
            mean = sum(values) / 12
            variance = sum((v - mean) ** 2 for v in values) / 12
            for i in range(4):
                for j in range(3):
                    expected = (x[n, i, j, c] - mean) / math.sqrt(variance + 1e-5)
                    assert plain[n, i, j, c] == pytest.approx(expected, abs=1e-5)
                    assert styled[n, i, j, c] == pytest.approx(scale[n, c] * expected + offset[n, c], abs=1e-5)


def test_image_norm_looks_at_all_of_an_image_and_has_the_unbiased_deviation():
    x = normal(2, 4, 3, 2)
    params = {"scale": normal(2, seed=1), "bias": normal(2, seed=2)}
    out = np.asarray(ImageNorm().apply({"params": params}, x))
    for n in range(2):
        values = [float(v) for v in x[n].ravel()]
        mean = sum(values) / 24
        deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / 23)
        for index in np.ndindex(4, 3, 2):
            expected = (x[n][index] - mean) / (deviation + 1e-5) * params["scale"][index[2]] + params["bias"][index[2]]
            assert out[n][index] == pytest.approx(expected, abs=1e-5)


def test_image_norm_of_one_tone_has_a_finite_gradient():
    gradient = jax.grad(lambda x: ImageNorm().init_with_output(jax.random.key(0), x)[0].sum())(jnp.ones((1, 4, 3, 2)))
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("shape", [(8, 6), (7, 5), (1, 2)])
def test_halved_is_a_mean_of_the_pixels_that_are_there(shape):
    H, W = shape
    x = normal(1, H, W, 2)
    out = halved(x)
    assert out.shape == (1, (H + 1) // 2, (W + 1) // 2, 2)
    for i in range(out.shape[1]):
        for j in range(out.shape[2]):
            window = [
                x[0, y, z]
                for y in range(2 * i - 1, 2 * i + 2)
                for z in range(2 * j - 1, 2 * j + 2)
                if 0 <= y < H and 0 <= z < W
            ]
            np.testing.assert_allclose(out[0, i, j], sum(window) / len(window), atol=1e-5)


def test_enlarged_repeats_every_pixel():
    x = normal(1, 2, 3, 1)
    out = np.asarray(enlarged(x))
    for i, j in np.ndindex(4, 6):
        assert out[0, i, j, 0] == x[0, i // 2, j // 2, 0]


def test_sizes_of_jsia():
    """The style encoder's code has a classifier of 395 identities behind it that nothing uses: 50,955 more."""
    assert size(StyleEncoder(), (1, 128, 64, 3)) == 760_779 - (128 * 395 + 395)
    assert size(MLP((256, 256, 2048)), (1, 128)) == 625_152
    assert size(Decoder(), (1, 64, 32, 256), (1, 4, 256), (1, 4, 256)) == 3_198_723
    assert size(StridedScales().module(None), (1, 128, 64, 3)) == 2 * 690_401


def test_sizes_of_hi_cmd():
    decoder = Decoder(blocks=4, widths=(128, 64), smooth=(64, 64), kernel=1, slope=0.3)
    mlps = 8 * size(MLP((512, 512, 512)), (1, 512))
    assert size(decoder, (1, 64, 32, 256), (1, 8, 256), (1, 8, 256)) + mlps == 12_123_011
    assert size(ResidualScales().module(None), (1, 256, 128, 3)) == 3 * 341_857


def test_critics_see_an_image_at_every_scale():
    for critic, shape, expected in (
        (StridedScales(widths=(2, 2, 2, 2)), (128, 64), [(8, 4), (4, 2)]),
        (ResidualScales(width=2, blocks=1), (256, 128), [(64, 32), (32, 16), (16, 8)]),
    ):
        image = jax.ShapeDtypeStruct((1, *shape, 3), np.float32)
        module = critic.module(None)
        said, _ = jax.eval_shape(functools.partial(module.init_with_output, jax.random.key(0)), image)
        assert [map_.shape for map_ in said] == [(1, *side, 1) for side in expected]
