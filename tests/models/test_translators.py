"""Translators and patch critics: layers against their definitions in loops and PyTorch's, sizes to the unit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdf_jax.models.critics import Patches, PatchesBeside
from bdf_jax.models.layers_translation import RunningInstanceNorm, TransposedConv
from bdf_jax.models.translators import _Translator
from bdf_jax.pixels import signed


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def size(module, *shapes, **how):
    inputs = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
    variables = jax.eval_shape(lambda *x: module.init(jax.random.key(0), *x, **how), *inputs)
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def test_the_parameters_are_those_of_the_authors_networks():
    assert size(_Translator(64, 4), (1, 128, 128, 3), train=True) == 6_053_504
    assert size(Patches().module(None), (1, 128, 128, 3)) == 11_155_392
    assert size(PatchesBeside().module(None), (1, 128, 128, 3), (1, 24, 12, 2048)) == 11_810_816


def test_scores_of_a_square_of_128_are_4_by_4_whatever_the_map():
    for critic, shapes in ((Patches(), [(2, 128, 128, 3)]), (PatchesBeside(), [(2, 128, 128, 3), (2, 24, 12, 8)])):
        inputs = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
        said = jax.eval_shape(lambda *x, c=critic: c.module(None).init_with_output(jax.random.key(0), *x)[0], *inputs)
        assert said.shape == (2, 4, 4, 1)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(4, 2, 1), (3, 1, 1), (5, 3, 2)])
def test_a_transposed_convolution_scatters_every_pixel(kernel, stride, padding):
    x = normal(1, 3, 4, 2)
    layer = TransposedConv(3, kernel, stride, padding)
    params = layer.init(jax.random.key(0), x)["params"]
    weight = np.asarray(params["kernel"])
    expected = np.zeros([stride * (n - 1) + kernel - 2 * padding for n in (3, 4)] + [3])
    for i, j, a, b in np.ndindex(3, 4, kernel, kernel):
        y, z = stride * i - padding + a, stride * j - padding + b
        if 0 <= y < expected.shape[0] and 0 <= z < expected.shape[1]:
            expected[y, z] += x[0, i, j] @ weight[a, b]
    np.testing.assert_allclose(layer.apply({"params": params}, x)[0], expected, atol=1e-5)


def test_instance_normalisation_uses_its_own_statistics_in_training_and_running_ones_at_the_test():
    x, layer = 3 + 2 * normal(2, 3, 4, 2), RunningInstanceNorm()
    params = {"scale": np.array([0.5, 2.0]), "bias": np.array([1.0, -1.0])}
    variables = layer.init(jax.random.key(0), x, train=True) | {"params": params}
    assert not np.any(variables["batch_stats"]["mean"])  # as it starts, whatever it was made with
    found, moved = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    running = {"mean": np.zeros(2), "var": np.full(2, 0.9)}
    for n in range(2):
        for c in range(2):
            values = [float(x[n, i, j, c]) for i in range(3) for j in range(4)]
            mean = sum(values) / 12
            squares = sum((value - mean) ** 2 for value in values)
            running["mean"][c] += 0.1 * mean / 2
            running["var"][c] += 0.1 * squares / 11 / 2
            for i, j in np.ndindex(3, 4):
                normalised = (x[n, i, j, c] - mean) / np.sqrt(squares / 12 + 1e-5)
                expected = normalised * params["scale"][c] + params["bias"][c]
                assert found[n, i, j, c] == pytest.approx(expected, abs=1e-5)
    for name, values in running.items():
        np.testing.assert_allclose(moved["batch_stats"][name], values, rtol=1e-5)
    at_test = layer.apply(moved | {"params": params}, x, train=False)
    expected = (x - running["mean"]) / np.sqrt(running["var"] + 1e-5) * params["scale"] + params["bias"]
    np.testing.assert_allclose(at_test, expected, atol=1e-4)


def test_layers_are_pytorchs():
    torch = pytest.importorskip("torch", reason="the twins are PyTorch's")
    x = 1 + normal(2, 6, 4, 3)

    def nchw(array):
        return torch.from_numpy(np.array(array).transpose(0, 3, 1, 2))

    transposed = TransposedConv(5)
    params = transposed.init(jax.random.key(0), x)["params"]
    twin = torch.nn.ConvTranspose2d(3, 5, 4, 2, 1, bias=False)
    norm, its = RunningInstanceNorm(), torch.nn.InstanceNorm2d(3, affine=True, track_running_stats=True)
    state = norm.init(jax.random.key(0), x, train=True)
    with torch.no_grad():
        twin.weight[:] = torch.from_numpy(np.array(params["kernel"]).transpose(2, 3, 0, 1))
        expected = twin(nchw(x)).numpy().transpose(0, 2, 3, 1)
        np.testing.assert_allclose(transposed.apply({"params": params}, x), expected, atol=1e-5)
        for _ in range(2):
            out, moved = norm.apply(state, x, train=True, mutable=["batch_stats"])
            np.testing.assert_allclose(out, its(nchw(x)).numpy().transpose(0, 2, 3, 1), atol=1e-5)
            state |= moved
        its.eval()
        expected = its(nchw(x)).numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(norm.apply(state, x, train=False), expected, atol=1e-5)


def test_a_translated_image_has_the_size_of_its_parent_and_lies_between_black_and_white():
    images = normal(2, 12, 8, 3)
    made, variables = _Translator(4, 1).init_with_output(jax.random.key(0), images, train=True)
    assert made[0].shape == images.shape
    loud = jax.tree.map(lambda leaf: 50 * leaf, variables["params"])
    brightest = signed(_Translator(4, 1).apply(variables | {"params": loud}, images, train=False)[0])
    assert float(jnp.abs(brightest).max()) == pytest.approx(1.0, abs=1e-5)
