"""A network as it is kept: weights by name in a safetensors file, and its configuration in a manifest beside it.

Nothing in it ages and nothing in it is executed: `bdf_jax.load` reads it wherever the checkpoints of a run are not at
hand. `python -m bdf_jax export` writes it.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from bdf_jax.checkpoints import Metadata, load_variables
from bdf_jax.config import from_dict
from bdf_jax.errors import BdfError
from bdf_jax.models.network import Network
from bdf_jax.names import printable, some
from bdf_jax.parts import KIND
from bdf_jax.paths import bucket_address, local_path
from bdf_jax.trouble import refuse_trouble
from bdf_jax.views import BASES

MANIFEST, WEIGHTS = "manifest.json", "weights.safetensors"
WHAT = "person re-identification embedder of the base-derivative framework, exported by bdf_jax"  # marks a manifest
AGES = (
    "JAX reads a StableHLO program for about six months after the version that wrote it; the archive of this network "
    f"is {WEIGHTS}, which bdf_jax.load reads and `python -m bdf_jax export --model=FOLDER` makes programs of again"
)


def pack_weights(metadata: Metadata, variables: Mapping[str, Any]) -> tuple[bytes, dict[str, Any]]:
    """The safetensors file, and what the manifest says of it."""
    flat = {
        "/".join(str(getattr(key, "key", key)) for key in path): np.asarray(leaf, np.float32, order="C")
        for path, leaf in jax.tree_util.tree_leaves_with_path(dict(variables))
    }
    content = safetensors.save(flat, {"format": "flax", "fingerprint": metadata.fingerprint})
    return content, {
        "file": WEIGHTS,
        "sha256": hashlib.sha256(content).hexdigest(),
        "names": "collection/module/.../array: params are what is learned, batch_stats the running statistics",
        "layout": "float32; convolution kernels (height, width, in, out), dense kernels (in, out), NHWC images",
        "arrays": {name: list(array.shape) for name, array in sorted(flat.items())},
    }


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What an export says of itself; None where the folder holds none."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        refuse_trouble(error, f"{folder / MANIFEST}: cannot be read")
        return None
    return manifest if isinstance(manifest, dict) and manifest.get("what") == WHAT else None


def load_network(path: str | os.PathLike[str], step: int | None = None) -> tuple[Metadata, dict[str, Any], int]:
    """Metadata, variables and step of a work folder, a checkpoint, an export with weights, or a published file.

    Raises:
      BdfError: see `load_variables` and `published.convert`; an export without weights, or a damaged one; a step that
        an export or a file is not of.
    """
    if bucket_address(path):
        return load_variables(path, step)
    folder = local_path(path, expected="the path of a work folder or a checkpoint")
    if folder.is_file():
        from bdf_jax.published import convert  # readers of foreign files, rarely needed

        if step:
            raise BdfError(f"{path}: a published file holds one network; leave step {step} out")
        converted = convert(path)
        return converted.metadata, dict(converted.variables), 0
    manifest = read_manifest(folder)
    if manifest is None:
        return load_variables(path, step)
    if not manifest.get("weights"):
        programs = sorted({str(about.get("file")) for about in dict(manifest.get("artifacts", {})).values()})
        raise BdfError(
            f"{folder}: this export of {manifest.get('exported', 'an earlier day')} (JAX {manifest.get('jax')}) holds "
            f"programs alone ({', '.join(programs) or 'none'}), which JAX reads for about six months; embed_example.py "
            f"beside them runs one. To load the network, export its run with its weights: python -m bdf_jax export "
            f"--model=WORKDIR --out={folder} --format=stablehlo,safetensors"
        )
    try:
        metadata, found = _metadata(manifest), int(manifest["trained"]["step"])
    except (KeyError, TypeError, ValueError) as error:
        raise BdfError(f"{folder / MANIFEST}: damaged, or of another version ({error!r}); export it again") from error
    if step not in (None, found):
        raise BdfError(f"{folder}: this export is of step {found}, and of no other; found step={step}")
    return metadata, _read_weights(folder / WEIGHTS, manifest["weights"], metadata), found


def _metadata(manifest: Mapping[str, Any]) -> Metadata:
    trained, described = manifest["trained"], manifest["config"]
    strange = sorted({name for name in _modules(described) if name.partition(":")[0] not in sys.modules})
    if strange:  # an archive comes from anybody, and a configuration that imports what it names executes it
        modules = ", ".join(sorted({name.partition(":")[0] for name in strange}))
        raise BdfError(
            f"this network has parts of a file of its author ({some(strange)}); where you have that file "
            f"and trust it, import {printable(modules)} before loading"
        )
    known = str(trained["fingerprint"]), int(trained["identities"]), str(trained.get("converted", ""))
    return Metadata(from_dict(described), *known)


def _modules(described: Any) -> Iterator[str]:
    """Every MODULE:NAME in a configuration."""
    if isinstance(described, Mapping):
        for name, value in described.items():
            if name in (KIND, "dataset") and isinstance(value, str) and ":" in value:
                yield value
            yield from _modules(value)
    elif isinstance(described, list):
        for value in described:
            yield from _modules(value)


def _read_weights(file: Path, about: Mapping[str, Any], metadata: Metadata) -> dict[str, Any]:
    try:
        content = file.read_bytes()
        flat = safetensors.load(content)
    except (OSError, SafetensorError, ValueError) as error:
        refuse_trouble(error, f"{file}: cannot be read")
        raise BdfError(f"{file}: the weights of this export are missing or damaged ({error}); copy it again") from error
    if hashlib.sha256(content).hexdigest() != about.get("sha256", hashlib.sha256(content).hexdigest()):
        raise BdfError(
            f"{file}: not the file that the manifest describes (its checksum differs); copy the export again"
        )
    expected = {"/".join(path): leaf.shape for path, leaf in _shapes(metadata).items()}
    # Versions before 0.2 wrote a number as an array of one.
    flat = {
        name: array.reshape(expected.get(name, array.shape)) if array.size == 1 else array
        for name, array in flat.items()
    }
    wrong = [
        name for name in expected.keys() | flat.keys() if name not in flat or flat[name].shape != expected.get(name)
    ]
    if wrong:
        raise BdfError(
            f"{file}: expected the {len(expected)} arrays of the network that the manifest describes; missing, of "
            f"another shape or not of it: {some(sorted(wrong))}"
        )
    return traverse_util.unflatten_dict({tuple(name.split("/")): array for name, array in flat.items()})


def _shapes(metadata: Metadata) -> dict[tuple[str, ...], jax.ShapeDtypeStruct]:
    images = dict.fromkeys(BASES, np.zeros((1, *metadata.config.data.image_size, 3), np.float32))
    network = Network.of(metadata.config, metadata.num_classes)
    made = jax.eval_shape(lambda: network.init(jax.random.key(0), images, train=True))
    return traverse_util.flatten_dict(dict(made))
