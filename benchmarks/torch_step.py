"""The four-modality step in PyTorch, written as the field writes it, for benchmarks/train_step.py to compare with.

Nothing else in this project needs PyTorch.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from bdf_jax.config import Config
from bdf_jax.losses import MODALITIES
from bdf_jax.models.resnet import ARCHITECTURES, Architecture
from bdf_jax.pixels import MEAN, STD


class Block(nn.Module):
    """A residual block: two 3x3 convolutions, or 1x1, 3x3, 1x1 to four times the width."""

    def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool):
        super().__init__()
        self.outputs = 4 * width if bottleneck else width
        shapes = [(inputs, width, 3, stride), (width, width, 3, 1)]
        if bottleneck:
            shapes = [(inputs, width, 1, 1), (width, width, 3, stride), (width, self.outputs, 1, 1)]
        self.convs = nn.ModuleList(nn.Conv2d(i, o, k, s, k // 2, bias=False) for i, o, k, s in shapes)
        self.norms = nn.ModuleList(nn.BatchNorm2d(o) for _, o, _, _ in shapes)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != self.outputs:
            conv = nn.Conv2d(inputs, self.outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(self.outputs))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, outputs, H / stride, W / stride)."""
        y = x
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            y = norm(conv(y))
            if i < len(self.convs) - 1:
                y = self.relu(y)
        return self.relu(y + self.shortcut(x))


class Network(nn.Module):
    """Two generators, a ResNet whose last stage keeps its resolution, BNNeck and classifier."""

    def __init__(self, architecture: Architecture, classes: int):
        super().__init__()
        self.generators = nn.ModuleList(
            nn.Sequential(nn.Conv2d(3, 1, 1), nn.ReLU(inplace=True), nn.Conv2d(1, 3, 1)) for _ in range(2)
        )
        channels = architecture.widths[0]
        side, stride = (3, 1) if architecture.small_stem else (7, 2)
        pool = nn.MaxPool2d(2) if architecture.small_stem else nn.MaxPool2d(3, 2, 1)
        conv = nn.Conv2d(3, channels, side, stride, side // 2, bias=False)
        self.stem = nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True), pool)
        self.layers = nn.ModuleList()
        for stage, (blocks, width) in enumerate(zip(architecture.blocks, architecture.widths, strict=True)):
            layer = nn.Sequential()
            for i in range(blocks):
                block = Block(channels, width, 2 if i == 0 and stage in (1, 2) else 1, architecture.bottleneck)
                layer.append(block)
                channels = block.outputs
            self.layers.append(layer)
        self.bnneck = nn.BatchNorm1d(channels)
        self.bnneck.bias.requires_grad_(False)
        self.classifier = nn.Linear(channels, classes, bias=False)

    def embed(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (N, 3, H, W) to features before and after the BNNeck, both (N, D)."""
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x)
        features = F.adaptive_avg_pool2d(x, 1).flatten(1)
        return features, self.bnneck(features)

    def forward(self, visible: torch.Tensor, infrared: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Two batches of N images to features (4, N, D) and logits (4, N, C), derivatives last."""
        bases = (visible, infrared)
        derivatives = [generator(base) for generator, base in zip(self.generators, bases, strict=True)]
        features, embeddings = self.embed(torch.cat([*bases, *derivatives]))
        logits = self.classifier(embeddings)
        return features.unflatten(0, (4, -1)), logits.unflatten(0, (4, -1))


class TorchStep:
    """Training and embedding in PyTorch from this project's variables.

    Args:
      variables: `params` and `batch_stats` of the network.
      config: the whole configuration; the backbone is a ResNet, the optimiser Adam.
      classes: identities in training.
      rate: step to learning rate.
      channels_last: PyTorch's best layout on this kind of machine and its fused Adam; otherwise both as by default.
    """

    def __init__(
        self, variables: Any, config: Config, classes: int, rate: Callable[[int], Any], *, channels_last: bool
    ):
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.network = Network(ARCHITECTURES[config.network.trunk.name], classes)
        self.load(variables)
        self.network = self.network.to(memory_format=self.layout)
        trained = [p for p in self.network.parameters() if p.requires_grad]
        self.optimiser = torch.optim.Adam(
            trained, weight_decay=config.optimiser.weight_decay, fused=True if channels_last else None
        )
        self.config, self.rate, self.steps = config, rate, 0

    def load(self, variables: Any) -> None:
        """Takes over all parameters and statistics."""
        self.network.load_state_dict(converted(variables), strict=True)

    def train(self, images_NBHWC: np.ndarray, labels_N: np.ndarray) -> float:
        """One step; the loss before it."""
        self.network.train()
        for group in self.optimiser.param_groups:
            group["lr"] = float(self.rate(self.steps))
        images = self._normalised(images_NBHWC)
        features, logits = self.network(*(images[b] for b in range(2)))
        loss = total_loss(features, logits, torch.from_numpy(labels_N).long(), self.config)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        self.steps += 1
        return float(loss.detach())

    def embed(self, images_NHWC: np.ndarray) -> np.ndarray:
        """(N, H, W, 3) uint8 to unit vectors (N, D), running statistics."""
        self.network.eval()
        with torch.inference_mode():
            _, embeddings = self.network.embed(self._normalised(images_NHWC[:, None])[0])
            return F.normalize(embeddings).numpy()

    def _normalised(self, images_NBHWC: np.ndarray) -> list[torch.Tensor]:
        images = [torch.from_numpy(np.ascontiguousarray(part)) for part in images_NBHWC.swapaxes(0, 1)]
        return [
            ((part.float() / 255 - torch.from_numpy(MEAN)) / torch.from_numpy(STD))
            .permute(0, 3, 1, 2)
            .contiguous(memory_format=self.layout)
            for part in images
        ]


def total_loss(features: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor, config: Config) -> torch.Tensor:
    """DID + MML + weighted MDL of features (4, N, D) and logits (4, N, C), identity-major."""
    terms: dict[str, Any] = dict(config.losses)
    P = config.data.identities
    did = sum(F.cross_entropy(part, labels, label_smoothing=terms["did"].smoothing) for part in logits)
    person = torch.arange(P).repeat_interleave(config.data.images)
    mml = sum(_hinge(part, part, person, terms["mml"].margin) for part in features)
    centres = features.unflatten(1, (P, -1)).mean(2)
    edges = [[MODALITIES.index(side[0]) for side in pair] for pair in terms["mdl"].pairs()]
    mdl = sum(_hinge(centres[m], centres[n], torch.arange(P), terms["mdl"].margin) for m, n in edges)
    return terms["did"].weight * did + terms["mml"].weight * mml + terms["mdl"].weight * mdl


def _hinge(anchors: torch.Tensor, others: torch.Tensor, person: torch.Tensor, margin: float) -> torch.Tensor:
    distance = (anchors[:, None] - others[None]).square().sum(-1).clamp(min=1e-12).sqrt()
    same = person[:, None] == person[None]
    positive = same & ~torch.eye(len(person), dtype=torch.bool) if anchors is others else same
    hardest_positive = distance.masked_fill(~positive, -torch.inf).amax(1)
    hardest_negative = distance.masked_fill(same, torch.inf).amin(1)
    return F.relu(margin + hardest_positive - hardest_negative).mean()


def converted(variables: Any) -> dict[str, torch.Tensor]:
    """This project's `params` and `batch_stats` as the state dictionary of the network above."""
    leaves = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    state = {}
    for collection in ("params", "batch_stats"):
        for stage, modules in variables[collection].items():
            for name, value in _leaves(modules):
                module, _, leaf = name.rpartition("/")
                array = np.array(value)
                if stage.startswith("generator"):
                    target = f"generators.{int(stage == 'generator_Di')}.{2 * int(module == 'conv2')}"
                    array = array.T[..., None, None] if leaf == "kernel" else array
                elif found := re.fullmatch(r"block(\d+)_(conv|bn)(\d)", module):
                    block, kind, number = found.groups()
                    part = f"{kind.replace('bn', 'norm')}s.{int(number) - 1}"
                    part = f"shortcut.{int(kind == 'bn')}" if number == "0" else part
                    target = f"layers.{int(stage[-1]) - 1}.{block}.{part}"
                elif stage == "stem":
                    target = f"stem.{int(module == 'bn')}"
                else:
                    target = stage
                if array.ndim == 4 and not stage.startswith("generator"):
                    array = array.transpose(3, 2, 0, 1)
                if stage == "classifier":
                    array = array.T
                state[f"{target}.{leaves[leaf]}"] = torch.from_numpy(np.ascontiguousarray(array))
    for name in [name for name in state if name.endswith("running_var")]:
        state[name.replace("running_var", "num_batches_tracked")] = torch.tensor(0)
    state["bnneck.bias"] = torch.zeros_like(state["bnneck.weight"])
    return state


def _leaves(tree: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if not hasattr(tree, "items"):
        return [(prefix, tree)]
    pairs = [pair for key, value in tree.items() for pair in _leaves(value, f"{prefix}/{key}" if prefix else key)]
    return pairs


def arithmetic(function: Callable[[], object]) -> int:
    """Floating-point operations of the convolutions and matrix products, forward and backward, that a call does."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter:
        function()
    return counter.get_total_flops()
