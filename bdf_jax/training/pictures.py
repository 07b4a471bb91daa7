"""What the generators make of a few people: a picture for those who watch a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from bdf_jax.augment import denormalise, normalise
from bdf_jax.config import Config, GeneratorConfig
from bdf_jax.data.dataset import Split
from bdf_jax.data.index import INFRARED, VISIBLE
from bdf_jax.models.derivative import generators

PAIRS = 6
HEIGHT = 128  # pixels; larger images are shown smaller
GAP = 2  # white pixels between two images


class _Derivatives(nn.Module):
    """The network's generators alone, under the names that they have there."""

    config: GeneratorConfig

    @nn.compact
    def __call__(self, images_NBHWC: jax.Array) -> dict[int, jax.Array]:
        makers = generators(self.config, None)
        return {base: maker(images_NBHWC[:, base], train=False)[0] for base, maker in makers.items()}


class DerivativeGrid:
    """A few people side by side; from top to bottom: visible image, its derivative, infrared image, its derivative.

    The images are those of the training split, unaugmented, and the same at every step. Batch statistics are the
    running ones.

    Args:
      split: of the images.
      config: of the run; `needed` tells whether it has any derivative.
    """

    def __init__(self, split: Split, config: Config):
        self._bases_NBHWC = np.stack([_pair(split, pid, config.data.image_size) for pid in _some(split.index.pids)])
        module = _Derivatives(config.model.generator)

        def derive(variables: Mapping[str, Any], images_NBHWC: jax.Array) -> dict[int, jax.Array]:
            derived: Any = module.apply(variables, normalise(images_NBHWC))
            return {base: denormalise(images_NHWC) for base, images_NHWC in derived.items()}

        self._derive = jax.jit(derive)

    @staticmethod
    def needed(config: Config) -> bool:
        """Whether there is a derivative to be seen."""
        return config.model.generator.derivatives != "none"

    def draw(self, variables: Mapping[str, Any]) -> np.ndarray:
        """The picture, (H, W, 3) uint8, for the parameters and batch statistics of a step."""
        # Computed by this process alone, on one of its devices, wherever the run has its copies.
        local = jax.tree.map(lambda leaf: leaf.addressable_data(0), dict(_generators_of(variables)))
        derived = jax.device_get(self._derive(local, jnp.asarray(self._bases_NBHWC)))
        rows = []
        for base in (VISIBLE, INFRARED):
            rows += [self._bases_NBHWC[:, base], *([derived[base]] if base in derived else [])]
        return _grid(rows)


def _generators_of(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The part of the variables that the generators use: the rest need not be handed over."""
    return {
        collection: {name: value for name, value in variables.get(collection, {}).items() if "generator" in name}
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


def _grid(rows: list[np.ndarray]) -> np.ndarray:
    """Rows of (N, H, W, 3) images, one under the other."""
    height, width = rows[0].shape[1:3]
    scale = min(1.0, HEIGHT / height)
    height, width = round(height * scale), max(1, round(width * scale))
    grid = np.full((len(rows) * (height + GAP) + GAP, len(rows[0]) * (width + GAP) + GAP, 3), 255, np.uint8)
    for i, images in enumerate(rows):
        for j, image in enumerate(images):
            top, left = GAP + i * (height + GAP), GAP + j * (width + GAP)
            resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
            grid[top : top + height, left : left + width] = np.asarray(resized)
    return grid
