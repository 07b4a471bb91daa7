"""The views of a few people: a picture for those who watch a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from bdf_jax.config import Config
from bdf_jax.data.dataset import Split
from bdf_jax.data.index import INFRARED, VISIBLE
from bdf_jax.models.network import Network, derive
from bdf_jax.pixels import denormalise, normalise, sheet
from bdf_jax.training.optimiser import role
from bdf_jax.views import BASES

PAIRS = 6
HEIGHT = 128  # pixels; larger images are shown smaller
GAP = 2  # white pixels between two images


class ViewGrid:
    """A few people side by side; from top to bottom: visible image, its views, infrared image, its views.

    The images are those of the training split, unaugmented, and the same at every step. Batch statistics are the
    running ones.

    Args:
      split: of the images.
      network: built for one device.
      config: of the run.
    """

    def __init__(self, split: Split, network: Network, config: Config):
        self._bases_NBHWC = np.stack([_pair(split, pid, config.data.image_size) for pid in _some(split.index.pids)])
        names = [view for base in (VISIBLE, INFRARED) for view in (BASES[base], *network.derived(base))]

        def draw(variables: Mapping[str, Any], images_NBHWC: jax.Array) -> list[jax.Array]:
            images = {name: normalise(images_NBHWC[:, base]) for base, name in enumerate(BASES)}
            made = derive(network, variables, images, tuple(names))
            return [denormalise(made[name]) for name in names]

        self._draw = jax.jit(draw)
        self._roles = ("views", "trunk") if config.network.codes else ("views",)

    def draw(self, variables: Mapping[str, Any], *, whole: bool = False) -> np.ndarray:
        """The picture, (H, W, 3) uint8, for the parameters and batch statistics of a step; `whole`: at full size."""
        # Computed by this process alone, on one of its devices, wherever the run has its copies.
        local = jax.tree.map(lambda leaf: leaf.addressable_data(0), _of_roles(variables, self._roles))
        rows = jax.device_get(self._draw(local, jnp.asarray(self._bases_NBHWC)))
        return _grid(rows, rows[0].shape[1] if whole else HEIGHT)


def _of_roles(variables: Mapping[str, Any], roles: tuple[str, ...]) -> dict[str, Any]:
    """The part of the variables that makes views: the rest need not be handed over."""
    return {
        collection: {name: tree for name, tree in variables.get(collection, {}).items() if role(name) in roles}
        for collection in ("params", "batch_stats")
    }


def _some(pids: np.ndarray) -> np.ndarray:
    everybody = np.unique(pids)
    return everybody[np.linspace(0, len(everybody) - 1, min(PAIRS, len(everybody))).astype(int)]


def _pair(split: Split, pid: int, size: tuple[int, int]) -> np.ndarray:
    rows = [
        int(np.flatnonzero((split.index.pids == pid) & (split.index.modalities == modality))[0])
        for modality in (VISIBLE, INFRARED)
    ]
    return np.stack([split.pixels(row, size) for row in rows])


def _grid(rows: list[np.ndarray], at_most: int) -> np.ndarray:
    """Rows of (N, H, W, 3) images, one under the other, no higher than so many pixels each."""
    height, width = rows[0].shape[1:3]
    scale = min(1.0, at_most / height)
    size = max(1, round(width * scale)), round(height * scale)
    tiles = [[Image.fromarray(image).resize(size, Image.Resampling.BILINEAR) for image in images] for images in rows]
    return np.asarray(sheet(tiles, GAP))
