"""Any picture -> the 8-bit RGB pixels that the network was trained on, or a refusal that names it.

| given | becomes |
|---|---|
| 8-bit grey, colour, palette, CMYK, YCbCr, 1-bit | RGB as Pillow converts it; colour profiles are not applied |
| 16-bit file or array | its upper byte: 0..65535 is 0..255 |
| float TIFF or array | 0..1 is 0..255; other values are refused, because nothing says what is white |
| transparency | composited on the grey `BACKGROUND` |
| EXIF orientation | applied; EXIF that cannot be read says nothing |
| several pages or frames | the first |
| more than `LIMIT` pixels, truncated, damaged, empty, another format | refused |

Then resized to what the network sees, without keeping the aspect ratio: the pixels that evaluation sees, too.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import threading
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from PIL import Image

from bdf_jax.api.folders import join, list_images
from bdf_jax.data.images import formats
from bdf_jax.errors import BdfError
from bdf_jax.names import printable
from bdf_jax.paths import local_path

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


class Images:
    """The images of a call, in order, read only when they are needed.

    Attributes:
      names: of a file in a folder, its path inside that folder with "/"; of other files, the path as given; of images
        in memory, "image 0", "image 1", ...
      folder: the one folder that `names` are relative to; empty where there is none.
      single: one image was given, not a list or folder of one.
      unreadable: folders that could not be looked into, with the reason.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.folder = ""
        self.single = False
        self.unreadable: list[str] = []
        self._items: list[Any] = []

    def __len__(self) -> int:
        return len(self._items)

    def add(self, name: str, item: Any) -> None:
        """Appends an image: a path, the bytes of a file, a Pillow image or an array."""
        self.names.append(name)
        self._items.append(item)

    def select(self, rows: Iterable[int]) -> Images:
        """Some of the images."""
        chosen = Images()
        chosen.folder = self.folder
        for row in rows:
            chosen.add(self.names[row], self._items[row])
        return chosen

    def pixels(self, row: int, size: tuple[int, int]) -> np.ndarray:
        """(height, width, 3) uint8 of one image; raises BdfError that names it."""
        return read_pixels(self._items[row], printable(self.names[row]), size)


def gather(images: Any, *, skip: bool = False) -> Images:
    """What was given as images, as one sequence.

    Args:
      images: a folder (all its images, see `list_images`), a path, an array (H, W), (H, W, 1), (H, W, 3), (H, W, 4) or
        with N in front of three axes, a Pillow image, the bytes of a file, or a list or iterator of any of these.
      skip: note folders that cannot be looked into instead of raising.

    Raises:
      BdfError: none at all, a type that is no image, an array of another shape.
    """
    gathered = Images()
    gathered.single = _add(gathered, images, skip, top=True)
    if not len(gathered):
        raise BdfError("expected at least one image, found an empty list")
    return gathered


def read_pixels(item: Any, name: str, size: tuple[int, int]) -> np.ndarray:
    """The pixels that the network sees of one image.

    Args:
      item: a path, the bytes of a file, a Pillow image or an array.
      name: what an error calls it.
      size: (height, width) in pixels.

    Returns:
      (height, width, 3) uint8.

    Raises:
      BdfError: not an image, or one that is refused (see the table above).
    """
    try:
        with _opened(item, name) as image:
            _check_size(image, name)
            with _one_large if image.width * image.height > LARGE else contextlib.nullcontext():
                upright = _upright_rgb(image, name)
                return np.asarray(upright.resize(size[::-1], Image.Resampling.BILINEAR))
    except BdfError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(name, str(error)) from error
    except Image.DecompressionBombWarning as error:  # where warnings are errors, outside of `pillow_silent`
        raise _too_large(name, str(error)) from error
    except Image.UnidentifiedImageError as error:
        raise BdfError(f"{name}: expected an image ({', '.join(formats())}), found no such format") from error
    except OSError as error:
        if error.errno is not None:
            raise BdfError(f"{name}: cannot be read: {error.strerror}") from error
        raise BdfError(f"{name}: damaged image: {error}") from error
    except Exception as error:  # Pillow's decoders raise nearly every type of exception on damaged bytes
        raise BdfError(f"{name}: damaged image: {error or type(error).__name__}") from error


@contextlib.contextmanager
def pillow_silent() -> Iterator[None]:
    """Ignores Pillow's warnings: whatever matters in them is an error here.

    Filters belong to the whole process, so this stands around threads that read, in the thread that started them.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def _add(gathered: Images, images: Any, skip: bool, *, top: bool = False) -> bool:
    """Adds what was given; whether it is one image."""
    if isinstance(images, (str, os.PathLike)):
        local_path(images)
        path = os.path.expanduser(os.fsdecode(images))  # as given: it is the image's name
        if not os.path.isdir(path):
            gathered.add(path, path)
            return True
        names = list_images(path, gathered.unreadable if skip else None)
        gathered.folder = path if top else ""
        for name in names:
            full = join(path, name)
            gathered.add(name if top else full, full)
        return False
    if isinstance(images, (bytes, Image.Image)):
        gathered.add(f"image {len(gathered)}", images)
        return True
    if isinstance(images, (list, tuple, Iterator)):
        for each in images:
            _add(gathered, each, skip)
        return False
    if not hasattr(images, "__array__"):
        raise BdfError(
            "expected a folder, a path, an array, a Pillow image or a list of them, found "
            f"{type(images).__name__} for image {len(gathered)}"
        )
    try:
        array = np.asarray(images)
    except Exception as error:  # a tensor of another framework that must be detached or moved first, say
        raise BdfError(f"image {len(gathered)}: {type(images).__name__} is no NumPy array: {error}") from error
    if array.dtype.kind in "UO":  # an array of paths, or of images of several sizes
        return _add(gathered, array.tolist(), skip)
    if array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4)):
        gathered.add(f"image {len(gathered)}", array)
        return True
    if array.ndim == 4 and array.shape[3] in (1, 3, 4):
        for each in array:
            gathered.add(f"image {len(gathered)}", each)
        return False
    raise BdfError(
        f"image {len(gathered)}: expected an array (H, W), (H, W, 3) or (N, H, W, 3), found {array.shape}; "
        "channels come last (np.moveaxis), and grey images in one array need an axis for them (array[..., None])"
    )


@contextlib.contextmanager
def _opened(item: Any, name: str) -> Iterator[Image.Image]:
    """The image of any kind of item, not yet decoded; a file is closed again."""
    if isinstance(item, Image.Image):
        yield item
        return
    if isinstance(item, np.ndarray):
        yield _from_array(item, name)
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


def _upright_rgb(image: Image.Image, name: str) -> Image.Image:
    """Decoded, opaque, 8 bits a channel, and turned as EXIF says."""
    image.load()
    turn = EXIF_TURNS.get(_orientation(image))
    rgb = _rgb(image, name)
    return rgb if turn is None else rgb.transpose(turn)


def _orientation(image: Image.Image) -> Any:
    try:
        return image.getexif().get(ORIENTATION)
    except Exception:  # EXIF is written by anyone; what cannot be read does not make the pixels wrong
        return None


def _rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode[0] in "IF":
        values = np.asarray(image)
        if values.dtype == np.int32 and values.min() >= 0 and values.max() <= 65535:
            values = values.astype(np.uint16)  # how Pillow holds some 16-bit files
        grey = _levels(values, name)
        if "transparency" in image.info:
            grey = np.where(values == image.info["transparency"], np.uint8(BACKGROUND), grey)
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        ground = Image.new("RGBA", image.size, (BACKGROUND, BACKGROUND, BACKGROUND, 255))
        return Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if not array.size:
        raise BdfError(f"{name}: expected an image of at least one pixel, found an array of {array.shape}")
    return Image.fromarray(np.ascontiguousarray(_levels(array, name)))


def _levels(values: np.ndarray, name: str) -> np.ndarray:
    """uint8 levels of any values whose white is known."""
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind == "b":
        return values * np.uint8(255)
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        return (values >> 8).astype(np.uint8)
    if values.dtype.kind in "iu":
        raise BdfError(
            f"{name}: expected 8 or 16 bits a channel (uint8, uint16), found {values.dtype} from {values.min()} to "
            f"{values.max()}; convert it, so that white is 255 or 65535"
        )
    if values.dtype.kind not in "fV" or values.dtype.names:
        raise BdfError(f"{name}: expected pixels in uint8, uint16 or floating point, found {values.dtype}")
    values = values.astype(np.float32)  # also of JAX's bfloat16, which NumPy calls V
    low, high = values.min(), values.max()
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # rounding is forgiven; NaN is not
        raise BdfError(
            f"{name}: expected floating point from 0 (black) to 1 (white), found {low:g} to {high:g}; "
            "divide by what is white"
        )
    return np.round(np.clip(values, 0, 1) * 255).astype(np.uint8)
