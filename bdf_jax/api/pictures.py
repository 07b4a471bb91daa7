"""Whatever is given as images -> one sequence, each read when it is needed; `data/images.py` says into what."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from PIL import Image

from bdf_jax.api.folders import join, list_images
from bdf_jax.data.images import read_pixels
from bdf_jax.data.levels import AS_STORED, Levels, Notes
from bdf_jax.errors import BdfError
from bdf_jax.names import printable
from bdf_jax.paths import local_path


class Images:
    """The images of a call, in order, read only when they are needed.

    Attributes:
      names: of a file in a folder, its path inside that folder with "/"; of other files, the path as given; of images
        in memory, "image 0", "image 1", ...
      folder: the one folder that `names` are relative to; empty where there is none.
      single: one image was given, not a list or folder of one.
      unreadable: folders that could not be looked into, with the reason.
      levels: what is black and white in images of more than 8 bits.
      notes: what a network would see little of, among the images read so far.
    """

    def __init__(self, levels: Levels = AS_STORED) -> None:
        self.levels, self.notes = levels, Notes()
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
        chosen = Images(self.levels)
        chosen.folder = self.folder
        for row in rows:
            chosen.add(self.names[row], self._items[row])
        return chosen

    def pixels(self, row: int, size: tuple[int, int]) -> np.ndarray:
        """(height, width, 3) uint8 of one image; raises BdfError that names it."""
        return read_pixels(self._items[row], printable(self.names[row]), size, self.levels, self.notes)


def gather(images: Any, *, skip: bool = False, levels: Levels = AS_STORED) -> Images:
    """What was given as images, as one sequence.

    Args:
      images: a folder (all its images, see `list_images`), a path, an array (H, W), (H, W, 1), (H, W, 3), (H, W, 4) or
        with N in front of three axes, a Pillow image, the bytes of a file, or a list or iterator of any of these.
      skip: note folders that cannot be looked into instead of raising.
      levels: what is black and white in images of more than 8 bits.

    Raises:
      BdfError: none at all, a type that is no image, an array of another shape.
    """
    gathered = Images(levels)
    gathered.single = _add(gathered, images, skip, top=True)
    if not len(gathered):
        raise BdfError("expected at least one image, found an empty list")
    return gathered


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
