"""Any picture -> the 8-bit RGB pixels that a network sees, or a refusal that names it; the same for everybody who asks.

| given | becomes |
|---|---|
| 8-bit grey, colour, palette, CMYK, YCbCr, 1-bit | RGB as Pillow converts it; colour profiles are not applied |
| 16-bit file or array | its upper byte: 0..65535 is 0..255; with a white level, black..white is 0..255 |
| float TIFF or array | 0..1 is 0..255, or black..white; without a white level other values are refused |
| transparency | composited on the grey `BACKGROUND` |
| EXIF orientation | applied; EXIF that cannot be read says nothing |
| several pages or frames | the first |
| more than `LIMIT` pixels, truncated, damaged, empty, another format | refused |

Then resized without keeping the aspect ratio, as the field does. JPEG's reduced-size decoding is not used, although
faster: it changes the pixels.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import stat
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import PIL
from PIL import Image, features

from bdf_jax.data.levels import AS_STORED, Levels, Notes, note_narrow, to_levels
from bdf_jax.errors import BdfError
from bdf_jax.trouble import Trouble, trouble_of

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
DECODING = "RGB, bilinear, version 2"  # raised whenever `read_pixels` gives other pixels
LIMIT = 89_478_485  # pixels; beyond it Pillow, too, suspects a decompression bomb
BACKGROUND = 128  # grey under transparency: near the mean of what networks are trained on, and neutral in infrared
LARGE = 2**24  # pixels; decoded one at a time, so that memory does not grow with the number of threads

Turn = Image.Transpose
EXIF_TURNS = {
    2: Turn.FLIP_LEFT_RIGHT,
    3: Turn.ROTATE_180,
    4: Turn.FLIP_TOP_BOTTOM,
    5: Turn.TRANSPOSE,
    6: Turn.ROTATE_270,
    7: Turn.TRANSVERSE,
    8: Turn.ROTATE_90,
}
ORIENTATION = 0x0112

_one_large = threading.Lock()


def named_like_an_image(name: str) -> bool:
    """Whether a file in a folder is an image by its name, in large or small letters; hidden ones are not."""
    # macOS archives carry a "._0001.jpg" beside 0001.jpg that is no image.
    return not name.startswith(".") and name.lower().endswith(SUFFIXES)


@functools.cache
def formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this installation of Pillow has."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def read_pixels(
    item: Any, name: str, size: tuple[int, int], levels: Levels = AS_STORED, notes: Notes | None = None
) -> np.ndarray:
    """The pixels that the network sees of one image.

    Args:
      item: a path, the bytes of a file, a Pillow image or an array.
      name: what an error calls it.
      size: (height, width) in pixels.
      levels: what is black and white where there are more than 8 bits.
      notes: where is noted what a network would see little of.

    Returns:
      (height, width, 3) uint8.

    Raises:
      BdfError: not an image, or one that is refused (see the table above).
    """
    with _refusals(name), _opened(item, name, levels, notes) as image:
        return np.asarray(_upright_rgb(image, name, levels, notes).resize(size[::-1], Image.Resampling.BILINEAR))


def verify(encoded: bytes, name: str, levels: Levels = AS_STORED, notes: Notes | None = None) -> None:
    """Decodes every pixel of the bytes of a file and throws them away; arguments and errors as of `read_pixels`."""
    with _refusals(name), _opened(encoded, name, levels, notes) as image:
        _upright_rgb(image, name, levels, notes)


def decoder_version() -> str:
    """What, beside bytes and size, the pixels of `read_pixels` follow from; of another version they are others."""
    jpeg = features.version_feature("libjpeg_turbo") or features.version_codec("jpg")
    return f"{DECODING}; Pillow {PIL.__version__}, libjpeg {jpeg}"


def cores() -> int:
    """How many threads decode at once: the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def _refusals(name: str) -> Iterator[None]:
    """Turns whatever opening and decoding raise into a BdfError that names the image."""
    try:
        yield
    except BdfError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(name, str(error)) from error
    except Image.DecompressionBombWarning as error:  # where warnings are errors
        raise _too_large(name, str(error)) from error
    except Image.UnidentifiedImageError as error:
        raise BdfError(f"{name}: expected an image ({', '.join(formats())}), found no such format") from error
    except OSError as error:
        if error.errno is not None:
            raise BdfError(f"{name}: cannot be read: {error.strerror}") from error
        raise BdfError(f"{name}: damaged image: {error}") from error
    except MemoryError as error:
        raise Trouble(f"{name}: {trouble_of(error)}") from error
    except Exception as error:  # Pillow's decoders raise nearly every type of exception on damaged bytes
        raise BdfError(f"{name}: damaged image: {error or type(error).__name__}") from error


@contextlib.contextmanager
def _opened(item: Any, name: str, levels: Levels, notes: Notes | None) -> Iterator[Image.Image]:
    """The image of any kind of item, not yet decoded; a file is closed again."""
    if isinstance(item, Image.Image):
        yield item
        return
    if isinstance(item, np.ndarray):
        yield _from_array(item, name, levels, notes)
        return
    if isinstance(item, bytes):
        file: Any = io.BytesIO(item)
        length = len(item)
    else:
        found = os.stat(item)
        if not stat.S_ISREG(found.st_mode):  # opening a named pipe would wait for ever
            raise BdfError(f"{name}: expected a file, found a {'folder' if os.path.isdir(item) else 'special file'}")
        file, length = open(item, "rb"), found.st_size  # noqa: SIM115  closed below
    with file:
        if not length:
            raise BdfError(f"{name}: expected an image, found a file of zero bytes")
        with Image.open(file, formats=formats()) as image:
            yield image


def _check_size(image: Image.Image, name: str) -> None:
    if image.width * image.height > LIMIT:
        raise _too_large(name, f"found {image.width} x {image.height}")
    if not image.width * image.height:
        raise BdfError(f"{name}: expected an image of at least one pixel, found {image.height} x {image.width}")


def _too_large(name: str, found: str) -> BdfError:
    return BdfError(f"{name}: expected an image of at most {LIMIT:,} pixels: {found}; make it smaller first")


def _upright_rgb(image: Image.Image, name: str, levels: Levels, notes: Notes | None) -> Image.Image:
    """Decoded, opaque, 8 bits a channel, and turned as EXIF says."""
    _check_size(image, name)
    with _one_large if image.width * image.height > LARGE else contextlib.nullcontext():
        deep, white = _depth(image)
        image.load()
        turn = EXIF_TURNS.get(_orientation(image))
        if image.mode[0] in "IF":
            rgb = _grey(image, name, white, levels, notes)
        else:
            if deep:
                _check_upper_bytes(image, name, levels, notes)
            rgb = _rgb(image)
        return rgb if turn is None else rgb.transpose(turn)


def _depth(image: Image.Image) -> tuple[bool, int | None]:
    """Of an image not loaded yet: whether its file has more than 8 bits, and what is white where the file says so."""
    for tile in getattr(image, "tile", ()):
        how = tile[3]  # Pillow's name for how the values are held; of PPM also the greatest
        if image.format == "PPM" and isinstance(how, tuple):
            return how[1] > 255, how[1]
        if "I;12" in str(how):
            return True, 4095
        if ";16" in str(how):
            return True, None
    return False, None


def _orientation(image: Image.Image) -> Any:
    try:
        return image.getexif().get(ORIENTATION)
    except Exception:  # EXIF is written by anyone; what cannot be read does not make the pixels wrong
        return None


def _grey(image: Image.Image, name: str, white: int | None, levels: Levels, notes: Notes | None) -> Image.Image:
    """Of more than 8 bits; `white` where the file says so."""
    values = np.asarray(image)
    if values.dtype == np.int32 and values.min() >= 0 and values.max() <= 65535:
        values = values.astype(np.uint16)  # how Pillow holds some 16-bit files
    if white is not None and image.format == "PPM":
        values = np.round(values * (white / 65535)).astype(np.uint16)  # Pillow has stretched them
    if white not in (None, 65535) and levels == AS_STORED:
        levels = Levels(white)
    grey = to_levels(values, name, levels, notes)
    if "transparency" in image.info:
        grey = np.where(values == image.info["transparency"], np.uint8(BACKGROUND), grey)
    return Image.fromarray(grey).convert("RGB")


def _check_upper_bytes(image: Image.Image, name: str, levels: Levels, notes: Notes | None) -> None:
    """Of colour in 16 bits Pillow reads the upper bytes: enough where all bits are used, and only there."""
    if levels != AS_STORED:
        raise BdfError(
            f"{name}: of colour in 16 bits the upper bytes alone are read, so that a white level comes too late; "
            "convert the image to 8 bits a channel, or to grey"
        )
    bands = np.asarray(image)[:, :, : 1 if image.mode == "LA" else 3]
    darkest, lightest = int(bands.min()), int(bands.max())
    note_narrow(name, darkest << 8, (lightest << 8) + 255, 65535, (darkest, lightest), notes, late=True)


def _rgb(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        ground = Image.new("RGBA", image.size, (BACKGROUND, BACKGROUND, BACKGROUND, 255))
        return Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_array(array: np.ndarray, name: str, levels: Levels, notes: Notes | None) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if not array.size:
        raise BdfError(f"{name}: expected an image of at least one pixel, found an array of {array.shape}")
    return Image.fromarray(np.ascontiguousarray(to_levels(array, name, levels, notes)))
