"""The layers of content and style give what PyTorch's own give."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdf_jax.losses.codes import gradient_penalty
from bdf_jax.models.layers_adain import PaddedConv, enlarged, halved, instance_norm

torch = pytest.importorskip("torch", reason="PyTorch is not installed: it is needed for this comparison only")
functional = torch.nn.functional


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def to_torch(x_NHWC):
    return torch.tensor(np.asarray(x_NHWC).transpose(0, 3, 1, 2))


def from_torch(x_NCHW):
    return x_NCHW.detach().numpy().transpose(0, 2, 3, 1)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"), [(3, 2, 1, 1), (4, 2, 1, 1), (5, 1, 2, 1), (7, 1, 3, 1), (3, 1, 3, 3)]
)
def test_convolutions_padded_by_reflection(kernel, stride, padding, dilation):
    x = normal(2, 10, 8, 3)
    conv = PaddedConv(4, kernel, stride, padding, dilation)
    params = {"kernel": normal(kernel, kernel, 3, 4, seed=1), "bias": normal(4, seed=2)}
    ours = conv.apply({"params": params}, jnp.asarray(x))
    outside = functional.pad(to_torch(x), (padding,) * 4, mode="reflect")
    weight = torch.tensor(params["kernel"].transpose(3, 2, 0, 1))
    theirs = functional.conv2d(outside, weight, torch.tensor(params["bias"]), stride, dilation=dilation)
    np.testing.assert_allclose(ours, from_torch(theirs), atol=1e-4)


def test_instance_normalisation_and_changes_of_size():
    x = normal(2, 7, 5, 3)
    np.testing.assert_allclose(instance_norm(x), from_torch(functional.instance_norm(to_torch(x))), atol=1e-5)
    pooled = functional.avg_pool2d(to_torch(x), 3, 2, 1, count_include_pad=False)
    np.testing.assert_allclose(halved(jnp.asarray(x)), from_torch(pooled), atol=1e-5)
    np.testing.assert_array_equal(enlarged(x), from_torch(functional.interpolate(to_torch(x), scale_factor=2)))
    wide = functional.interpolate(to_torch(x), (14, 10), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(jax.image.resize(x, (2, 14, 10, 3), "bilinear"), from_torch(wide), atol=1e-5)


def test_the_gradient_of_the_gradient_penalty():
    """To the weight of a critic of one strided convolution and a leaky ReLU."""
    x, kernel = normal(2, 8, 6, 3), normal(4, 4, 3, 5, seed=1)
    conv = PaddedConv(5, 4, 2, 1)

    def ours(kernel):
        params = {"params": {"kernel": kernel, "bias": jnp.zeros(5)}}
        return gradient_penalty(lambda x: [jnp.square(jax.nn.leaky_relu(conv.apply(params, x), 0.2))], jnp.asarray(x))

    weight = torch.tensor(kernel.transpose(3, 2, 0, 1), requires_grad=True)
    images = to_torch(x).requires_grad_()
    said = functional.conv2d(functional.pad(images, (1,) * 4, mode="reflect"), weight, stride=2)
    scores = functional.leaky_relu(said, 0.2).square()
    (slopes,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
    penalty = slopes.square().sum() / 2
    penalty.backward()
    np.testing.assert_allclose(ours(jnp.asarray(kernel)), penalty.item(), rtol=1e-5)
    gradient = np.asarray(jax.grad(ours)(jnp.asarray(kernel)))
    np.testing.assert_allclose(gradient.transpose(3, 2, 0, 1), weight.grad, rtol=1e-3, atol=1e-3)
