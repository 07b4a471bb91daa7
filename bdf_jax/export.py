"""A trained embedder for programs that lack this project: StableHLO for JAX, ONNX for others, weights for everybody."""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from bdf_jax.archive import AGES, MANIFEST, WEIGHTS, WHAT, load_network, pack_weights, read_manifest
from bdf_jax.checkpoints import Metadata
from bdf_jax.config import Config, RetrieveConfig, to_dict, vary
from bdf_jax.datasets import find
from bdf_jax.errors import BdfError
from bdf_jax.evaluation.features import depends_on_modality, flags_of, make_embed, similarity_of
from bdf_jax.evaluation.similarity import OF_TWO_VIEWS
from bdf_jax.export_examples import EXAMPLE_OF_JAX, EXAMPLE_OF_NUMPY, EXAMPLE_OF_ONNX
from bdf_jax.export_onnx import OPSET, check_onnx, run_onnx, to_onnx
from bdf_jax.models import Network
from bdf_jax.models.metrics import check_fitted
from bdf_jax.output import replaced
from bdf_jax.paths import local_path
from bdf_jax.pixels import MEAN, STD

FORMATS = ("stablehlo", "safetensors", "onnx")
MODALITIES = ("visible", "infrared")
PLATFORMS = ("cpu", "cuda", "tpu")
JAX_EXAMPLE, NUMPY_EXAMPLE, ONNX_EXAMPLE = "embed_example.py", "weights_example.py", "onnx_example.py"
# A manifest is a file like any other and may name anything; an export writes and removes these alone.
POSSIBLE = {
    f"embed{end}.{kind}" for end in ("", *(f"_{name}" for name in MODALITIES)) for kind in ("stablehlo", "onnx")
}
POSSIBLE |= {WEIGHTS, JAX_EXAMPLE, NUMPY_EXAMPLE, ONNX_EXAMPLE, MANIFEST}
# Between the network here and what was written, in features of length 1; ONNX Runtime adds in another order.
TOLERANCE = {"stablehlo": 1e-5, "onnx": 1e-4}


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
      workdir: of a training run, one of its checkpoints, or an export with weights.
      out: folder to make; an earlier export in it is replaced, and other files that lie beside that stay.
      step: which checkpoint; None: the best on validation where there was any, else the last.
      formats: "stablehlo": a program for each modality (one for both where the network treats them alike), with its
        weights, its normalisation, any batch size, for CPU, CUDA and TPU. "onnx": the same for ONNX Runtime and
        others, in float32, of networks without blocks of their own. "safetensors": the weights by name.
      modalities: for which a program is written.
      changes: of the run's `retrieve` section: `use`, `feature`, `flip_tta`.

    Returns:
      The manifest.

    Raises:
      BdfError: no such checkpoint, an unknown format or modality, a folder that holds something else, a full disk,
        a program that does not compute what the network does, a network that ONNX is not written of.
    """
    for given, known, flag in ((formats, FORMATS, "--format"), (modalities, MODALITIES, "--modality")):
        wrong = [name for name in given if name not in known]
        if wrong or not given:
            raise BdfError(f"{flag}: expected some of {', '.join(known)}, found {', '.join(wrong) or 'none'}")
    folder = local_path(out, "--out").absolute()
    earlier = _earlier(folder)
    _claim(folder, earlier)
    metadata, variables, step = load_network(workdir, step)
    asked = {f"retrieve.{name}": value for name, value in changes.items() if value is not None}
    config = vary(metadata.config, asked)
    check_fitted(config.retrieve.feature, variables, workdir)
    if "onnx" in formats:
        check_onnx(config, metadata.num_classes)
    size = config.data.image_size
    files: dict[str, bytes] = {}
    manifest = _manifest(metadata, config.retrieve, step)
    example = {"height": size[0], "width": size[1], "modality": modalities[0]}
    for kind, write in (("stablehlo", _stablehlo), ("onnx", _onnx)):
        if kind not in formats:
            continue
        artifacts = {}
        for modality, (name, content) in _programs(kind, write, metadata, variables, config, modalities).items():
            files[name] = content
            digest = hashlib.sha256(content).hexdigest()
            artifacts[modality] = {"file": name, "sha256": digest, "bytes": len(content)}
        if kind == "stablehlo":
            manifest |= {"artifacts": artifacts, "platforms": list(PLATFORMS)}
            files[JAX_EXAMPLE] = EXAMPLE_OF_JAX.format(name=JAX_EXAMPLE, **example).encode()
        else:
            manifest["onnx"] = {"opset": OPSET, "input": "images", "output": "features", "artifacts": artifacts}
            files[ONNX_EXAMPLE] = EXAMPLE_OF_ONNX.format(name=ONNX_EXAMPLE, **example).encode()
    manifest["output"]["dimension"] = _length(metadata, variables, config)
    if "safetensors" in formats:
        files[WEIGHTS], manifest["weights"] = pack_weights(metadata, variables)
        files[NUMPY_EXAMPLE] = EXAMPLE_OF_NUMPY.format(name=NUMPY_EXAMPLE, weights=WEIGHTS).encode()
    manifest["files"] = sorted([*files, MANIFEST])
    _write(folder, earlier, {**files, MANIFEST: (json.dumps(manifest, indent=2) + "\n").encode()})
    return manifest


def _programs(
    kind: str,
    write: Callable[..., tuple[bytes, Callable[[np.ndarray], Any]]],
    metadata: Metadata,
    variables: Mapping[str, Any],
    config: Config,
    modalities: Sequence[str],
) -> dict[str, tuple[str, bytes]]:
    """Modality -> (file name, serialised program): one for both where the network treats them alike."""
    network = Network.of(config, metadata.num_classes)
    apart = depends_on_modality(network, config.retrieve)
    made: dict[int, tuple[str, bytes]] = {}
    programs = {}
    for name in modalities:
        number = MODALITIES.index(name) if apart else 0
        if number not in made:
            content, run = write(metadata, variables, config, number)
            _verify(kind, run, _embed(metadata, variables, config, number, exact=kind == "onnx"), config, name)
            made[number] = (f"embed_{name}.{kind}" if apart else f"embed.{kind}", content)
        programs[name] = made[number]
    return programs


def _embed(
    metadata: Metadata, variables: Mapping[str, Any], config: Config, modality: int, *, exact: bool = False
) -> Callable[[Any], Any]:
    """(N, H, W, 3) uint8 to (N, D) float32 by the network; `exact` in float32 whatever it was trained in."""
    config = vary(config, {"network.dtype": "float32"}) if exact else config
    embed = make_embed(Network.of(config, metadata.num_classes), config.retrieve)
    return jax.jit(lambda images: embed(variables, images, modality))


def _length(metadata: Metadata, variables: Mapping[str, Any], config: Config) -> int:
    """D, of a feature."""
    images = jax.ShapeDtypeStruct((1, *config.data.image_size, 3), jnp.uint8)
    return int(jax.eval_shape(_embed(metadata, variables, config, 0), images).shape[1])


def _stablehlo(
    metadata: Metadata, variables: Mapping[str, Any], config: Config, modality: int
) -> tuple[bytes, Callable[[np.ndarray], Any]]:
    (batch,) = jax_export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *config.data.image_size, 3), jnp.uint8)
    function = jax.jit(_embed(metadata, variables, config, modality))
    exported = jax_export.export(function, platforms=PLATFORMS)(images)
    content = bytes(exported.serialize())
    return content, jax_export.deserialize(bytearray(content)).call


def _onnx(
    metadata: Metadata, variables: Mapping[str, Any], config: Config, modality: int
) -> tuple[bytes, Callable[[np.ndarray], Any]]:
    said = {"what": WHAT, "fingerprint": metadata.fingerprint, "more": f"{MANIFEST} beside this file"}
    content = to_onnx(config, metadata.num_classes, variables, modality, said)
    return content, functools.partial(run_onnx, content)


def _verify(
    kind: str, run: Callable[[np.ndarray], Any], embed: Callable[[Any], Any], config: Config, modality: str
) -> None:
    """What was written computes what the network does."""
    images = np.random.default_rng(0).integers(0, 256, (3, *config.data.image_size, 3), np.uint8)
    found, expected = np.asarray(run(images)), np.asarray(embed(images))
    difference = float(np.abs(found - expected).max())
    # bfloat16 rounds differently wherever the compiler fuses differently, and no file can be held to more than that.
    if not difference <= TOLERANCE[kind] * max(1.0, float(np.abs(expected).max())):
        raise BdfError(f"export: the {modality} {kind} differs from the network by {difference:.2g}; nothing written")


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
        "exported": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "ages": AGES,
        "trained": {
            "dataset": config.data.dataset,
            "synthetic": not config.data.root and not metadata.converted,
            **({"converted": metadata.converted} if metadata.converted else {}),
            "trial": config.data.trial if find(config.data.dataset).rules.one_split_per_trial else None,
            "step": step,
            "identities": metadata.num_classes,
            "fingerprint": metadata.fingerprint,
            **({"converted": metadata.converted} if metadata.converted else {}),
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
    manifest = read_manifest(folder)
    if manifest is None:
        return set()
    try:
        # One without a list of its files is of an older version, which wrote the examples beside what they read.
        described = [manifest.get("weights"), *dict(manifest["artifacts"]).values()]
        names = [about["file"] for about in described if about]
        examples = [JAX_EXAMPLE] * bool(manifest["artifacts"]) + [NUMPY_EXAMPLE] * (WEIGHTS in names)
        names = [str(name) for name in manifest.get("files", [*names, *examples, MANIFEST])]
    except (ValueError, KeyError, TypeError):
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
