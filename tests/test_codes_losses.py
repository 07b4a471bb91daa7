"""Losses of made images, in loops: differences, least squares, gradient penalty, alignment."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdf_jax.losses.codes import Alike, Fools, Small, Tells, gradient_penalty, least_squares, symmetric_kl
from bdf_jax.losses.terms import Scope
from bdf_jax.models.critics_scales import StridedScales
from bdf_jax.pixels import MEAN, STD, signed, unsigned


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def scope(codes, critic=lambda name, x: x):
    outputs = {"views": ("V", "I"), "codes": {key: jnp.asarray(x) for key, x in codes.items()}}
    N = len(next(iter(codes.values())))
    return Scope(outputs, jnp.zeros(N, int), shape=(N, 1), bases=(0, 1), gather=lambda x: x, critic=critic)


def mean_difference(a, b):
    pairs = list(zip(np.ravel(a), np.ravel(b), strict=True))
    return sum(abs(float(x) - float(y)) for x, y in pairs) / len(pairs)


def test_pixels_lie_between_minus_1_and_1():
    pixels = np.array([[0.0, 0.5, 1.0]], np.float32)
    np.testing.assert_allclose(signed((pixels - MEAN) / STD), [[-1, 0, 1]], atol=1e-6)
    np.testing.assert_allclose(unsigned(signed(normal(2, 3))), normal(2, 3), atol=1e-5)


def test_alike_is_the_mean_difference_of_pixels_or_codes():
    found = {("", "a"): normal(2, 3, 2, 3), ("", "V"): normal(2, 3, 2, 3, seed=1)}
    found |= {("style", "a"): normal(2, 5), ("style", "V"): normal(2, 5, seed=2)}
    a, V = found["", "a"], found["", "V"]
    assert Alike("a=V")(scope(found))["a=V"] == pytest.approx(mean_difference(a, V), rel=1e-5)
    scaled = mean_difference(a * 2 * STD, V * 2 * STD)  # the means cancel out
    assert Alike("a=V", pixels="signed")(scope(found))["a=V"] == pytest.approx(scaled, rel=1e-5)
    expected = mean_difference(found["style", "a"], found["style", "V"])
    assert Alike("a=V", code="style")(scope(found))["a=V"] == pytest.approx(expected, rel=1e-5)
    assert Alike("a=V", code="style").looks_at() == (("style", "a"), ("style", "V"))


def test_a_prior_is_the_mean_square():
    code = normal(3, 4)
    expected = sum(float(x) ** 2 for x in code.ravel()) / 12
    assert Small("style", ("V",))(scope({("style", "V"): code}))["V"] == pytest.approx(expected, rel=1e-5)


def test_least_squares_are_means_over_places_summed_over_scales():
    said = [normal(2, 4, 2, 1), normal(2, 2, 1, 1, seed=1)]
    expected = sum(sum((float(x) - 1) ** 2 for x in s.ravel()) / s.size for s in said)
    assert least_squares(said, 1.0) == pytest.approx(expected, rel=1e-5)


def test_the_alignment_is_both_divergences_and_moves_the_first_alone():
    a, b = normal(3, 4), normal(3, 4, seed=1)
    total = 0.0
    for row, other in zip(a, b, strict=True):
        p, q = ([math.exp(x) / sum(math.exp(y) for y in r) for x in r] for r in (row, other))
        total += sum(x * math.log(x / y) + y * math.log(y / x) for x, y in zip(p, q, strict=True))
    assert symmetric_kl(a, b) == pytest.approx(total / 3, rel=1e-4)
    of_a, of_b = jax.grad(lambda a, b: symmetric_kl(a, b), (0, 1))(jnp.asarray(a), jnp.asarray(b))
    assert not np.any(of_b)
    assert np.any(of_a)
    assert np.isfinite(jax.grad(lambda a: symmetric_kl(a, a))(jnp.asarray(a))).all()


@pytest.fixture(scope="module")
def critic():
    module = StridedScales(widths=(3,)).module(None)
    params = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 8, 4, 3)))
    params = jax.tree.map(lambda leaf: leaf + 0.3 * normal(*leaf.shape), params)
    return module, params


def test_the_penalty_is_the_squared_gradient_of_each_scale(critic):
    """By differences of every pixel."""
    module, params = critic
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), params)
        images = jnp.asarray(normal(2, 8, 4, 3), float)
        scores = jax.jit(lambda x: jnp.stack([said.sum((1, 2, 3)) for said in module.apply(params, x)]))
        steps = 1e-6 * jnp.eye(8 * 4 * 3).reshape(-1, 8, 4, 3)
        total = 0.0
        for image in images:
            slopes = (scores(image + steps) - scores(image - steps)) / 2e-6
            total += float(jnp.square(slopes).sum())
        found = gradient_penalty(lambda x: module.apply(params, x), images)
    assert found == pytest.approx(total / 2, rel=1e-5)


def test_the_second_derivative_of_the_penalty_is_what_it_is_without_a_compiler(critic):
    module, params = critic
    images = jnp.asarray(normal(2, 8, 4, 3))

    def norm(params):
        slopes = jax.grad(lambda p: gradient_penalty(lambda x: module.apply(p, x), images))(params)
        return sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(slopes))

    with jax.disable_jit():
        expected = norm(params)
    assert expected > 0
    np.testing.assert_allclose(jax.jit(norm)(params), expected, rtol=1e-4)


class Brightness(nn.Module):
    def __call__(self, x):
        return [x.mean((1, 2, 3), keepdims=True)]


def test_critics_learn_to_tell_and_makers_to_fool_them():
    real, made = normal(2, 2, 2, 3), normal(2, 2, 2, 3, seed=1)
    seen = scope({("", "V"): real, ("", "fake"): made}, lambda name, x: Brightness()(x))
    of_real, of_made = ([float(np.mean(image)) for image in images] for images in (real, made))
    told = sum((x - 1) ** 2 for x in of_real) / 2 + sum(x**2 for x in of_made) / 2
    assert Tells("c=V:fake")(seen)["fake"] == pytest.approx(told, rel=1e-5)
    # The gradient of a mean is 1 / 12 at each of 12 pixels.
    assert Tells("c=V:fake", penalty=0.5)(seen)["fake"] == pytest.approx(told + 0.5 / 12, rel=1e-5)
    fooled = sum((x - 1) ** 2 for x in of_made) / 2
    assert Fools("c=fake")(seen)["fake"] == pytest.approx(fooled, rel=1e-5)

    def tell(made):
        return Tells("c=V:fake")(scope({("", "V"): real, ("", "fake"): made}, lambda name, x: Brightness()(x)))["fake"]

    assert not np.any(jax.grad(tell)(jnp.asarray(made)))
