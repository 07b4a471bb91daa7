"""HcTri and MMN in PyTorch, written for this test, channels first: with the same weights, the same features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdf_jax.config import DataConfig, vary
from bdf_jax.method import experiment
from bdf_jax.models import Network

torch = pytest.importorskip("torch", reason="PyTorch is not installed: it is needed for this comparison only")
nn = torch.nn

from test_twins_deen import Residual, Stem, random_variables  # noqa: E402

CLASSES = 5


def layer(number, count):
    """One of the four layers of a ResNet-50."""
    inputs, width = 64 if number == 1 else 128 * 2 ** (number - 1), 64 * 2 ** (number - 1)
    return nn.Sequential(*(
        Residual(inputs if i == 0 else 4 * width, width, 2 if number in (2, 3) and i == 0 else 1)
        for i in range(count)
    ))  # fmt: skip


class HcTri(nn.Module):
    def __init__(self, exponent):
        super().__init__()
        self.exponent = exponent
        self.stem_visible, self.stem_infrared = Stem(), Stem()
        self.layer1_visible, self.layer1_infrared = layer(1, 3), layer(1, 3)
        self.layer2, self.layer3, self.layer4 = layer(2, 4), layer(3, 6), layer(4, 3)
        for s in range(6):
            self.add_module(f"bnneck{s}_project", nn.Conv2d(2048, 256, 1))
            self.add_module(f"bnneck{s}", nn.BatchNorm2d(256))
            self.add_module(f"classifier{s}", nn.Linear(256, CLASSES))

    def forward(self, visible, infrared):
        own = self.layer1_visible(self.stem_visible(visible)), self.layer1_infrared(self.stem_infrared(infrared))
        x = self.layer4(self.layer3(self.layer2(torch.cat(own))))
        found = []
        for s, stripe in enumerate(x.chunk(6, 2)):
            pooled = stripe.clamp(min=1e-6).pow(self.exponent).mean((2, 3), keepdim=True).pow(1 / self.exponent)
            embedding = torch.relu(getattr(self, f"bnneck{s}")(getattr(self, f"bnneck{s}_project")(pooled))).flatten(1)
            found.append((pooled.flatten(1), embedding, getattr(self, f"classifier{s}")(embedding)))
        return [torch.stack(stripes, 1) for stripes in zip(*found, strict=True)]


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.bn = nn.Conv2d(3, 1, 1), nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)

    def forward(self, x):
        return self.bn(torch.relu(self.conv2(torch.relu(self.conv1(x)))))


class MMN(nn.Module):
    def __init__(self):
        super().__init__()
        self.generator_Vm, self.generator_Im = Encoder(), Encoder()
        self.generator_middle_decoder = nn.Conv2d(1, 3, 1)
        self.stem_visible, self.stem_infrared = Stem(), Stem()
        for number, count in enumerate((3, 4, 6, 3), start=1):
            self.add_module(f"layer{number}", layer(number, count))
        for s in range(4):
            self.add_module(f"bnneck{s}", nn.BatchNorm1d(2048))
            self.add_module(f"classifier{s}", nn.Linear(2048, CLASSES, bias=False))

    def forward(self, visible, infrared):
        codes = torch.cat([self.generator_Vm(visible), self.generator_Im(infrared)])
        middle_v, middle_i = torch.relu(self.generator_middle_decoder(codes)).chunk(2)
        v = self.stem_visible(torch.cat([visible, middle_v]))
        i = self.stem_infrared(torch.cat([infrared, middle_i]))
        x = self.layer4(self.layer3(self.layer2(self.layer1(torch.cat([v, i])))))
        found = []
        for s, stripe in enumerate(x.chunk(4, 2)):
            pooled = stripe.mean((2, 3))
            embedding = getattr(self, f"bnneck{s}")(pooled)
            found.append((pooled, embedding, getattr(self, f"classifier{s}")(embedding)))
        return [torch.stack(stripes, 1) for stripes in zip(*found, strict=True)]


def state_of(variables):
    """The twin's state, by its names."""
    words = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var", "bias": "bias"}
    state = {}
    for collection in ("params", "batch_stats"):
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables[collection]):
            *modules, name = (key.key for key in path)
            if modules[-1].startswith("block"):
                modules[-1:] = modules[-1].removeprefix("block").split("_", 1)
            array = np.asarray(leaf)
            if name == "kernel":
                array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
                if array.ndim == 2 and not modules[0].startswith("classifier"):  # a 1x1 convolution
                    array = array[..., None, None]
            state[".".join([*modules, words[name]])] = torch.from_numpy(array.copy())
    return state


@pytest.mark.parametrize(
    ("method", "place", "size", "order"),
    [
        ("hctri", "sysu_mm01", (96, 48), ("V", "I")),
        ("hctri", "regdb", (96, 48), ("V", "I")),
        ("mmn", "sysu_mm01", (64, 32), ("V", "Vm", "I", "Im")),
    ],
)
def test_the_same_weights_give_the_same_features_and_scores(method, place, size, order):
    config = vary(experiment(method, place, data=DataConfig()), {"data.image_size": size})
    network = Network.of(config, CLASSES)
    variables = random_variables(network, size)
    twin = HcTri(config.network.pool.p) if method == "hctri" else MMN()
    missing, unexpected = twin.load_state_dict(state_of(variables), strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)

    x = np.random.default_rng(1).normal(size=(2, 2, *size, 3)).astype(np.float32)
    with torch.no_grad():
        expected = twin.eval()(*(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()) for images in x))
    found = jax.jit(lambda v, images: {k: y for k, y in network.apply(v, images, train=False).items() if k != "views"})(
        variables, {"V": jnp.asarray(x[0]), "I": jnp.asarray(x[1])}
    )
    places = [network.inputs.index(name) for name in order]  # the twin's order: all images of a view, then of the next
    for name, value in zip(("pooled", "embedding", "logits"), expected, strict=True):
        ours = np.asarray(found[name]["classifier"] if name == "logits" else found[name])[:, places]
        ours = ours.swapaxes(0, 1).reshape(value.shape)
        scale = float(value.abs().max())
        assert scale > 1e-3
        np.testing.assert_allclose(ours / scale, value.numpy() / scale, atol=1e-4)
