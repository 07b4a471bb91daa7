"""From the tensors of a published file to a network of this project: everything filled, or one error with all of it."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from bdf_jax.checkpoints import Metadata
from bdf_jax.config import Config, DataConfig, vary
from bdf_jax.errors import BdfError
from bdf_jax.method import experiment, registry
from bdf_jax.models.network import Network, initial_variables
from bdf_jax.models.torch_files import read_tensors
from bdf_jax.models.weights import bad_numbers, find_backbone, short_name, torch_shape
from bdf_jax.names import printable
from bdf_jax.paths import local_path
from bdf_jax.published.layouts import LAYOUTS, Layout, recognised
from bdf_jax.views import BASES

Path_ = tuple[str, ...]  # collection, modules, array

# Of the published data sets, by their training identities (SYSU-MM01 with and without its validation identities).
PLACES = {395: "sysu_mm01", 296: "sysu_mm01", 206: "regdb", 713: "llcm"}
COUNTERS = re.compile(r"(.*\.)?(num_batches_tracked|total_ops|total_params)")
# Parts of ours that only training has: a file may have all of one or nothing of it.
TRAINING_ONLY = ("auxiliary_", "critic_")
# A tensor's last name to where it may lie in a module of ours; "" is the path itself.
LEAVES = {
    "weight": (("params", "kernel"), ("params", "scale"), ("params", ""), ("batch_stats", "")),
    "bias": (("params", "bias"),),
    "running_mean": (("batch_stats", "mean"),),
    "running_var": (("batch_stats", "var"),),
}


@dataclasses.dataclass(frozen=True)
class Converted:
    """A network out of a published file.

    Attributes:
      metadata: configuration, identities, and what it was converted from.
      variables: `params` and `batch_stats`, NumPy arrays.
      used: how many tensors it took.
      ignored: names of the others.
      anew: parts that only training has and the file has not: initial values.
    """

    metadata: Metadata
    variables: dict[str, Any]
    used: int
    ignored: list[str]
    anew: list[str]


def convert(
    file: str | os.PathLike[str],
    *,
    method: str = "",
    dataset: str = "",
    changes: Mapping[str, Any] | None = None,
    texts: bool = False,
) -> Converted:
    """Reads a checkpoint that the authors of a method published.

    Args:
      file: by torch.save or safetensors: a state dictionary, or {"net": it, ...}.
      method: which of the methods with such tensors; empty: the first (`Layout.methods`).
      dataset: whose recipe and protocol; empty: the one with so many training identities, else SYSU-MM01.
      changes: fields of the configuration, by path.
      texts: whether those are words of a command line.

    Raises:
      BdfError: the file cannot be read; it is of no family known here, or of another one; tensors are missing,
        unexpected, of another shape or not finite, with all of them.
    """
    path = local_path(file)
    tensors = read_tensors(path)
    found = recognised(tensors)
    if found is None:
        raise _unknown(path, tensors)
    layout, prefix = found
    config = _configuration(path, layout, prefix, tensors, method, dataset)
    config = vary(config, changes or {}, texts=texts)
    classes = _classes(layout, prefix, tensors)
    targets = _targets(Network.of(config, classes), config.data.image_size)
    values, ignored, problems = _sorted(layout, prefix, tensors, targets)
    filled, more = _filled(targets, values)
    anew = _anew(targets, filled)
    missing = [target for target in targets if target not in values and target[1] not in anew]
    if problems or more or missing:
        lines = "\n  ".join([*_by_module(missing), *problems, *more])
        raise BdfError(
            f"{path}: looks like a checkpoint of {' or '.join(layout.methods)}, but does not fill the network of "
            f"{config.method} for {config.data.dataset} with {classes} identities:\n  {lines}\n"
            "Nothing was written. Check that the file is whole and of the method's own code, and name another recipe "
            "with --method and --dataset where it was trained by one"
        )
    if anew:
        made = traverse_util.flatten_dict(
            dict(initial_variables(Network.of(config, classes), 0, config.data.image_size, pretrained=False))
        )
        filled |= {target: np.asarray(made[target]) for target in targets if target not in filled}
    with path.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    source = f"{printable(path.name)} (sha256 {digest[:16]})"
    metadata = Metadata(config, "", classes, converted=source)
    return Converted(metadata, traverse_util.unflatten_dict(filled), len(values), ignored, anew)


def _configuration(
    path: Path, layout: Layout, prefix: str, tensors: Mapping[str, np.ndarray], method: str, dataset: str
) -> Config:
    known = [name for name in layout.methods if name in registry()]
    if not known:
        raise BdfError(
            f"{path}: a checkpoint of {' or '.join(layout.methods)}, a method that this version does not have: there "
            "is no network here for its tensors. `python -m bdf_jax methods` lists those that it has"
        )
    if not layout.rows:
        read = ", ".join(name for other in LAYOUTS if other.rows for name in other.methods)
        raise BdfError(
            f"{path}: a checkpoint of {' or '.join(layout.methods)}, whose network lies in several files: this version "
            f"cannot put them together. It reads those of {read}"
        )
    if method and method not in known:
        raise BdfError(
            f"{path}: its tensors are those of {' or '.join(known)}, not of {method}; leave --method={method} out"
        )
    short = layout.regdb_lacks and not any(re.match(layout.regdb_lacks, n.removeprefix(prefix)) for n in tensors)
    place = dataset or ("regdb" if short else PLACES.get(_classes(layout, prefix, tensors), "sysu_mm01"))
    return experiment(method or known[0], place, data=DataConfig(dataset=place))


def _classes(layout: Layout, prefix: str, tensors: Mapping[str, np.ndarray]) -> int:
    """Identities that the file's classifier tells apart; 1 where it has none, which is then missing."""
    shapes = [t.shape for name, t in tensors.items() if re.fullmatch(layout.classes, name.removeprefix(prefix))]
    return max(1, shapes[0][0]) if shapes and shapes[0] else 1


def _targets(network: Network, image_size: tuple[int, int]) -> dict[Path_, jax.ShapeDtypeStruct]:
    """The arrays of a network, without their values."""
    images = {base: jax.ShapeDtypeStruct((1, *image_size, 3), np.float32) for base in BASES}
    shapes: Any = jax.eval_shape(lambda x: network.init(jax.random.key(0), x, train=True), images)
    return traverse_util.flatten_dict(dict(shapes))


def _sorted(
    layout: Layout, prefix: str, tensors: Mapping[str, np.ndarray], targets: Mapping[Path_, Any]
) -> tuple[dict[Path_, tuple[str, np.ndarray]], list[str], list[str]]:
    """The tensor of each target, the names of those of no use, and a line for each that is neither."""
    values: dict[Path_, tuple[str, np.ndarray]] = {}
    ignored, problems = [], []
    for name, tensor in tensors.items():
        behind = name.removeprefix(prefix)
        module, _, leaf = behind.rpartition(".")
        place = layout.place(module)
        places = (
            []
            if place is None
            else [(kind, *place.split("/"), *filter(None, [last])) for kind, last in LEAVES.get(leaf, ())]
        )
        target = next((target for target in places if target in targets), None)
        if target is None and (COUNTERS.fullmatch(behind) or (layout.unused and re.match(layout.unused, behind))):
            ignored.append(name)
        elif target is None:
            problems.append(f"unexpected: {short_name(name)} {tensor.shape}")
        elif target in values:
            problems.append(
                f"twice: {short_name(name)} and {short_name(values[target][0])} are both {'/'.join(target)}"
            )
        else:
            values[target] = (name, tensor)
    return values, ignored, problems


def _filled(
    targets: Mapping[Path_, Any], values: Mapping[Path_, tuple[str, np.ndarray]]
) -> tuple[dict[Path_, np.ndarray], list[str]]:
    """Arrays in our layout, and a line for each tensor that is none."""
    filled, problems = {}, []
    for target, (name, tensor) in values.items():
        shape = targets[target].shape
        expected = torch_shape(shape) if len(shape) != 2 else shape[::-1]
        # A product over channels is a matrix here, and there a matrix or a convolution of one pixel.
        pixel = len(shape) == 2 and tensor.shape == (*expected, 1, 1)
        if tensor.shape != expected and not pixel:
            more = f" or {(*expected, 1, 1)}" if len(shape) == 2 else ""
            problems.append(f"shape: {short_name(name)} is {tensor.shape}, {'/'.join(target)} takes {expected}{more}")
        elif problem := bad_numbers(tensor, target[-1]):
            problems.append(f"numbers: {short_name(name)} {problem}")
        else:
            array = tensor.reshape(expected).astype(np.float32)
            order = {2: (1, 0), 4: (2, 3, 1, 0)}.get(array.ndim)
            filled[target] = np.ascontiguousarray(array.transpose(order) if order else array)
    return filled, problems


def _anew(targets: Mapping[Path_, Any], filled: Mapping[Path_, Any]) -> list[str]:
    """Parts that only training has and that the file has nothing of."""
    parts = {target[1] for target in targets if target[1].startswith(TRAINING_ONLY)}
    return sorted(parts - {target[1] for target in filled})


def _by_module(missing: Sequence[Path_]) -> list[str]:
    """A line for each module that lacks arrays."""
    modules: dict[str, list[str]] = {}
    for target in missing:
        modules.setdefault("/".join(target[1:-1]) or target[-1], []).append(target[-1])
    return [f"missing: nothing for {module} ({', '.join(arrays)})" for module, arrays in modules.items()]


def _unknown(path: Path, tensors: Mapping[str, np.ndarray]) -> BdfError:
    known = ", ".join(dict.fromkeys(name for layout in LAYOUTS for name in layout.methods))
    names = ", ".join(map(short_name, list(tensors)[:5]))
    more = f" and {len(tensors) - 5} more" if len(tensors) > 5 else ""
    try:
        looks = find_backbone(path, tensors).naming.title
        hint = f". It has {looks}: --config.network.pretrained={path} starts a training from such weights"
    except BdfError:
        hint = ""
    return BdfError(
        f"{path}: expected a checkpoint of the authors' code of {known}; found tensors of no such network: "
        f"{names}{more}{hint}"
    )
