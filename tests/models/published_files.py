"""Files as the authors' codes save them: names and shapes of their state dictionaries, written without PyTorch.

Most keep three whole ResNet-50s and use a part of each. Copies share their storages, which keeps the files small.
"""

import functools
import pickle

import numpy as np
import plain_networks
import torch_writer as write

CLASSES = 7
RESNET = {"agw", "mmn", "deen", "deen_short", "agw_base"}  # stems of each base, then shared


@functools.cache
def resnet50() -> dict[str, np.ndarray]:
    state = plain_networks.random_resnet("resnet50")
    return {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}


def stages(which: str) -> dict[str, np.ndarray]:
    """Stages of a ResNet-50: "0" the stem, "1" to "4" the layers."""
    starts = tuple({"0": ("conv1", "bn1")}.get(stage, (f"layer{stage}",)) for stage in which)
    return {name: tensor for name, tensor in resnet50().items() if name.startswith(sum(starts, ()))}


def behind(prefix: str, state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {prefix + name: tensor for name, tensor in state.items()}


class Parts(plain_networks.Maker):
    """What is not a ResNet's: random tensors."""

    def linear(self, name: str, inputs: int, outputs: int, *, bias: bool = True, pixel: bool = False) -> None:
        kernel = self.rng.normal(size=(outputs, inputs)).astype(np.float32) / inputs**0.5
        self.state[f"{name}.weight"] = kernel[..., None, None] if pixel else kernel
        if bias:
            self.state[f"{name}.bias"] = self.rng.normal(size=outputs).astype(np.float32) / 10


@functools.cache
def saved(family: str) -> dict[str, np.ndarray]:
    """The state dictionary of a family."""
    copies = {}
    if family in RESNET:
        for prefix in ("visible_module.visible.", "thermal_module.thermal.", "base_resnet.base."):
            copies |= behind(prefix, resnet50())
    parts = Parts(1)
    makers = {"agw": agw, "agw_base": agw_base, "mmn": mmn, "deen": deen, "hctri": hctri, "hc": hc, "dns": dns}
    makers[family.removesuffix("_short")](parts, family)
    return {**copies, **parts.state}


def agw_base(parts: Parts, family: str) -> None:
    neck(parts)


def agw(parts: Parts, family: str) -> None:
    for layer, channels, count in ((2, 512, 2), (3, 1024, 3)):
        for i in range(count):
            for name in ("g.0", "theta", "phi"):
                parts.linear(f"NL_{layer}.{i}.{name}", channels, 1, pixel=True)
            parts.linear(f"NL_{layer}.{i}.W.0", 1, channels, pixel=True)
            parts.norm(f"NL_{layer}.{i}.W.1", channels)
    neck(parts)


def neck(parts: Parts, features: int = 2048, ends: tuple = ("",)) -> None:
    for end in ends:
        parts.norm(f"bottleneck{end}", features)
        parts.linear(f"classifier{end}", features, CLASSES, bias=False)


def mmn(parts: Parts, family: str) -> None:
    neck(parts, ends=(1, 2, 3, 4))
    for number in (1, 2):
        parts.linear(f"encode{number}", 3, 1, pixel=True)
        parts.linear(f"fc{number}", 1, 1, pixel=True)
        parts.norm(f"bn{number}", 1)
    parts.linear("decode", 1, 3, pixel=True)


def deen(parts: Parts, family: str) -> None:
    short = family == "deen_short"
    channels = 512 if short else 1024
    for branch in (1, 2):
        for d in (1, 2, 3):
            parts.conv(f"DEE.FC{branch}{d}", channels, channels // 4, 3)
        parts.linear(f"DEE.FC{branch}", channels // 4, channels, pixel=True)
    for number, high, low in ((1, 256, 64), (2, 512, 256), (3, 1024, 512))[: 2 if short else 3]:
        for block, inner in (("CNL", low), ("PNL", low // 2)):
            name = f"MFA{number}.{block}"
            for part, inputs in (("g", low), ("theta", high), ("phi", low)):
                parts.linear(f"{name}.{part}", inputs, inner, pixel=True)
            parts.linear(f"{name}.W.0", inner, high, pixel=True)
            parts.norm(f"{name}.W.1", high)
    neck(parts, 1024 if short else 2048)


def hctri(parts: Parts, family: str) -> None:
    for prefix in ("visible_module.visible.", "thermal_module.thermal."):
        parts.state |= behind(prefix, stages("01"))
    parts.state |= behind("base_resnet.base.", stages("234"))
    for s in range(6):
        parts.linear(f"local_conv_list.{s}.0", 2048, 256, pixel=True)
        parts.norm(f"local_conv_list.{s}.1", 256)
        parts.linear(f"fc_list.{s}", 256, CLASSES)


def hc(parts: Parts, family: str) -> None:
    for prefix in ("visible_net.visible.", "thermal_net.thermal."):
        parts.state |= behind(prefix, resnet50())
        parts.linear(f"{prefix}fc", 2048, 1000)
    for s in range(1, 7):
        parts.linear(f"feature{s}.feat_block.0", 2048, 512)
        parts.norm(f"feature{s}.feat_block.1", 512)
        parts.linear(f"classifier{s}.classifier.1", 512, CLASSES)


def dns(parts: Parts, family: str) -> None:
    for prefix in ("visible.visible.", "thermal.thermal.", "base.base."):
        parts.state |= behind(prefix, resnet50())
    for number, channels in ((3, 1024), (4, 2048)):
        inner = max(8, channels // 32)
        parts.conv(f"base.HSS{number}.channel_attention.0", channels, inner, 1)
        parts.norm(f"base.HSS{number}.channel_attention.1", inner)
        for name in ("conv_h", "conv_w"):
            parts.conv(f"base.HSS{number}.{name}", inner, channels, 1)
    neck(parts)
    parts.linear("CSS.mlp.1", 2048, 8192)
    parts.linear("CSS.mlp.4", 8192, 2048)
    parts.state |= {f"CSS.mlp.0.{leaf}": np.ones(2048, np.float32) for leaf in ("weight", "bias")}
    for base in ("visible", "infrared"):
        parts.linear(f"DD.{base}_classifier", 2048, CLASSES, bias=False)
        parts.linear(f"DD.{base}_classifier_", 2048, CLASSES, bias=False)


def published(state: dict[str, np.ndarray], numpy: str = "numpy._core") -> tuple[bytes, dict[str, bytes]]:
    """{net, cmc, mAP, mINP, epoch} with NumPy values inside: what `write.write_zip` takes."""

    def in_protocol_2(value) -> bytes:
        return pickle.dumps(value, 2)[2:-1].replace(b"numpy._core", numpy.encode())

    net, storages = write.state(state)
    beside = {"cmc": np.linspace(0, 1, 20), "mAP": np.float64(0.5), "mINP": np.float64(0.25), "epoch": 60}
    return write.dictionary({"net": net, **{k: in_protocol_2(v) for k, v in beside.items()}}), storages
