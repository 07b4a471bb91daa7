"""A trained embedder for programs that do not have this project: StableHLO for JAX, weights for everybody.

ONNX is not offered: the one maintained converter from JAX asks for an older Orbax than this project's checkpoints need.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from bdf_jax.checkpoints import Metadata, load_variables
from bdf_jax.config import RetrieveConfig, to_dict, vary
from bdf_jax.datasets import find
from bdf_jax.errors import BdfError
from bdf_jax.evaluation.features import depends_on_modality, flags_of, make_embed, similarity_of
from bdf_jax.evaluation.similarity import OF_TWO_VIEWS
from bdf_jax.models import Network
from bdf_jax.models.metrics import check_fitted
from bdf_jax.output import replaced
from bdf_jax.paths import local_path
from bdf_jax.pixels import MEAN, STD

FORMATS = ("stablehlo", "safetensors")
MODALITIES = ("visible", "infrared")
PLATFORMS = ("cpu", "cuda", "tpu")
MANIFEST, WEIGHTS = "manifest.json", "weights.safetensors"
JAX_EXAMPLE, NUMPY_EXAMPLE = "embed_example.py", "weights_example.py"
# A manifest is a file like any other and may name anything; an export writes and removes these alone.
POSSIBLE = {"embed.stablehlo", *(f"embed_{name}.stablehlo" for name in MODALITIES)}
POSSIBLE |= {WEIGHTS, JAX_EXAMPLE, NUMPY_EXAMPLE, MANIFEST}
WHAT = "person re-identification embedder of the base-derivative framework, exported by bdf_jax"  # marks a manifest
TOLERANCE = 1e-5  # between the network here and what was written, in features of length 1

EXAMPLE_OF_JAX = '''"""python {name} IMAGES.npy FEATURES.npy [visible|infrared]: needs nothing but jax and flatbuffers.

IMAGES.npy holds (N, {height}, {width}, 3) uint8, RGB; manifest.json says how they are to be made.
"""

import json
import pathlib
import sys

import jax.export
import jax.numpy as jnp

here = pathlib.Path(__file__).parent
manifest = json.loads((here / "manifest.json").read_text())
modality = (sys.argv[3:] or [{modality!r}])[0]
if len(sys.argv) < 3 or not sys.argv[1].endswith(".npy") or modality not in manifest["artifacts"]:
    sys.exit(f"{{__doc__}}\\nModalities here: {{', '.join(manifest['artifacts'])}}.")
embed = jax.export.deserialize(bytearray((here / manifest["artifacts"][modality]["file"]).read_bytes())).call
features = embed(jnp.load(sys.argv[1]))
jnp.save(sys.argv[2], features)
print(features.shape, features.dtype)
'''

EXAMPLE_OF_NUMPY = '''"""python {name}: every weight by name; needs nothing but numpy."""

import json
import pathlib

import numpy as np

data = (pathlib.Path(__file__).parent / "{weights}").read_bytes()
start = 8 + int.from_bytes(data[:8], "little")
header = json.loads(data[8:start])
weights = {{
    name: np.frombuffer(data[start + about["data_offsets"][0] : start + about["data_offsets"][1]], np.float32)
    .reshape(about["shape"])
    for name, about in header.items()
    if name != "__metadata__"
}}
for name, array in sorted(weights.items()):
    print(name, array.shape, f"{{array.mean():.6g}}")
'''


def export_embedder(
    workdir: str | Path,
    out: str | Path,
    *,
    step: int | None = None,
    formats: Sequence[str] = ("stablehlo",),
    modalities: Sequence[str] = MODALITIES,
    **changes: Any,
) -> dict[str, Any]:
    """Writes a trained embedder with a manifest that says what goes in and what comes out.

    Args:
      workdir: of a training run, or one of its checkpoints.
      out: folder to make; an earlier export in it is replaced, and other files that lie beside that stay.
      step: which checkpoint; None: the best on validation where there was any, else the last.
      formats: "stablehlo": a program for each modality (one for both where the network treats them alike), with its
        weights, its normalisation, any batch size, for CPU, CUDA and TPU. "safetensors": the weights by name.
      modalities: for which a program is written.
      changes: of the run's `retrieve` section: `use`, `feature`, `flip_tta`.

    Returns:
      The manifest.

    Raises:
      BdfError: no such checkpoint, an unknown format or modality, a folder that holds something else, a full disk,
        a program that does not compute what the network does.
    """
    for given, known, flag in ((formats, FORMATS, "--format"), (modalities, MODALITIES, "--modality")):
        wrong = [name for name in given if name not in known]
        if wrong or not given:
            more = "; there is no ONNX, docs/export.md says why" if "onnx" in wrong else ""
            raise BdfError(f"{flag}: expected some of {', '.join(known)}, found {', '.join(wrong) or 'none'}{more}")
    folder = local_path(out, "--out").absolute()
    earlier = _earlier(folder)
    _claim(folder, earlier)
    metadata, variables, step = load_variables(workdir, step)
    asked = {f"retrieve.{name}": value for name, value in changes.items() if value is not None}
    config = vary(metadata.config, asked)
    check_fitted(config.retrieve.feature, variables, workdir)
    size = config.data.image_size
    files: dict[str, bytes] = {}
    manifest = _manifest(metadata, config.retrieve, step)
    if "stablehlo" in formats:
        programs, dimension = _programs(metadata, variables, config.retrieve, modalities)
        manifest["output"]["dimension"] = dimension
        manifest["platforms"] = list(PLATFORMS)
        for modality, (name, content) in programs.items():
            files[name] = content
            digest = hashlib.sha256(content).hexdigest()
            manifest["artifacts"][modality] = {"file": name, "sha256": digest, "bytes": len(content)}
        example = EXAMPLE_OF_JAX.format(name=JAX_EXAMPLE, height=size[0], width=size[1], modality=modalities[0])
        files[JAX_EXAMPLE] = example.encode()
    if "safetensors" in formats:
        files[WEIGHTS], manifest["weights"] = _weights(metadata, variables)
        files[NUMPY_EXAMPLE] = EXAMPLE_OF_NUMPY.format(name=NUMPY_EXAMPLE, weights=WEIGHTS).encode()
    manifest["files"] = sorted([*files, MANIFEST])
    _write(folder, earlier, {**files, MANIFEST: (json.dumps(manifest, indent=2) + "\n").encode()})
    return manifest


def _programs(
    metadata: Metadata, variables: Mapping[str, Any], settings: RetrieveConfig, modalities: Sequence[str]
) -> tuple[dict[str, tuple[str, bytes]], int]:
    """Modality -> (file name, serialised program), and D: the length of a feature."""
    network = Network.of(metadata.config, metadata.num_classes)
    embed, (height, width) = make_embed(network, settings), metadata.config.data.image_size
    (batch,) = jax_export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, height, width, 3), jnp.uint8)
    apart = depends_on_modality(network, settings)
    made: dict[int, tuple[str, bytes]] = {}
    programs, dimension = {}, 0
    for name in modalities:
        number = MODALITIES.index(name) if apart else 0
        if number not in made:
            function = jax.jit(lambda x, number=number: embed(variables, x, number))
            exported = jax_export.export(function, platforms=PLATFORMS)(images)
            dimension = int(exported.out_avals[0].shape[-1])
            content = bytes(exported.serialize())
            _verify(content, function, (height, width), name)
            made[number] = (f"embed_{name}.stablehlo" if apart else "embed.stablehlo", content)
        programs[name] = made[number]
    return programs, dimension


def _verify(content: bytes, function: Any, size: tuple[int, int], modality: str) -> None:
    """What was serialised computes what the network does."""
    images = np.random.default_rng(0).integers(0, 256, (3, *size, 3), np.uint8)
    found, expected = jax_export.deserialize(bytearray(content)).call(images), function(images)
    difference = float(jnp.abs(found - expected).max())
    # bfloat16 rounds differently wherever the compiler fuses differently, and no file can be held to more than that.
    if not difference <= TOLERANCE * max(1.0, float(jnp.abs(expected).max())):
        raise BdfError(f"export: the {modality} program differs from the network by {difference:.2g}; nothing written")


def _weights(metadata: Metadata, variables: Mapping[str, Any]) -> tuple[bytes, dict[str, Any]]:
    """The safetensors file, and what the manifest says of it."""
    from safetensors.numpy import save

    flat = {
        "/".join(str(getattr(key, "key", key)) for key in path): np.ascontiguousarray(leaf, dtype=np.float32)
        for path, leaf in jax.tree_util.tree_leaves_with_path(dict(variables))
    }
    described = {
        "file": WEIGHTS,
        "names": "collection/module/.../array: params are what is learned, batch_stats the running statistics",
        "layout": "float32; convolution kernels (height, width, in, out), dense kernels (in, out), NHWC images",
        "arrays": {name: list(array.shape) for name, array in sorted(flat.items())},
    }
    return save(flat, {"format": "flax", "fingerprint": metadata.fingerprint}), described


def _manifest(metadata: Metadata, settings: RetrieveConfig, step: int) -> dict[str, Any]:
    config, (height, width) = metadata.config, metadata.config.data.image_size
    described = to_dict(config)
    for place in ("root", "dir"):  # of the machine that trained, which is nobody else's business
        del described["data"][place]
    lengths = {"dot": "the sum of vectors of length 1", "euclidean": "any"}
    lengths |= dict.fromkeys(OF_TWO_VIEWS, "two vectors of length 1")
    length = lengths.get(similarity_of(settings), "1")
    return {
        "what": WHAT,
        "jax": jax.__version__,
        "trained": {
            "dataset": config.data.dataset,
            "synthetic": not config.data.root and not metadata.converted,
            **({"converted": metadata.converted} if metadata.converted else {}),
            "trial": config.data.trial if find(config.data.dataset).rules.one_split_per_trial else None,
            "step": step,
            "identities": metadata.num_classes,
            "fingerprint": metadata.fingerprint,
        },
        "input": {
            "dtype": "uint8",
            "shape": ["batch", height, width, 3],
            "layout": "NHWC",
            "colour": "RGB, 0..255; grey and infrared images are replicated to three channels",
            "white": config.data.white or "255 of 8 bits, 65535 of 16",
            "black": config.data.black,
            "resize": {
                "height": height,
                "width": width,
                "filter": "bilinear with antialiasing, as Pillow's Image.Resampling.BILINEAR",
                "aspect": "not kept: the whole image is stretched to the size",
                "order": "first RGB, then resize",
            },
            "normalisation": {
                "where": "inside the program",
                "formula": "(pixel / 255 - mean) / std",
                "mean": [round(float(value), 3) for value in MEAN],
                "std": [round(float(value), 3) for value in STD],
            },
        },
        "output": {"dtype": "float32", "shape": ["batch", "dimension"], "dimension": None, "length": length},
        "similarity": {"name": similarity_of(settings), "note": "of unit vectors the cosine is the dot product"},
        "flags": flags_of(settings),
        "artifacts": {},
        "config": described,
    }


def _earlier(folder: Path) -> set[str]:
    """Names of the files of an earlier export in the folder; empty where there is none."""
    try:
        manifest = dict(json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
        if manifest["what"] != WHAT:
            return set()
        # One without a list of its files is of an older version, which wrote the examples beside what they read.
        described = [manifest.get("weights"), *dict(manifest["artifacts"]).values()]
        names = [about["file"] for about in described if about]
        examples = [JAX_EXAMPLE] * bool(manifest["artifacts"]) + [NUMPY_EXAMPLE] * (WEIGHTS in names)
        names = [str(name) for name in manifest.get("files", [*names, *examples, MANIFEST])]
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    return {name for name in names if name in POSSIBLE}


def _claim(folder: Path, earlier: Set[str]) -> None:
    """Refuses a folder with other content, before the work."""
    if folder.exists() and not folder.is_dir():
        raise BdfError(f"--out={folder}: expected a folder, found a file; name another")
    try:
        held = sorted(child.name for child in folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise BdfError(f"--out={folder}: cannot be read: {error.strerror or error}; name another") from error
    # Beside an earlier export may lie what it did not write, as long as it is not in the way.
    foreign = [name for name in held if name not in earlier and (not earlier or name in POSSIBLE)]
    if foreign:
        more = f" and {len(foreign) - 5} more" if len(foreign) > 5 else ""
        raise BdfError(
            f"--out={folder}: expected a new folder or an earlier export, found {', '.join(foreign[:5])}{more}, which "
            "no export here wrote; name another"
        )


def _write(folder: Path, earlier: Set[str], files: Mapping[str, bytes]) -> None:
    """Writes all files, the manifest last; what the earlier export left and no one names any more goes."""
    failure = f"--out={folder}: the export could not be written"
    try:
        for name, content in files.items():
            with replaced(folder / name, failure) as out:
                out.write(content)
        for name in earlier - set(files):
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise BdfError(f"{failure}: {error.strerror or error}") from error
