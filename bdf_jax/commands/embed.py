"""`python -m bdf_jax embed`: feature vectors of any images, in a file."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from bdf_jax.commands.configuration import add_retrieve

if TYPE_CHECKING:
    from bdf_jax.api.model import Model

# As SYSU-MM01 lays its images out: the camera and the identity are in the name.
CAMERA_AND_IDENTITY = re.compile(r"(?:.*/)?cam(\d{1,6})/(\d{1,18})/[^/]+")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    add_model_arguments(parser)
    parser.add_argument("--images", required=True, nargs="+", metavar="PATH", help="folders and image files")
    parser.add_argument("--modality", required=True, help="of the images: visible or infrared")
    what = "FILE.npz for evaluate and NumPy; FILE.npy (names and ids in FILE.csv) or FILE.parquet for vector databases"
    parser.add_argument("--out", required=True, metavar="FILE", help=what)
    parser.add_argument("--ids", default="", metavar="FILE.csv", help="columns name and id; default: names of folders")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that say which network is used, and how."""
    parser.add_argument("--model", required=True, metavar="DIR", help="work folder of a training run, or a checkpoint")
    parser.add_argument("--step", type=int, default=None, help="which checkpoint; default: the best, or the last")
    add_retrieve(parser)
    parser.add_argument("--batch-size", type=int, default=None, help="images on the devices at a time")
    add_level_arguments(parser)
    parser.add_argument(
        "--on-error",
        choices=("raise", "skip"),
        default="raise",
        help="an image that cannot be read: stop and name it, or leave it out and name it",
    )


def add_level_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that say what is black and white in images of more than 8 bits."""
    for name, default in (("white", "what the files' type says, or as trained"), ("black", "0")):
        what = f"of images of more than 8 bits, say of a camera of 14 bits: what is {name}; default: {default}"
        parser.add_argument(f"--{name}", type=float, metavar="VALUE", help=what)


def run(arguments: argparse.Namespace) -> None:
    """Embeds the images and writes `features`, `names`, `ids`, `modality` and what is known of them."""
    from bdf_jax.api.model import modality_number
    from bdf_jax.commands.feature_formats import SUFFIXES, check_format, write_features
    from bdf_jax.evaluation.features import similarity_of
    from bdf_jax.output import check_output, replaced
    from bdf_jax.paths import check_local, check_place

    modality = modality_number(arguments.modality)
    check_place("--model", arguments.model)
    check_local("--images", arguments.images)
    check_local("--ids", [arguments.ids])
    out = check_output(arguments.out, "--out")
    check_format(out)
    model = load_model(arguments)
    gallery = embed_named(model, arguments.images, arguments)
    known: dict[str, Any] = {"similarity": similarity_of(model.config.retrieve), **model.settings}
    if out.suffix in SUFFIXES:
        files = write_features(out, gallery.features_ND, gallery.names, gallery.ids, arguments.modality, known)
        told = " and ".join(map(str, files))
        print(f"{told}: {len(gallery):,} images, {gallery.features_ND.shape[1]} numbers each")
        return
    matches = [CAMERA_AND_IDENTITY.fullmatch(name) for name in gallery.names.tolist()]
    if all(matches):
        known |= {"cams": np.array([int(match[1]) for match in matches if match], np.int32)}
        known |= {"pids": np.array([int(match[2]) for match in matches if match], np.int64)}
    elif all(name.isdecimal() and len(name) <= 18 for name in gallery.ids.tolist()):
        known |= {"pids": gallery.ids.astype(np.int64)}
    with replaced(out) as file:
        np.savez(
            file,
            features=gallery.features_ND,
            names=gallery.names,
            ids=gallery.ids,
            modality=np.full(len(gallery), modality, np.int8),
            **known,
        )
    print(f"{out}: {len(gallery):,} images, {gallery.features_ND.shape[1]} numbers each")


def load_model(arguments: argparse.Namespace) -> Model:
    """The network that the flags say."""
    from bdf_jax.api.model import load  # after the flags are checked: this imports JAX

    names = ("feature", "use", "flip_tta", "batch_size")
    return load(arguments.model, arguments.step, **{name: getattr(arguments, name) for name in names})


def embed_named(model: Model, images: list[str], arguments: argparse.Namespace) -> Any:
    """A gallery of paths, with what was skipped named on the error stream."""
    import warnings

    from bdf_jax.api.warned import SkippedImages
    from bdf_jax.data.levels import NarrowRange

    with warnings.catch_warnings():
        for kind in (SkippedImages, NarrowRange):  # told below, a line each
            warnings.simplefilter("ignore", kind)
        gallery = model.gallery(
            images[0] if len(images) == 1 else images,
            modality=arguments.modality,
            ids=arguments.ids or None,
            white=arguments.white,
            black=arguments.black,
            on_error=arguments.on_error,
        )
    tell(gallery.skipped, gallery.note)
    return gallery


def tell(skipped: Iterable[str], note: str) -> None:
    """Names on the error stream what was left out, and images of which the network sees little."""
    for line in skipped:
        print(f"skipped: {line}", file=sys.stderr)
    if note:
        print(f"warning: {note}", file=sys.stderr)
