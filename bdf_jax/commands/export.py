"""python -m bdf_jax export --model=runs/demo --out=exported [--use=base] [--modality=...] [--format=stablehlo]."""

from __future__ import annotations

import argparse

from bdf_jax.commands.configuration import add_retrieve
from bdf_jax.paths import check_place, local_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument(
        "--model", required=True, metavar="WORKDIR", help="of a training run, one checkpoint, or an export with weights"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to make")
    parser.add_argument("--step", type=int, metavar="N", help="which checkpoint (default: the best, or the last)")
    parser.add_argument(
        "--format",
        default="stablehlo",
        metavar="NAME,...",
        help="some of stablehlo, safetensors, onnx (default: stablehlo)",
    )
    parser.add_argument("--modality", default="", metavar="NAME", help="visible or infrared (default: both)")
    add_retrieve(parser)


def run(arguments: argparse.Namespace) -> None:
    """Exports and says what was written."""
    from bdf_jax.export import MODALITIES, export_embedder  # after the flags are checked: this imports JAX

    check_place("--model", arguments.model)
    manifest = export_embedder(
        arguments.model,
        arguments.out,
        step=arguments.step,
        formats=[name for name in arguments.format.split(",") if name],
        modalities=[name for name in arguments.modality.split(",") if name] or MODALITIES,
        use=arguments.use,
        feature=arguments.feature,
        flip_tta=arguments.flip_tta,
    )
    files = [local_path(arguments.out) / name for name in manifest["files"]]
    for file in files:
        print(f"{file} ({file.stat().st_size / 2**20:.1f} MiB)")
    if manifest["artifacts"] and "weights" not in manifest:
        print(f"note: {manifest['ages']}; --format=stablehlo,safetensors writes both")
    if manifest["artifacts"] or "onnx" in manifest:
        size = manifest["input"]["shape"][1:]
        print(f"(N, {size[0]}, {size[1]}, 3) uint8 RGB in, (N, {manifest['output']['dimension']}) float32 out")
