"""The same file in PyTorch itself and here gives the same features.

The networks are plain PyTorch with torchvision's module names, the last down-sampling left out as in this project.
"""

import numpy as np
import plain_networks
import pytest
import small
from test_real_weights import in_torchvision_naming, weights  # noqa: F401 (a fixture)
from test_weights import ARCHS, blank, features

from bdf_jax.models.torch_files import read_tensors
from bdf_jax.models.weights import load_pretrained

torch = pytest.importorskip("torch", reason="PyTorch is not installed: it is needed for this comparison only")
nn = torch.nn


class Block(nn.Module):
    """A residual block: two 3x3 convolutions, or 1x1, 3x3, 1x1 to four times the width."""

    def __init__(self, inputs, width, stride, bottleneck):
        super().__init__()
        outputs = 4 * width if bottleneck else width
        sizes = ((inputs, width, 3), (width, width, 3))
        if bottleneck:
            sizes = ((inputs, width, 1), (width, width, 3), (width, outputs, 1))
        self.count = len(sizes)
        for i, (a, b, side) in enumerate(sizes, start=1):
            step = stride if i == self.count - 1 else 1
            self.add_module(f"conv{i}", nn.Conv2d(a, b, side, step, side // 2, bias=False))
            self.add_module(f"bn{i}", nn.BatchNorm2d(b))
        if inputs != outputs or stride != 1:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = torch.relu(y) if i < self.count else y
        return torch.relu(y + (self.downsample(x) if hasattr(self, "downsample") else x))


class ResNet(nn.Module):
    def __init__(self, arch):
        super().__init__()
        blocks, convolutions = plain_networks.RESNETS[arch]
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        inputs, outputs = 64, 0
        for layer, count in enumerate(blocks, start=1):
            width = 64 * 2 ** (layer - 1)
            outputs = width * (4 if convolutions == 3 else 1)
            strides = [2 if layer in (2, 3) else 1] + [1] * (count - 1)
            modules = [
                Block(inputs if i == 0 else outputs, width, stride, convolutions == 3)
                for i, stride in enumerate(strides)
            ]
            self.add_module(f"layer{layer}", nn.Sequential(*modules))
            inputs = outputs
        self.fc = nn.Linear(outputs, 1000)

    def forward(self, x):
        x = nn.functional.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        return self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3))


def conv_norm(inputs, outputs, side=1, stride=1, groups=1):
    conv = nn.Conv2d(inputs, outputs, side, stride, side // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU6())


class Inverted(nn.Module):
    def __init__(self, inputs, outputs, stride, expansion):
        super().__init__()
        hidden = inputs * expansion
        expand = [conv_norm(inputs, hidden)] if expansion > 1 else []
        project = [nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
        self.conv = nn.Sequential(*expand, conv_norm(hidden, hidden, 3, stride, hidden), *project)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x):
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNet(nn.Module):
    def __init__(self):
        super().__init__()
        modules, inputs = [conv_norm(3, 32, 3, 2)], 32
        for t, c, n, s in plain_networks.MOBILENET:
            for i in range(n):
                modules.append(Inverted(inputs, c, s if i == 0 else 1, t))
                inputs = c
        self.features = nn.Sequential(*modules, conv_norm(320, 1280))
        self.classifier = nn.Sequential(nn.Dropout(), nn.Linear(1280, 1000))

    def forward(self, x):
        return self.features(x).mean((2, 3))


def torch_network(arch, state=None):
    """In evaluation mode, with random weights and statistics where no state is given."""
    network = MobileNet() if arch == "mobilenet_v2" else ResNet(arch)
    if state is None:
        state = plain_networks.random_mobilenet() if arch == "mobilenet_v2" else plain_networks.random_resnet(arch)
        state = {name: torch.from_numpy(np.array(tensor)) for name, tensor in state.items()}
    network.load_state_dict(state)
    return network.eval()


def embed(network, images_NHWC):
    with torch.no_grad():
        return network(torch.from_numpy(images_NHWC.transpose(0, 3, 1, 2).copy())).numpy()


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("new_format", [True, False])
def test_features_of_a_saved_network(tmp_path, arch, new_format):
    network, config = torch_network(arch), small.part(arch=arch)
    torch.save(network.state_dict(), tmp_path / "weights.pth", _use_new_zipfile_serialization=new_format)
    images_NHWC = np.random.default_rng(0).normal(size=(2, 64, 32, 3)).astype(np.float32)
    expected = embed(network, images_NHWC)
    variables = load_pretrained(str(tmp_path / "weights.pth"), blank(config), config)
    assert expected.std() > 0.05
    np.testing.assert_allclose(features(config, variables, images_NHWC, 0), expected, atol=1e-4)


@pytest.mark.parametrize(("split_at", "bn"), [(1, "per_view"), (5, "shared")])
def test_both_branches_of_a_resnet50(tmp_path, split_at, bn):
    network, config = torch_network("resnet50"), small.part(arch="resnet50", split_at=split_at, bn=bn)
    torch.save({"epoch": 3, "state_dict": network.state_dict()}, tmp_path / "weights.pth")
    images_NHWC = np.random.default_rng(0).normal(size=(2, 64, 32, 3)).astype(np.float32)
    expected = embed(network, images_NHWC)
    variables = load_pretrained(str(tmp_path / "weights.pth"), blank(config), config)
    for base in (0, 1):
        np.testing.assert_allclose(features(config, variables, images_NHWC, base), expected, atol=1e-4)


@pytest.mark.network
def test_published_weights(weights):  # noqa: F811
    theirs = torch.load(weights, weights_only=True)
    ours = read_tensors(weights)
    assert list(ours) == list(theirs)
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(ours[name], tensor.numpy())
    classifier = MobileNet().classifier.state_dict()
    state = in_torchvision_naming(theirs) | {f"classifier.{name}": tensor for name, tensor in classifier.items()}
    images_NHWC = np.random.default_rng(0).normal(size=(2, 64, 32, 3)).astype(np.float32)
    expected = embed(torch_network("mobilenet_v2", state), images_NHWC)
    config = small.part(arch="mobilenet_v2")
    variables = load_pretrained(str(weights), blank(config), config)
    np.testing.assert_allclose(features(config, variables, images_NHWC, 0), expected, atol=1e-4)
