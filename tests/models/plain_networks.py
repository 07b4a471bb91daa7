"""ResNets and MobileNetV2 in plain NumPy, straight from a state dictionary in torchvision's naming.

The last down-sampling is left out (stride 1), and the output is the mean over height and width, as in this project.
"""

import numpy as np

RESNETS = {  # blocks of the four layers, convolutions of a block
    "resnet18": ((2, 2, 2, 2), 2),
    "resnet34": ((3, 4, 6, 3), 2),
    "resnet50": ((3, 4, 6, 3), 3),
}
# Sandler et al. 2018, table 2: expansion t, channels c, repeats n, stride s; the 160 channels with stride 1 here.
MOBILENET = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 1), (6, 320, 1, 1))


def random_resnet(arch: str, seed: int = 0) -> dict[str, np.ndarray]:
    blocks, convolutions = RESNETS[arch]
    expansion = 4 if convolutions == 3 else 1
    make, channels = Maker(seed), 64
    make.conv("conv1", 3, 64, 7)
    make.norm("bn1", 64)
    for layer, count in enumerate(blocks, start=1):
        width = 64 * 2 ** (layer - 1)
        for i in range(count):
            name = f"layer{layer}.{i}"
            sizes = ((channels, width, 3), (width, width, 3))
            if convolutions == 3:
                sizes = ((channels, width, 1), (width, width, 3), (width, 4 * width, 1))
            for k, (inputs, outputs, side) in enumerate(sizes, start=1):
                make.conv(f"{name}.conv{k}", inputs, outputs, side)
                make.norm(f"{name}.bn{k}", outputs)
            if channels != expansion * width:
                make.conv(f"{name}.downsample.0", channels, expansion * width, 1)
                make.norm(f"{name}.downsample.1", expansion * width)
            channels = expansion * width
    make.state["fc.weight"] = make.rng.normal(size=(1000, channels)).astype(np.float32)
    make.state["fc.bias"] = np.zeros(1000, np.float32)
    return make.state


def random_mobilenet(seed: int = 0) -> dict[str, np.ndarray]:
    make, channels, number = Maker(seed), 32, 1
    make.conv("features.0.0", 3, 32, 3)
    make.norm("features.0.1", 32)
    for t, c, n, _ in MOBILENET:
        for _ in range(n):
            name, hidden = f"features.{number}.conv", t * channels
            k = 0
            if t > 1:
                make.conv(f"{name}.0.0", channels, hidden, 1)
                make.norm(f"{name}.0.1", hidden)
                k = 1
            make.conv(f"{name}.{k}.0", 1, hidden, 3)
            make.norm(f"{name}.{k}.1", hidden)
            make.conv(f"{name}.{k + 1}", hidden, c, 1)
            make.norm(f"{name}.{k + 2}", c)
            channels, number = c, number + 1
    make.conv("features.18.0", 320, 1280, 1)
    make.norm("features.18.1", 1280)
    make.state["classifier.1.weight"] = make.rng.normal(size=(1000, 1280)).astype(np.float32)
    make.state["classifier.1.bias"] = np.zeros(1000, np.float32)
    return make.state


class Maker:
    """Random tensors with statistics that are not those of a new network."""

    def __init__(self, seed: int):
        self.rng, self.state = np.random.default_rng(seed), {}

    def conv(self, name: str, inputs: int, outputs: int, side: int) -> None:
        scale = (2 / (inputs * side * side)) ** 0.5
        kernel = self.rng.normal(size=(outputs, inputs, side, side)) * scale
        self.state[f"{name}.weight"] = kernel.astype(np.float32)

    def norm(self, name: str, channels: int) -> None:
        draws = {
            "weight": self.rng.uniform(0.3, 0.9, channels),
            "bias": self.rng.normal(0, 0.2, channels),
            "running_mean": self.rng.normal(0, 0.3, channels),
            "running_var": self.rng.uniform(0.5, 2.0, channels),
        }
        self.state |= {f"{name}.{key}": value.astype(np.float32) for key, value in draws.items()}
        self.state[f"{name}.num_batches_tracked"] = np.array(1234, np.int64)


def resnet(state: dict[str, np.ndarray], arch: str, images_NCHW: np.ndarray) -> np.ndarray:
    """(N, C) features."""
    blocks, convolutions = RESNETS[arch]
    x = relu(norm(state, "bn1", conv(state, "conv1", images_NCHW, 2)))
    x = windows(np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf), 3, 2).max(axis=(-2, -1))
    for layer, count in enumerate(blocks, start=1):
        for i in range(count):
            name, y = f"layer{layer}.{i}", x
            stride = 2 if i == 0 and layer in (2, 3) else 1
            for k in range(1, convolutions + 1):
                strided = k == convolutions - 1  # the 3x3 of a bottleneck, the first of a basic block
                y = norm(state, f"{name}.bn{k}", conv(state, f"{name}.conv{k}", y, stride if strided else 1))
                y = relu(y) if k < convolutions else y
            if f"{name}.downsample.0.weight" in state:
                x = norm(state, f"{name}.downsample.1", conv(state, f"{name}.downsample.0", x, stride))
            x = relu(x + y)
    return x.mean(axis=(2, 3))


def mobilenet(state: dict[str, np.ndarray], images_NCHW: np.ndarray) -> np.ndarray:
    """(N, 1280) features."""
    x, number = relu6(norm(state, "features.0.1", conv(state, "features.0.0", images_NCHW, 2))), 1
    for t, c, n, s in MOBILENET:
        for i in range(n):
            name, y, k, stride = f"features.{number}.conv", x, 0, s if i == 0 else 1
            if t > 1:
                y, k = relu6(norm(state, f"{name}.0.1", conv(state, f"{name}.0.0", y))), 1
            y = relu6(norm(state, f"{name}.{k}.1", conv(state, f"{name}.{k}.0", y, stride, depthwise=True)))
            y = norm(state, f"{name}.{k + 2}", conv(state, f"{name}.{k + 1}", y))
            x = x + y if stride == 1 and x.shape[1] == c else y
            number += 1
    return relu6(norm(state, "features.18.1", conv(state, "features.18.0", x))).mean(axis=(2, 3))


def conv(state, name, x_NCHW, stride=1, depthwise=False):
    kernel = state[f"{name}.weight"].astype(np.float64)
    pad = kernel.shape[-1] // 2
    views = windows(np.pad(x_NCHW, ((0, 0), (0, 0), (pad, pad), (pad, pad))), kernel.shape[-1], stride)
    if depthwise:
        return np.einsum("nchwij,cij->nchw", views, kernel[:, 0])
    return np.moveaxis(np.tensordot(views, kernel, axes=((1, 4, 5), (1, 2, 3))), -1, 1)


def norm(state, name, x_NCHW):
    weight, bias, mean, var = (
        state[f"{name}.{key}"].astype(np.float64)[:, None, None]
        for key in ("weight", "bias", "running_mean", "running_var")
    )
    return (x_NCHW - mean) / np.sqrt(var + 1e-5) * weight + bias


def windows(x_NCHW, side, stride):
    return np.lib.stride_tricks.sliding_window_view(x_NCHW, (side, side), axis=(2, 3))[:, :, ::stride, ::stride]


def relu(x):
    return np.maximum(x, 0)


def relu6(x):
    return np.clip(x, 0, 6)
