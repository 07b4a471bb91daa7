"""Encoded image -> pixels, exactly as Pillow reads them."""

from __future__ import annotations

import functools
import io
import os

import numpy as np
import PIL
from PIL import Image, features

from bdf_jax.errors import BdfError

# What is read, by content, with the endings of the names that a file in a folder has if it is an image (a file that is
# named itself may have any). Not all that Pillow knows: EPS, say, would start another program.
FORMATS = {
    "AVIF": (".avif", ".avifs"),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "GIF": (".gif",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "JPEG2000": (".jp2", ".j2c", ".j2k", ".jpc", ".jpf", ".jpx"),
    "MPO": (".mpo",),
    "PNG": (".png", ".apng"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
SUFFIXES = tuple(sorted(suffix for suffixes in FORMATS.values() for suffix in suffixes))
DECODING = "RGB, bilinear, version 1"  # raised whenever `decode` gives other pixels


def named_like_an_image(name: str) -> bool:
    """Whether a file in a folder is an image by its name, in large or small letters; hidden ones are not."""
    # macOS archives carry a "._0001.jpg" beside 0001.jpg that is no image.
    return not name.startswith(".") and name.lower().endswith(SUFFIXES)


@functools.cache
def formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this installation of Pillow has."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def decode(encoded: bytes, name: str, size: tuple[int, int]) -> np.ndarray:
    """RGB pixels of an image of a data set, resized without keeping its aspect ratio, as the field does.

    A grey image is replicated to three channels. EXIF rotation is not applied: data-set images are stored upright
    and every published number was made so. JPEG's reduced-size decoding is not used either, although faster: it
    changes the pixels.

    Args:
      encoded: the file's bytes.
      name: what an error calls the image.
      size: (height, width) in pixels.

    Returns:
      (height, width, 3) uint8, read-only.

    Raises:
      BdfError: the bytes are not a whole 8-bit image.
    """
    height, width = size
    return np.asarray(_open_rgb(encoded, name).resize((width, height), Image.Resampling.BILINEAR))


def decoder_version() -> str:
    """What, beside bytes and size, the pixels of `decode` follow from: pixels of another version are other pixels."""
    jpeg = features.version_feature("libjpeg_turbo") or features.version_codec("jpg")
    return f"{DECODING}; Pillow {PIL.__version__}, libjpeg {jpeg}"


def verify(encoded: bytes, name: str) -> None:
    """Decodes every pixel and throws them away.

    Raises:
      BdfError: the bytes are not a whole 8-bit image.
    """
    _open_rgb(encoded, name)


def cores() -> int:
    """How many threads decode at once: the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _open_rgb(encoded: bytes, name: str) -> Image.Image:
    if not encoded:
        raise BdfError(f"{name}: expected an image, found a file of zero bytes")
    try:
        with Image.open(io.BytesIO(encoded), formats=formats()) as image:
            mode = image.mode
            image.load()
            if mode[0] not in "IF":
                return image.convert("RGB")
    except Exception as error:  # Pillow's decoders raise nearly every type of exception on damaged bytes
        reason = (
            f"none of {', '.join(FORMATS)}" if "cannot identify" in str(error) else str(error) or type(error).__name__
        )
        raise BdfError(f"{name}: expected an image, found {len(encoded)} bytes that cannot be decoded: {reason}") from (
            error
        )
    raise BdfError(f"{name}: expected an image of 8 bits a channel, found Pillow mode {mode!r}")
