"""Pictures of people: framed tiles, strips of ranked lists, base images beside their derivatives."""

from __future__ import annotations

import base64
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image, ImageOps

from bdf_jax.data.dataset import Split
from bdf_jax.data.index import INFRARED, VISIBLE
from bdf_jax.models.network import Network, pictured
from bdf_jax.pixels import MEAN, STD, denormalise, normalise
from bdf_jax.views import BASES

SIZE = (192, 96)  # height and width of a tile inside its frame, pixels
FRAME = 6
HIT, MISS, QUERY = "#1a9850", "#d73027", "#8a94a0"
MODALITIES = ("visible", "infrared")

Picture = Callable[[int], np.ndarray]  # row of the index -> (*SIZE, 3) uint8


def data_uri(encoded: bytes) -> str:
    """A PNG as an address that needs no file."""
    return "data:image/png;base64," + base64.b64encode(encoded).decode("ascii")


def framed(pixels_HWC: np.ndarray, colour: str, size: tuple[int, int] = SIZE) -> Image.Image:
    """A tile: uint8 pixels of any size at the size (height, width) of a tile, in a frame of this colour."""
    image = Image.fromarray(np.ascontiguousarray(pixels_HWC))
    if image.size != size[::-1]:
        image = image.resize(size[::-1], Image.Resampling.BICUBIC)
    return ImageOps.expand(image, FRAME, colour)


@dataclasses.dataclass(frozen=True)
class Example:
    """A test image and its derivative, at the size that the network sees.

    Attributes:
      row: of the index.
      base_HWC: uint8.
      derivative_HWC: uint8; None where this modality has no generator.
    """

    row: int
    base_HWC: np.ndarray
    derivative_HWC: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Derivatives:
    """What the generators make of a few test images.

    Attributes:
      examples: for each identity one image of each modality, visible first.
      active: of each modality with a generator, the share of its hidden units that are not 0.
      clipped: likewise, the share of its derivatives' values beyond what a pixel can show.
    """

    examples: Sequence[Sequence[Example]]
    active: Mapping[str, float]
    clipped: Mapping[str, float]


def derivatives_of(
    network: Network, variables: Mapping[str, Any], split: Split, *, image_size: tuple[int, int], identities: int = 6
) -> Derivatives | None:
    """A few identities of a split, spread over it, in both modalities, with what the generators make of them.

    Args:
      network: built for one device.
      variables: `params` and `batch_stats`.
      split: the test images.
      image_size: (height, width) that the network sees.
      identities: how many.

    Returns:
      None where the network has no generators.
    """
    present = [base for base in (VISIBLE, INFRARED) if network.derived(base)]
    index = split.index
    pids = np.intersect1d(*(index.pids[index.modalities == modality] for modality in (VISIBLE, INFRARED)))
    if not present or not len(pids):
        return None
    pids = pids[np.unique(np.linspace(0, len(pids) - 1, identities).round().astype(int))]

    @functools.partial(jax.jit, static_argnums=1)
    def made_of(images_BNHWC: list[Any], modality: int) -> tuple[jax.Array, jax.Array | None, jax.Array]:
        """Derivatives as pixels, active share, clipped share."""
        view = network.derived(modality)[0]
        images = {base: normalise(x) for base, x in zip(BASES, images_BNHWC, strict=True)}
        outputs: Any = network.apply(variables, images, train=False, views=(view,), pixels_only=True)
        derivative = pictured(outputs["pixels"][view])
        levels = (derivative * STD + MEAN) * 255
        beyond = ((levels < -0.5) | (levels > 255.5)).mean()
        return denormalise(derivative), outputs["active"].get(view), beyond

    columns: list[list[Example]] = []
    active, clipped = {}, {}
    rows_BN = [
        [int(np.flatnonzero((index.pids == pid) & (index.modalities == modality))[0]) for pid in pids]
        for modality in (VISIBLE, INFRARED)
    ]
    images_BNHWC = [np.stack([split.pixels(row, image_size) for row in rows]) for rows in rows_BN]
    for modality, (rows, images_NHWC) in enumerate(zip(rows_BN, images_BNHWC, strict=True)):
        made: Sequence[np.ndarray | None] = [None] * len(rows)
        if modality in present:
            pixels, share, beyond = made_of(images_BNHWC, modality)
            made = list(np.asarray(pixels))
            clipped[MODALITIES[modality]] = float(beyond)
            if share is not None:
                active[MODALITIES[modality]] = float(share)
        columns.append([Example(*each) for each in zip(rows, images_NHWC, made, strict=True)])
    return Derivatives(list(zip(*columns, strict=True)), active, clipped)
