"""What PyTorch saves of a network becomes that network here: AGW, HC and DNS as twins with the authors' names.

The twins of DEEN, HcTri and MMN, which lie beside this file, are saved under the authors' names, too.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdf_jax.models import Network
from bdf_jax.published import convert

torch = pytest.importorskip("torch", reason="PyTorch is not installed: it is needed for this comparison only")
nn = torch.nn
F = nn.functional

from test_twins_deen import Twin as DEEN  # noqa: E402
from test_twins_stripes import MMN, HcTri  # noqa: E402

CLASSES = 5


class Bottleneck(nn.Module):
    def __init__(self, inputs, width, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        if inputs != 4 * width:
            shortcut = nn.Conv2d(inputs, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            self.downsample = nn.Sequential(*shortcut)

    def forward(self, x):
        y = torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))
        return torch.relu(self.bn3(self.conv3(y)) + (self.downsample(x) if hasattr(self, "downsample") else x))


class ResNet(nn.Module):
    """A ResNet-50 with stride 1 in its last layer."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        inputs = 64
        for layer, count in enumerate((3, 4, 6, 3), start=1):
            width = 64 * 2 ** (layer - 1)
            blocks = [Bottleneck(inputs if i == 0 else 4 * width, width, 2 if layer in (2, 3) and i == 0 else 1)
                      for i in range(count)]  # fmt: skip
            self.add_module(f"layer{layer}", nn.Sequential(*blocks))
            inputs = 4 * width

    def stem(self, x):
        return F.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, 1)


def holder(**parts):
    """A module that has nothing but parts."""
    made = nn.Module()
    for name, part in parts.items():
        made.add_module(name, part)
    return made


def mean_of_cubes(x):
    """As everywhere here; the authors add 1e-12 under the root, which makes 1e-4 of a map of zeros instead of 1e-6."""
    return x.flatten(2).clamp(min=1e-6).pow(3).mean(2).pow(1 / 3)


class NonLocal(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.g = nn.Sequential(nn.Conv2d(channels, 1, 1))
        self.theta, self.phi = nn.Conv2d(channels, 1, 1), nn.Conv2d(channels, 1, 1)
        self.W = nn.Sequential(nn.Conv2d(1, channels, 1), nn.BatchNorm2d(channels))

    def forward(self, x):
        pairs = self.theta(x).flatten(1)[:, :, None] * self.phi(x).flatten(1)[:, None]
        y = (pairs / pairs.shape[-1]) @ self.g(x).flatten(1)[:, :, None]
        return x + self.W(y.view(len(x), 1, *x.shape[2:]))


class AGW(nn.Module):
    def __init__(self):
        super().__init__()
        self.visible_module, self.thermal_module = holder(visible=ResNet()), holder(thermal=ResNet())
        self.base_resnet = holder(base=ResNet())
        self.NL_2 = nn.ModuleList(NonLocal(512) for _ in range(2))
        self.NL_3 = nn.ModuleList(NonLocal(1024) for _ in range(3))
        self.bottleneck, self.classifier = nn.BatchNorm1d(2048), nn.Linear(2048, CLASSES, bias=False)

    def forward(self, visible, infrared):
        x = torch.cat([self.visible_module.visible.stem(visible), self.thermal_module.thermal.stem(infrared)])
        x = self.base_resnet.base.layer1(x)
        for layer, non_local in ((self.base_resnet.base.layer2, self.NL_2), (self.base_resnet.base.layer3, self.NL_3)):
            for i, block in enumerate(layer):
                x, behind = block(x), i - (len(layer) - len(non_local))
                x = non_local[behind](x) if behind >= 0 else x
        pooled = mean_of_cubes(self.base_resnet.base.layer4(x))
        embedding = self.bottleneck(pooled)
        return pooled, embedding, self.classifier(embedding)


class HC(nn.Module):
    def __init__(self):
        super().__init__()
        self.visible_net, self.thermal_net = holder(visible=ResNet()), holder(thermal=ResNet())
        for net in (self.visible_net.visible, self.thermal_net.thermal):
            net.fc = nn.Linear(2048, 1000)
        for s in range(1, 7):
            self.add_module(f"feature{s}", holder(feat_block=nn.Sequential(nn.Linear(2048, 512), nn.BatchNorm1d(512))))
            self.add_module(
                f"classifier{s}", holder(classifier=nn.Sequential(nn.LeakyReLU(0.1), nn.Linear(512, CLASSES)))
            )

    def forward(self, visible, infrared):
        maps = []
        for net, x in ((self.visible_net.visible, visible), (self.thermal_net.thermal, infrared)):
            maps.append(net.layer4(net.layer3(net.layer2(net.layer1(net.stem(x))))))
        found = []
        for s, stripe in enumerate(torch.cat(maps).chunk(6, 2), start=1):
            pooled = stripe.mean((2, 3))
            embedding = getattr(self, f"feature{s}").feat_block(pooled)
            found.append((pooled, embedding, getattr(self, f"classifier{s}").classifier(embedding)))
        return [torch.stack(stripes, 1) for stripes in zip(*found, strict=True)]


class Shift(nn.Module):
    def __init__(self, channels):
        super().__init__()
        inner = max(8, channels // 32)
        self.channel_attention = nn.Sequential(
            nn.Conv2d(channels, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.Hardswish()
        )
        self.conv_h, self.conv_w = (nn.Conv2d(inner, channels, 1, bias=False) for _ in range(2))

    def forward(self, x):
        u = x + x.amax(3, keepdim=True).softmax(2) * x.amax(2, keepdim=True).softmax(3)
        lines = torch.cat([u.mean(3), u.mean(2)], 2)[..., None]
        rows, columns = self.channel_attention(lines).split([x.shape[2], x.shape[3]], 2)
        return x * self.conv_h(rows).sigmoid() * self.conv_w(columns).sigmoid().transpose(2, 3)


class DNS(nn.Module):
    def __init__(self):
        super().__init__()
        self.visible, self.thermal = holder(visible=ResNet()), holder(thermal=ResNet())
        self.base = holder(base=ResNet(), HSS3=Shift(1024), HSS4=Shift(2048))
        self.bottleneck, self.classifier = nn.BatchNorm1d(2048), nn.Linear(2048, CLASSES, bias=False)
        layers = nn.LayerNorm(2048), nn.Linear(2048, 8192), nn.GELU(), nn.Dropout(), nn.Linear(8192, 2048)
        self.CSS = holder(mlp=nn.Sequential(*layers))
        names = (f"{base}_classifier{end}" for base in ("visible", "infrared") for end in ("", "_"))
        self.DD = holder(**{name: nn.Linear(2048, CLASSES, bias=False) for name in names})

    def forward(self, visible, infrared):
        own = [net.layer2(net.layer1(net.stem(x)))
               for net, x in ((self.visible.visible, visible), (self.thermal.thermal, infrared))]  # fmt: skip
        x = self.base.HSS3(self.base.base.layer3(torch.cat(own)))
        pooled = mean_of_cubes(torch.relu(self.base.HSS4(self.base.base.layer4(x))))
        embedding = self.bottleneck(pooled)
        return pooled, embedding, self.classifier(embedding)


# Where a twin has other names than the authors: expression of the twin's, the authors'.
TRUNKS = (
    (r"stem_visible\.(conv|bn)", r"visible_module.visible.\g<1>1"),
    (r"stem_infrared\.(conv|bn)", r"thermal_module.thermal.\g<1>1"),
    (r"layer1_visible\.", "visible_module.visible.layer1."),
    (r"layer1_infrared\.", "thermal_module.thermal.layer1."),
    (r"^(layer\d\.)", r"base_resnet.base.\1"),
    (r"(layer\d\.\d)\.conv0", r"\1.downsample.0"),
    (r"(layer\d\.\d)\.bn0", r"\1.downsample.1"),
)
OF_DEEN = (
    *TRUNKS,
    (r"^mfa(\d)\.channel_", r"MFA\1.CNL."),
    (r"^mfa(\d)\.position_", r"MFA\1.PNL."),
    (r"NL\.W\.", "NL.W.0."),
    (r"NL\.bn\.", "NL.W.1."),
    (r"^dee\.branch0_(?:conv(\d)|W)", r"DEE.FC1\1"),
    (r"^dee\.branch1_(?:conv(\d)|W)", r"DEE.FC2\1"),
    (r"^bnneck", "bottleneck"),
)
OF_HCTRI = (
    *TRUNKS,
    (r"^bnneck(\d)_project", r"local_conv_list.\1.0"),
    (r"^bnneck(\d)", r"local_conv_list.\1.1"),
    (r"^classifier(\d)", r"fc_list.\1"),
)
OF_MMN = (
    *TRUNKS,
    *((f"^generator_{v}.{ours}", f"{theirs}{i}") for v, i in (("Vm", 1), ("Im", 2))
      for ours, theirs in (("conv1", "encode"), ("conv2", "fc"), ("bn", "bn"))),
    (r"^generator_middle_decoder", "decode"),
    *((f"^{ours}{s}", f"{theirs}{s + 1}") for s in (3, 2, 1, 0)
      for ours, theirs in (("bnneck", "bottleneck"), ("classifier", "classifier"))),
)  # fmt: skip


def renamed(name, rows):
    for pattern, theirs in rows:
        name = re.sub(pattern, theirs, name)
    return name


def as_if_trained(twin, gain):
    """Statistics and normalisations that are not those of a new network, so that no block is an identity."""
    torch.manual_seed(0)
    for name, tensor in twin.state_dict().items():
        if tensor.ndim == 4:
            tensor.copy_(gain * torch.randn(tensor.shape) / tensor[0].numel() ** 0.5)
        elif name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
            tensor.copy_((1 + 0.2 * torch.randn(tensor.shape)).abs())
        elif name.endswith(("running_mean", "bias")):
            tensor.copy_(0.1 * torch.randn(tensor.shape))
    return twin.eval()


@pytest.mark.long
@pytest.mark.parametrize(
    ("method", "make", "rows", "size", "views", "how"),
    [
        ("agw", AGW, (), (64, 32), ("V", "I"), {}),
        ("caj", AGW, (), (64, 32), ("V", "I"), {"method": "caj"}),
        ("hc", HC, (), (96, 48), ("V", "I"), {}),
        ("dns", DNS, (), (64, 32), ("V", "I"), {}),
        ("deen", lambda: DEEN(False, CLASSES), OF_DEEN, (64, 32), ("V", "I", "V1", "I1", "V2", "I2"), {}),
        ("deen", lambda: DEEN(True, CLASSES), OF_DEEN, (64, 32), ("V", "I", "V1", "I1", "V2", "I2"), {}),
        ("hctri", lambda: HcTri(10.0), OF_HCTRI, (96, 48), ("V", "I"), {"dataset": "regdb"}),
        ("mmn", MMN, OF_MMN, (64, 32), ("V", "Vm", "I", "Im"), {}),
    ],
)
def test_a_saved_network_gives_the_same_features_and_scores(tmp_path, method, make, rows, size, views, how):
    # Products of three maps overflow soon.
    twin = as_if_trained(make(), gain=0.7 if method in ("agw", "caj", "deen") else 1.0)
    state = {"module." + renamed(name, rows): tensor for name, tensor in twin.state_dict().items()}
    assert len(state) == len(twin.state_dict())
    torch.save({"net": state, "mAP": np.float64(0.5), "cmc": np.zeros(20), "epoch": 60}, tmp_path / "model.t")
    found = convert(tmp_path / "model.t", changes={"data.image_size": size}, **how)
    assert found.metadata.config.method == method
    network = Network.of(found.metadata.config, CLASSES)

    x = np.random.default_rng(1).normal(size=(2, 2, *size, 3)).astype(np.float32)
    with torch.no_grad():
        expected = twin(*(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()) for images in x))

    @jax.jit
    def run(variables, images):
        outputs = network.apply(variables, images, train=False, views=views)
        return outputs["pooled"], outputs["embedding"], outputs["logits"]["classifier"]

    ours = run(found.variables, {"V": jnp.asarray(x[0]), "I": jnp.asarray(x[1])})
    for array, value in zip(ours, expected, strict=True):  # the twin: all images of a view, then of the next
        scale = float(value.abs().max())
        assert scale > 0.1
        rowed = np.asarray(array).swapaxes(0, 1).reshape(value.shape)
        np.testing.assert_allclose(rowed / scale, value.numpy() / scale, atol=1e-4)
