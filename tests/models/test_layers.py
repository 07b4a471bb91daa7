"""Convolution, pooling and normalisation against loops, padded as PyTorch pads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdf_jax.models.layers import BatchNorm, Conv, max_pool
from bdf_jax.models.mobilenet import DepthwiseConv
from bdf_jax.models.resnet import ARCHITECTURES, Stage


@pytest.mark.parametrize("kernel", [1, 3, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(8, 6), (7, 9)])
def test_convolution_is_its_definition_with_symmetric_padding(kernel, stride, size):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 3, *size, 4)).astype(np.float32)
    conv = Conv(5, kernel, stride)
    variables = conv.init(jax.random.key(0), x)
    weight = np.asarray(variables["params"]["kernel"])
    pad = kernel // 2
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad), (0, 0)))
    H, W = ((s + 2 * pad - kernel) // stride + 1 for s in size)
    expected = np.zeros((2, 3, H, W, 5))
    for i in range(H):
        for j in range(W):
            window = padded[:, :, i * stride : i * stride + kernel, j * stride : j * stride + kernel]
            expected[:, :, i, j] = np.einsum("nmhwc,hwcd->nmd", window, weight)
    np.testing.assert_allclose(conv.apply(variables, x), expected, atol=1e-4)


@pytest.mark.parametrize("size", [(8, 6), (7, 9), (1, 2)])
def test_max_pool_is_its_definition(size):
    x = np.random.default_rng(1).normal(size=(2, 3, *size, 4)).astype(np.float32)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    H, W = ((s - 1) // 2 + 1 for s in size)
    expected = np.stack(
        [[padded[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((2, 3)) for j in range(W)] for i in range(H)]
    ).transpose(2, 3, 0, 1, 4)
    np.testing.assert_array_equal(max_pool(jnp.asarray(x)), expected)


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize(("channels", "features"), [(3, 5), (6, 4)])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2)])
def test_every_form_of_a_convolution_has_the_values_and_gradients_of_the_plain_one(
    backend, channels, features, kernel, stride, monkeypatch
):
    """Which form is computed depends on the backend and on the channels; which backend runs it does not matter here."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    rng = np.random.default_rng(4)
    with jax.enable_x64(True):
        x = jnp.asarray(rng.normal(size=(2, 3, 7, 10, channels)))
        weight = jnp.asarray(rng.normal(size=(kernel, kernel, channels, features)))

        def plain(x, weight):
            padding = [(kernel // 2, kernel // 2)] * 2
            dimensions = ("NHWC", "HWIO", "NHWC")
            y = jax.lax.conv_general_dilated(
                x.reshape(6, 7, 10, channels), weight, (stride, stride), padding, dimension_numbers=dimensions
            )
            return y.reshape(2, 3, *y.shape[1:])

        def ours(x, weight):
            return Conv(features, kernel, stride, jnp.float64).apply({"params": {"kernel": weight}}, x)

        expected, expected_gradients = jax.vjp(plain, x, weight)
        found, gradients = jax.vjp(ours, x, weight)
        np.testing.assert_allclose(found, expected, atol=1e-11)
        weighting = jnp.asarray(rng.normal(size=found.shape))
        for ours_, plain_ in zip(gradients(weighting), expected_gradients(weighting), strict=True):
            np.testing.assert_allclose(ours_, plain_, atol=1e-11)


@pytest.mark.parametrize("size", [(8, 6), (7, 9), (1, 2)])
def test_the_gradient_of_a_maximum_goes_to_the_pixel_that_was_the_maximum(size):
    rng = np.random.default_rng(5)
    x = rng.permutation(6 * size[0] * size[1]).reshape(1, 2, *size, 3).astype(np.float32)  # no two are equal
    y, gradient = jax.vjp(max_pool, jnp.asarray(x))
    weights = rng.integers(1, 9, size=y.shape).astype(np.float32)
    expected = np.zeros_like(x)
    for n, m, i, j, c in np.ndindex(*y.shape):
        expected[n, m, ..., c] += weights[n, m, i, j, c] * (x[n, m, ..., c] == y[n, m, i, j, c])
    np.testing.assert_array_equal(gradient(jnp.asarray(weights))[0], expected)


def test_batch_norm_normalises_all_modalities_together_and_at_inference_uses_running_statistics():
    x = np.random.default_rng(2).normal(3, 2, size=(6, 4, 5, 5, 3)).astype(np.float32)
    norm = BatchNorm()
    variables = norm.init(jax.random.key(0), x, train=True)
    y, updates = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    expected = (x - x.mean((0, 1, 2, 3))) / np.sqrt(x.var((0, 1, 2, 3)) + 1e-5)
    np.testing.assert_allclose(y, expected, atol=1e-4)
    np.testing.assert_allclose(updates["batch_stats"]["mean"], 0.1 * x.mean((0, 1, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(norm.apply(variables, x, train=False), x / np.sqrt(1 + 1e-5), rtol=1e-4)


def test_per_modality_batch_norm_is_one_batch_norm_for_each():
    x = np.random.default_rng(3).normal(size=(6, 2, 5, 5, 3)).astype(np.float32)
    norm, alone = BatchNorm(modalities=(1, 3)), BatchNorm()
    variables = norm.init(jax.random.key(0), x, train=True)
    y, updates = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    for position, modality in enumerate((1, 3)):
        part = x[:, [position]]
        own = alone.init(jax.random.key(0), part, train=True)
        z, statistics = alone.apply(own, part, train=True, mutable=["batch_stats"])
        np.testing.assert_allclose(y[:, [position]], z, atol=1e-5)
        np.testing.assert_allclose(
            updates["batch_stats"]["mean"][modality], statistics["batch_stats"]["mean"], atol=1e-6
        )
    np.testing.assert_array_equal(updates["batch_stats"]["mean"][np.array([0, 2])], 0)


@pytest.mark.parametrize(
    ("layer", "channels"),
    [
        (Conv(2, 3, dtype=jnp.bfloat16), 2),
        (Conv(2, 7, 2, dtype=jnp.bfloat16), 3),
        (DepthwiseConv(dtype=jnp.bfloat16), 2),
    ],
    ids=["convolution", "stem", "depthwise"],
)
def test_in_bfloat16_the_gradient_of_a_kernel_is_summed_in_float32(layer, channels):
    """Over thousands of ones, which bfloat16 cannot count further than to 256."""
    x = jnp.ones((4, 4, 40, 20, channels))
    variables = layer.init(jax.random.key(0), x)
    gradients = jax.jit(jax.grad(lambda v: layer.apply(v, x).astype(jnp.float32).sum()))(variables)
    size = layer.apply(variables, x)[..., 0].size
    middle = jax.tree.leaves(gradients)[0]
    middle = middle[middle.shape[0] // 2, middle.shape[1] // 2]
    np.testing.assert_allclose(middle, np.full_like(middle, size), rtol=2**-8)


@pytest.mark.parametrize("modalities", [None, (1, 3)])
def test_gradients_of_batch_norm_go_through_the_statistics_of_the_batch(modalities):
    rng = np.random.default_rng(6)
    x = rng.normal(2, 3, size=(6, 2, 5, 4, 3)).astype(np.float32)
    shape = (3,) if modalities is None else (4, 3)
    params = {name: rng.normal(1, 0.5, size=shape).astype(np.float32) for name in ("scale", "bias")}
    norm = BatchNorm(modalities=modalities)
    statistics = norm.init(jax.random.key(0), x, train=True)["batch_stats"]

    def ours(params, x):
        return norm.apply({"params": params, "batch_stats": statistics}, x, train=True, mutable=["batch_stats"])[0]

    weighting = rng.normal(size=x.shape).astype(np.float32)
    of_params, of_x = jax.vjp(ours, params, x)[1](weighting)
    expected = {name: np.zeros(shape) for name in params}
    sets = [(slice(None), ...)] if modalities is None else [(slice(i, i + 1), m) for i, m in enumerate(modalities)]
    for positions, row in sets:
        part, gradient = x[:, positions].astype(np.float64), weighting[:, positions].astype(np.float64)
        deviation = np.sqrt(part.var((0, 1, 2, 3)) + 1e-5)
        normal = (part - part.mean((0, 1, 2, 3))) / deviation
        expected["bias"][row] = gradient.sum((0, 1, 2, 3))
        expected["scale"][row] = (gradient * normal).sum((0, 1, 2, 3))
        # What a change of one value does by itself, less what it does through the mean and through the variance.
        centred = gradient - gradient.mean((0, 1, 2, 3)) - normal * (gradient * normal).mean((0, 1, 2, 3))
        found = np.asarray(of_x)[:, positions]
        np.testing.assert_allclose(found, params["scale"][row] / deviation * centred, atol=1e-5)
    for name, value in expected.items():
        np.testing.assert_allclose(of_params[name], value, atol=1e-3)


@pytest.mark.parametrize(
    ("arch", "expected"), [("resnet18", 11_176_512), ("resnet34", 21_284_672), ("resnet50", 23_508_032)]
)
def test_parameter_counts_are_those_of_torchvision_without_its_classifier(arch, expected):
    """torchvision.models: 11,689,512, 21,797,672 and 25,557,032 with the 1000-class layer (513,000 or 2,049,000)."""

    def shapes(key):
        x, count = jnp.zeros((1, 1, 64, 32, 3)), []
        for stage in range(5):
            module = Stage(arch, stage)
            variables = module.init(key, x, train=True)
            x, _ = module.apply(variables, x, train=True, mutable=["batch_stats"])
            count.append(variables["params"])
        return x, count

    x, params = jax.eval_shape(shapes, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected
    assert x.shape == (1, 1, 4, 2, ARCHITECTURES[arch].features)  # 1/16: the last stage keeps its resolution
