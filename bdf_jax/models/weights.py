"""Pretrained backbones: which tensor of a PyTorch file goes where, as tables.

The backbone's tensors are found under whatever prefix the file gives them ("module.", "backbone.", "encoder_q."). Every
tensor among them is used or known to be of no use (counters of batches), and every array of the backbone is filled:
anything else is one error that says what. Tensors elsewhere in the file are a head or a queue, and left out.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import traverse_util

from bdf_jax.errors import BdfError
from bdf_jax.models import hub
from bdf_jax.models.mobilenet import BLOCKS
from bdf_jax.models.network import WORDS, NetworkConfig
from bdf_jax.models.resnet import ARCHITECTURES, STAGES
from bdf_jax.models.torch_files import read_tensors
from bdf_jax.models.torch_pickle import printable
from bdf_jax.paths import local_path


@dataclasses.dataclass(frozen=True)
class Naming:
    """How some library names the modules of a family of networks.

    Attributes:
      title: for messages.
      rows: (regular expression of a module's name, our path, in which \\1 is its first group).
      backbone: regular expression of what the backbone's names begin with; others are a head's.
    """

    title: str
    rows: tuple[tuple[str, str], ...]
    backbone: str


@dataclasses.dataclass(frozen=True)
class Found:
    """A backbone in a file: how its tensors are named, and the prefix before all of them."""

    naming: Naming
    prefix: str


def _mobilenet_rows(expanded: str, plain: str) -> tuple[tuple[str, str], ...]:
    """Rows from where convolutions and normalisations stand in a block with, and in one without an expansion."""
    rows = [(r"features\.0\.0", "stem/conv"), (r"features\.0\.1", "stem/bn")]
    rows += [(r"features\.18\.0", "layer4/conv"), (r"features\.18\.1", "layer4/bn")]
    places = [(stage, i, block) for stage, blocks in enumerate(BLOCKS) for i, block in enumerate(blocks)]
    for number, (stage, i, (expansion, _, _)) in enumerate(places, start=1):
        names = ("conv1", "bn1", "conv2", "bn2", "conv3", "bn3")[0 if expansion > 1 else 2 :]
        positions = (expanded if expansion > 1 else plain).split()
        for position, name in zip(positions, names, strict=True):
            rows.append((re.escape(f"features.{number}.conv.{position}"), f"{STAGES[stage]}/block{i}_{name}"))
    return tuple(rows)


TORCHVISION_RESNET = Naming(
    "torchvision's and timm's names of a ResNet",
    (
        (r"conv1", "stem/conv"),
        (r"bn1", "stem/bn"),
        (r"(layer[1-4])\.(\d+)\.(conv[1-3]|bn[1-3])", r"\1/block\2_\3"),
        (r"(layer[1-4])\.(\d+)\.downsample\.0", r"\1/block\2_conv0"),
        (r"(layer[1-4])\.(\d+)\.downsample\.1", r"\1/block\2_bn0"),
    ),
    backbone=r"(conv1|bn1|layer\d+)\.",
)
TRANSFORMERS_RESNET = Naming(
    "the transformers library's names of a ResNet",
    (
        (r"(?:resnet\.)?embedder\.embedder\.convolution", "stem/conv"),
        (r"(?:resnet\.)?embedder\.embedder\.normalization", "stem/bn"),
        # Theirs count from 0, ours from 1.
        *(
            (rf"(?:resnet\.)?encoder\.stages\.{s}\.layers\.(\d+)\.{theirs}", rf"layer{s + 1}/block\1_{ours}")
            for s in range(4)
            for theirs, ours in (
                (r"shortcut\.convolution", "conv0"),
                (r"shortcut\.normalization", "bn0"),
                *((rf"layer\.{k}\.convolution", f"conv{k + 1}") for k in range(3)),
                *((rf"layer\.{k}\.normalization", f"bn{k + 1}") for k in range(3)),
            )
        ),
    ),
    backbone=r"(resnet\.)?(embedder|encoder)\.",
)
TORCHVISION_MOBILENET = Naming(
    "torchvision's names of a MobileNetV2",
    _mobilenet_rows("0.0 0.1 1.0 1.1 2 3", "0.0 0.1 1 2"),
    backbone=r"features\.",
)
FLAT_MOBILENET = Naming(  # the first public port, whose ImageNet weights went round before torchvision had any
    "the flat names of a MobileNetV2",
    _mobilenet_rows("0 1 3 4 6 7", "0 1 3 4"),
    backbone=r"features\.",
)
NAMINGS = (TORCHVISION_RESNET, TRANSFORMERS_RESNET, TORCHVISION_MOBILENET, FLAT_MOBILENET)
# Prefixes of a second network that only follows the first, as self-supervised training keeps one.
FOLLOWERS = re.compile(r"(^|[._])(k|key|ema|momentum|target|teacher)([._]|$)")
# Names are looked for behind this many components.
MAX_PREFIX = 8
# Lines of each kind in an error.
MAX_LINES = 8

# The convolution that sees the image. Where it has two channels for grey images of either base (zero padding), each is
# the sum over colours, halved: both together say of a grey image what the three colours do. Of four channels, the last
# is infrared and gets the mean over colours.
FIRST = ("params", "stem", "conv", "kernel")

# What a module holds: its kind and the tensor's name to our collection and name. PyTorch's running variance is kept
# as it is: both sides divide by it alike.
TENSORS = {
    ("conv", "weight"): ("params", "kernel"),
    ("bn", "weight"): ("params", "scale"),
    ("bn", "bias"): ("params", "bias"),
    ("bn", "running_mean"): ("batch_stats", "mean"),
    ("bn", "running_var"): ("batch_stats", "var"),
}
# (layer3's blocks, whether they are bottlenecks) of the ResNets that people have at hand.
RESNETS = {
    (2, False): "resnet18",
    (6, False): "resnet34",
    (6, True): "resnet50",
    (23, True): "resnet101",
    (36, True): "resnet152",
}


def load_pretrained(
    source: str, variables: Mapping[str, Any], config: NetworkConfig, *, progress: bool = True
) -> dict[str, Any]:
    """The variables with the backbone's arrays taken from a weight file.

    Stages of their own for each base all get the same weights, and so do the four modalities' normalisations.
    Generators, BNNeck and classifier stay as they are.

    Args:
      source: a file (safetensors, or a state dictionary by torch.save), or OWNER/NAME on the Hugging Face hub.
      variables: `params` and `batch_stats` of the `Network`, as `init` makes them.
      config: the model's section of the configuration.
      progress: show a bar while downloading.

    Raises:
      BdfError: see `read_tensors` and `hub.download`; or the tensors do not fit the backbone, with everything that
        is missing, unexpected, of another shape or not finite.
    """
    path, tensors = read_source(source, progress=progress)
    found = find_backbone(path, tensors)
    values, ignored, problems = map_tensors(tensors, found)
    flat = traverse_util.flatten_dict(dict(variables))
    filled, more = _fill(flat, values, config)
    if problems or more:
        looks = guess_arch(values)
        name = config.trunk.name
        hint, remedy = "", f"Name the weights of a {name} in network.pretrained."
        if looks and looks != name:
            hint = f", but looks like {looks}"
            if looks in (*ARCHITECTURES, "mobilenet_v2"):
                remedy = f"Make network.trunk a {looks}, or name the weights of a {name} in network.pretrained."
        behind = f" behind {short_name(found.prefix)!r}" if found.prefix else ""
        lines = "\n  ".join(_capped([*problems, *more]))
        raise BdfError(
            f"{path} does not fit network.trunk={name}{hint} (read with {found.naming.title}{behind}):\n  {lines}\n"
            f"{remedy}"
        )
    logging.info(
        "%s: %d tensors used (prefix %r), %d ignored", path, len(tensors) - len(ignored), found.prefix, len(ignored)
    )
    return traverse_util.unflatten_dict(filled)


def read_source(source: str, *, progress: bool = True) -> tuple[Path, dict[str, np.ndarray]]:
    """The weight file that `network.pretrained` means, downloaded where it has to be, and its tensors.

    Raises:
      BdfError: see `read_tensors` and `hub.download`.
    """
    path = local_path(source, "network.pretrained")
    if not path.exists() and hub.is_hub_name(source):
        path = hub.download(source, progress=progress)
    return path, read_tensors(path)


def find_backbone(path: Path, names: Iterable[str]) -> Found:
    """The naming and the prefix that know the most of a file's tensors.

    Raises:
      BdfError: no name is of a backbone known here, or several networks in the file are equally complete.
    """
    known: dict[tuple[int, str], set[str]] = {}
    names = list(names)
    for name in names:
        parts = name.split(".")[:-1]
        for start in range(min(len(parts), MAX_PREFIX)):
            module, prefix = ".".join(parts[start:]), "".join(f"{part}." for part in parts[:start])
            for number, naming in enumerate(NAMINGS):
                if _our_module(module, naming) is not None:
                    known.setdefault((number, prefix), set()).add(name)
    if not known:
        shown = ", ".join(map(short_name, names[:5]))
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        raise BdfError(
            f"{path}: none of its tensors has a name of a ResNet or a MobileNetV2, as torchvision, timm and the "
            f"transformers library call them; found {shown}{more}. Name another file in network.pretrained."
        )
    # Of equals the shortest prefix: it leaves out the least.
    order = sorted(known, key=lambda key: (-len(known[key]), bool(FOLLOWERS.search(key[1])), len(key[1])))
    best = order[0]
    alike = {key[1] for key in order if len(known[key]) == len(known[best]) and not known[key] & known[best]}
    rivals = sorted(prefix for prefix in alike if not FOLLOWERS.search(prefix))
    if rivals:
        shown = ", ".join(repr(short_name(prefix)) for prefix in [best[1], *rivals][:MAX_LINES])
        raise BdfError(
            f"{path}: expected one network, found {len(rivals) + 1} that are equally complete, behind {shown}. "
            "Write the tensors of one of them to a file of their own: bdf_jax.models.torch_files.read_tensors gives "
            "all by name, safetensors.numpy.save_file writes them."
        )
    return Found(NAMINGS[best[0]], best[1])


def map_tensors(
    tensors: Mapping[str, np.ndarray], found: Found
) -> tuple[dict[tuple[str, ...], tuple[str, np.ndarray]], list[str], list[str]]:
    """Sorts a file's tensors.

    Returns:
      values: (collection, stage, module, array) -> (the tensor's name, the tensor in PyTorch's layout).
      ignored: names of tensors of no use.
      problems: a line for each tensor that is neither.
    """
    values: dict[tuple[str, ...], tuple[str, np.ndarray]] = {}
    ignored, problems = [], []
    for name, tensor in tensors.items():
        behind = name.removeprefix(found.prefix)
        module, _, leaf = behind.rpartition(".")
        ours = _our_module(module, found.naming)
        outside = not name.startswith(found.prefix) or not re.match(found.naming.backbone, behind)
        if leaf == "num_batches_tracked" or (outside and ours is None):
            ignored.append(name)
            continue
        kind = "bn" if ours and re.search(r"bn\d?$", ours) else "conv"
        if ours is None or (kind, leaf) not in TENSORS:
            problems.append(f"unexpected: {short_name(name)} {tensor.shape}")
            continue
        collection, array = TENSORS[kind, leaf]
        target = (collection, *ours.split("/"), array)
        if target in values:
            problems.append(
                f"twice: {short_name(name)} and {short_name(values[target][0])} are the same array, {'/'.join(target)}"
            )
        values[target] = (name, tensor)
    return values, ignored, problems


def guess_arch(targets: Iterable[tuple[str, ...]]) -> str:
    """The backbone that a file's arrays seem to be of; empty where it is none we know by name."""
    modules = {"/".join(target[1:3]) for target in targets}
    if "layer4/conv" in modules:
        return "mobilenet_v2"
    blocks = {module.partition("_")[0] for module in modules if module.startswith("layer3/block")}
    return RESNETS.get((len(blocks), "layer3/block0_conv3" in modules), "")


def _fill(
    flat: Mapping[tuple[str, ...], jax.Array],
    values: Mapping[tuple[str, ...], tuple[str, np.ndarray]],
    config: NetworkConfig,
) -> tuple[dict[tuple[str, ...], jax.Array], list[str]]:
    """The arrays with the backbone's replaced, and a line for each that could not be."""
    filled, missing, others, used = dict(flat), [], [], set()
    for path, leaf in flat.items():
        stage = path[1]
        for base in WORDS:
            stage = stage.removesuffix(f"_{base}")
        if stage not in STAGES or path[2].startswith("non_local"):  # no backbone has those, and they start as nothing
            continue
        source = (path[0], stage, *path[2:])
        used.add(source)
        if source not in values:
            missing.append(f"missing: nothing for {'/'.join(source)}")
            continue
        name, tensor = values[source]
        apart = config.bn == "per_view" and path[-1] != "kernel"
        shape = leaf.shape[1:] if apart else leaf.shape
        channels = leaf.shape[2] if source == FIRST and leaf.shape[2] in (2, 4) else 3
        expected = torch_shape((*shape[:2], 3, shape[3]) if channels != 3 else shape)
        if tensor.shape != expected:
            others.append(f"shape: {short_name(name)} is {tensor.shape}, {'/'.join(source)} takes {expected}")
        elif problem := bad_numbers(tensor, path[-1]):
            others.append(f"numbers: {short_name(name)} {problem}")
        else:
            array = tensor.astype(np.float32)
            if channels == 2:
                array = array.sum(1, keepdims=True).repeat(2, 1) / 2
            elif channels == 4:
                array = np.concatenate([array, array.mean(1, keepdims=True)], 1)
            array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
            filled[path] = jnp.asarray(np.broadcast_to(array, leaf.shape), leaf.dtype)
    unexpected = [
        f"unexpected: {short_name(name)} {tensor.shape}"
        for key, (name, tensor) in values.items()
        if key not in used and key[1] in STAGES[: config.trunk.stages]  # a trunk may end before the backbone does
    ]
    # Both branches of a split stage have the same complaints: once each, in order.
    return filled, list(dict.fromkeys(missing + unexpected + others))


def torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape PyTorch gives an array: OIHW for a kernel HWIO."""
    return (shape[3], shape[2], shape[0], shape[1]) if len(shape) == 4 else tuple(shape)


def bad_numbers(tensor: np.ndarray, array: str) -> str:
    """What is wrong with the numbers of a tensor for an array of that name; empty where nothing is."""
    if not jnp.issubdtype(tensor.dtype, jnp.floating):
        return f"is {tensor.dtype}, expected floating point"
    with np.errstate(over="ignore", invalid="ignore"):
        if not np.isfinite(tensor.astype(np.float32)).all():
            return "has values that are not finite"
    return "has negative variances" if array == "var" and (tensor < 0).any() else ""


def _capped(lines: Iterable[str]) -> list[str]:
    """The first lines of each kind (what stands before the colon), and how many more of it there are."""
    kept, kinds = [], Counter[str]()
    for line in lines:
        kind = line.partition(":")[0]
        kinds[kind] += 1
        if kinds[kind] <= MAX_LINES:
            kept.append(line)
    return kept + [f"{kind}: {count - MAX_LINES} more" for kind, count in kinds.items() if count > MAX_LINES]


def short_name(name: str) -> str:
    """A tensor's name for a message: printable and not too long."""
    return printable(name)[1:].rstrip("'\"")


def _our_module(module: str, naming: Naming) -> str | None:
    for pattern, ours in naming.rows:
        if match := re.fullmatch(pattern, module):
            return match.expand(ours)
    return None
