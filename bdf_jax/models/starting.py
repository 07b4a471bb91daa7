"""What `network.pretrained` means: a backbone, a network of a work folder, or a published checkpoint of a method."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
from absl import logging
from flax import traverse_util

from bdf_jax.errors import BdfError
from bdf_jax.models import weights
from bdf_jax.models.metrics import WORDS
from bdf_jax.models.resnet import STAGES
from bdf_jax.paths import local_path

if TYPE_CHECKING:
    from bdf_jax.models.network import NetworkConfig

FIELD = "network.pretrained"


def start_from(
    source: str, variables: Mapping[str, Any], config: NetworkConfig, *, progress: bool = True
) -> dict[str, Any]:
    """The variables with arrays taken from `network.pretrained`.

    Of a backbone the trunk is taken (see `load_pretrained`). Of a whole network (a work folder, a checkpoint in one, a
    published checkpoint) the trunk and every other part that is the same there; parts that differ, such as the
    classifier of other identities, start anew. So do non-local blocks of the trunk that are not there: as the identity.

    Args:
      source: a folder, a file, or OWNER/NAME on the Hugging Face hub.
      variables: `params` and `batch_stats` of the `Network`, as `init` makes them.
      config: the network's section of the configuration.
      progress: show a bar while downloading.

    Raises:
      BdfError: it cannot be read, or does not fit the trunk.
    """
    held = _network(source)
    if held is None:
        return weights.load_pretrained(source, variables, config, progress=progress)
    name, arrays = held
    return _taken(name, arrays, variables)


def check_source(source: str) -> None:
    """Reads what `network.pretrained` means and drops it.

    Raises:
      BdfError: it cannot be read.
    """
    if _network(source) is None:
        weights.read_source(source)


def _network(source: str) -> tuple[str, Mapping[str, Any]] | None:
    """Name and variables of a whole network; None where the source is not one."""
    from bdf_jax.checkpoints import load_variables  # imports configurations, which import networks
    from bdf_jax.published import convert, whole

    path = local_path(source, FIELD)
    if path.is_dir():
        return str(path), load_variables(path)[1]
    if path.is_file() and whole(weights.read_source(source)[1]):
        return str(path), convert(path).variables
    return None


def _taken(name: str, held: Mapping[str, Any], variables: Mapping[str, Any]) -> dict[str, Any]:
    flat, there = (traverse_util.flatten_dict(dict(tree)) for tree in (variables, held))
    taken: dict[tuple[str, ...], Any] = {}
    problems: list[str] = []
    anew: list[str] = []
    parts: dict[str, list[tuple[str, ...]]] = {}
    for path in flat:
        parts.setdefault(path[1], []).append(path)
    for part, paths in parts.items():
        sources = {path: found for path in paths if (found := _source(path, there))}
        other = [path for path in paths if path not in sources or there[sources[path]].shape != flat[path].shape]
        if _stage(part) in STAGES:
            other = [path for path in other if path in sources or not path[2].startswith("non_local")]
            problems += [_problem(path, sources.get(path), flat, there) for path in other]
        elif other:
            anew.append(part)
            continue
        taken |= {path: jnp.asarray(there[found], flat[path].dtype) for path, found in sources.items()}
    if problems:
        lines = "\n  ".join([*problems[:8], *([f"and {len(problems) - 8} more"] if len(problems) > 8 else [])])
        stages = ", ".join(dict.fromkeys(path[1] for path in there if _stage(path[1]) in STAGES))
        raise BdfError(
            f"{FIELD}={name}: its trunk is another one (it has {stages}):\n  {lines}\n"
            "Choose network.trunk and network.split_at as there, or start from other weights"
        )
    logging.info("%s: %d arrays taken; anew: %s", name, len(taken), ", ".join(anew) or "nothing")
    return traverse_util.unflatten_dict({**flat, **taken})


def _source(path: tuple[str, ...], there: Mapping[tuple[str, ...], Any]) -> tuple[str, ...] | None:
    """Where an array lies in the other network: those of a base start from a shared stage where need be."""
    shared = (path[0], _stage(path[1]), *path[2:])
    return next((place for place in (path, shared) if place in there), None)


def _stage(part: str) -> str:
    return re.sub(rf"_({'|'.join(WORDS)})$", "", part)


def _problem(
    path: tuple[str, ...], found: tuple[str, ...] | None, flat: Mapping[Any, Any], there: Mapping[Any, Any]
) -> str:
    ours = f"{'/'.join(path)} {flat[path].shape}"
    return f"{ours}: nothing there" if found is None else f"{ours}: {there[found].shape} there"
