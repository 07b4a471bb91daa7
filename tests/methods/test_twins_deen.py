"""DEEN in PyTorch, written for this test, channels first: with the same weights, the same features and scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdf_jax.config import DataConfig, vary
from bdf_jax.method import experiment
from bdf_jax.models import Network, initial_variables

torch = pytest.importorskip("torch", reason="PyTorch is not installed: it is needed for this comparison only")
nn = torch.nn

SIZE = (64, 32)


class Residual(nn.Module):
    """1x1, 3x3, 1x1 to four times the width."""

    def __init__(self, inputs, width, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        self.changes = inputs != 4 * width or stride != 1
        if self.changes:
            self.conv0, self.bn0 = nn.Conv2d(inputs, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(torch.relu(self.bn2(self.conv2(y)))))
        return torch.relu(y + (self.bn0(self.conv0(x)) if self.changes else x))


class Aggregation(nn.Module):
    def __init__(self, high, low, stride):
        super().__init__()
        self.half = low // 2
        for name, inputs, outputs, step in (
            ("channel_theta", high, low, 1), ("channel_phi", low, low, stride), ("channel_g", low, low, 1),
            ("channel_W", low, high, stride), ("position_theta", high, self.half, 1),
            ("position_phi", low, self.half, 1), ("position_g", low, self.half, 1), ("position_W", self.half, high, 1),
        ):  # fmt: skip
            self.add_module(name, nn.Conv2d(inputs, outputs, 1, step))
        self.channel_bn, self.position_bn = nn.BatchNorm2d(high), nn.BatchNorm2d(high)

    def forward(self, high, low):
        B, l, *size = low.shape  # noqa: E741
        energy = self.channel_theta(high).view(B, l, -1) @ self.channel_phi(low).view(B, l, -1).transpose(1, 2)
        y = (energy / l) @ self.channel_g(low).view(B, l, -1)
        z = high + self.channel_bn(self.channel_W(y.view(B, l, *size)))
        # A map of half the channels, looked at as one of all of them with half the positions.
        theta, phi, g = (
            conv(x).view(B, l, -1)
            for conv, x in ((self.position_theta, z), (self.position_phi, low), (self.position_g, low))
        )
        energy = theta.transpose(1, 2) @ phi
        y = ((energy / energy.shape[-1]) @ g.transpose(1, 2)).transpose(1, 2).contiguous()
        return z + self.position_bn(self.position_W(y.view(B, self.half, *high.shape[2:])))


class Expansion(nn.Module):
    def __init__(self, channels):
        super().__init__()
        for b in (0, 1):
            for d in (1, 2, 3):
                conv = nn.Conv2d(channels, channels // 4, 3, padding=d, dilation=d, bias=False)
                self.add_module(f"branch{b}_conv{d}", conv)
            self.add_module(f"branch{b}_W", nn.Conv2d(channels // 4, channels, 1))

    def forward(self, x):
        found = [x]
        for b in (0, 1):
            mean = sum(getattr(self, f"branch{b}_conv{d}")(x) for d in (1, 2, 3)) / 3
            found.append(getattr(self, f"branch{b}_W")(torch.relu(mean)))
        return torch.cat(found)


class Stem(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)

    def forward(self, x):
        return nn.functional.max_pool2d(torch.relu(self.bn(self.conv(x))), 3, 2, 1)


class Twin(nn.Module):
    """Whole as on SYSU-MM01, or shorter as on RegDB."""

    def __init__(self, short, classes):
        super().__init__()
        self.short = short
        self.stem_visible, self.stem_infrared = Stem(), Stem()
        inputs = 64
        for layer, count in enumerate((3, 4, 6) if short else (3, 4, 6, 3), start=1):
            width = 64 * 2 ** (layer - 1)
            blocks = [Residual(inputs if i == 0 else 4 * width, width, 2 if layer in (2, 3) and i == 0 else 1)
                      for i in range(count)]  # fmt: skip
            self.add_module(f"layer{layer}", nn.Sequential(*blocks))
            inputs = 4 * width
        self.mfa1, self.mfa2 = Aggregation(256, 64, 1), Aggregation(512, 256, 2)
        if not short:
            self.mfa3 = Aggregation(1024, 512, 2)
        self.dee = Expansion(512 if short else 1024)
        self.bnneck, self.classifier = nn.BatchNorm1d(inputs), nn.Linear(inputs, classes, bias=False)

    def forward(self, visible, infrared):
        x = torch.cat([self.stem_visible(visible), self.stem_infrared(infrared)])
        x = self.mfa1(self.layer1(x), x)
        x = self.mfa2(self.layer2(x), x)
        x = self.layer3(self.dee(x)) if self.short else self.layer4(self.dee(self.mfa3(self.layer3(x), x)))
        pooled = x.mean((2, 3))
        embedding = self.bnneck(pooled)
        return pooled, embedding, self.classifier(embedding)


def random_variables(network, size):
    """Statistics and normalisations as if trained: the blocks are no identities."""
    rng = np.random.default_rng(0)
    variables = initial_variables(network, 0, size)

    def changed(path, leaf):
        name = path[-1].key
        noise = rng.normal(size=leaf.shape).astype(np.float32)
        if name in ("scale", "var"):
            return np.abs(1 + 0.2 * noise)
        return 0.1 * noise if name in ("bias", "mean") else np.asarray(leaf)

    return jax.tree_util.tree_map_with_path(changed, variables)


def state_of(variables):
    """The twin's state, by its names; all numbers are used, or the twin would not load it."""
    words = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var", "bias": "bias"}
    state = {}
    for collection in ("params", "batch_stats"):
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables[collection]):
            *modules, name = (key.key for key in path)
            if modules[-1].startswith("block"):
                modules[-1:] = modules[-1].removeprefix("block").split("_", 1)
            array = np.asarray(leaf)
            if modules[0] == "dee" and name.startswith("branch"):
                modules, name = [*modules, name], "kernel"
            if name == "kernel":
                array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
                if array.ndim == 2 and modules[0] != "classifier":
                    array = array[..., None, None]
            state[".".join([*modules, words[name]])] = torch.from_numpy(array.copy())
    return state


@pytest.mark.parametrize("place", ["sysu_mm01", "regdb"])
def test_the_same_weights_give_the_same_features_and_scores(place):
    config = vary(experiment("deen", place, data=DataConfig()), {"data.image_size": SIZE})
    network = Network.of(config, 5)
    variables = random_variables(network, SIZE)
    twin = Twin(short=place == "regdb", classes=5)
    missing, unexpected = twin.load_state_dict(state_of(variables), strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)

    x = np.random.default_rng(1).normal(size=(2, 2, *SIZE, 3)).astype(np.float32)
    with torch.no_grad():
        expected = twin.eval()(*(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()) for images in x))
    found = jax.jit(lambda v, images: {k: y for k, y in network.apply(v, images, train=False).items() if k != "views"})(
        variables, {"V": jnp.asarray(x[0]), "I": jnp.asarray(x[1])}
    )
    # The twin: all visible, all infrared images; then the same of the first branch, then of the second.
    order = [network.inputs.index(name) for name in ("V", "I", "V1", "I1", "V2", "I2")]
    for name, value in (("pooled", expected[0]), ("embedding", expected[1]), ("logits", expected[2])):
        ours = np.asarray(found[name]["classifier"] if name == "logits" else found[name])[:, order, 0]
        ours = ours.swapaxes(0, 1).reshape(value.shape)
        scale = float(value.abs().max())
        assert scale > 1e-3
        np.testing.assert_allclose(ours / scale, value.numpy() / scale, atol=1e-4)
