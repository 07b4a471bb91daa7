"""Metrics that are fitted once, on the features of the training images, and belong to the network from then on.

A metric is an affine map for each base into one space, where features are compared; the maps lie beside the running
statistics, so that every checkpoint, every export and every notebook has them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bdf_jax.errors import BdfError
from bdf_jax.parts import Family

WORDS = ("visible", "infrared")  # of the bases, in the names of what is specific to one


@dataclasses.dataclass(frozen=True)
class Metric(Family):
    """A metric and its solver.

    Attributes:
      features: d, dimensions of the common space.
      of: the feature that is mapped; stripes follow one another.
    """

    features: int = 128
    of: Literal["embedding", "pooled"] = "embedding"

    def fit(self, features_ND: np.ndarray, pids_N: np.ndarray, modalities_N: np.ndarray) -> Maps:
        """The maps (`linear`) for the training images.

        Args:
          features_ND: (N, D) float32, as the network gives them, not normalised.
          pids_N: (N,) int, who it is.
          modalities_N: (N,) 0 visible, 1 infrared.

        Raises:
          BdfError: there are too few images for it.
        """
        raise NotImplementedError


Maps = dict[str, np.ndarray]


def linear(visible_Dd: np.ndarray, infrared_Dd: np.ndarray, mean_2D: np.ndarray) -> Maps:
    """The maps x -> (x - mean) @ matrix, with a matrix and a mean for each base."""
    matrices = (visible_Dd, infrared_Dd)
    found = {f"matrix_{word}": matrix for word, matrix in zip(WORDS, matrices, strict=True)}
    found["fitted"] = np.ones(())
    found |= {f"offset_{word}": -mean_2D[base] @ matrices[base] for base, word in enumerate(WORDS)}
    return {name: np.asarray(value, np.float32) for name, value in found.items()}


class Mapped(nn.Module):
    """The maps of a metric at work.

    Attributes:
      features: d.
    """

    features: int

    @nn.compact
    def __call__(self, features_NMSD: jax.Array, bases: tuple[int, ...]) -> jax.Array:
        """(N, M, S, D) to (N, M, 1, d), each view by the map of its base."""
        x_NMD = features_NMSD.reshape(*features_NMSD.shape[:2], -1)
        shape = (x_NMD.shape[-1], self.features)
        self.variable("batch_stats", "fitted", lambda: jnp.zeros(()))
        matrices = [self.variable("batch_stats", f"matrix_{word}", jnp.eye, *shape).value for word in WORDS]
        offsets = [self.variable("batch_stats", f"offset_{word}", jnp.zeros, self.features).value for word in WORDS]
        mapped = [x_NMD[:, m] @ matrices[base] + offsets[base] for m, base in enumerate(bases)]
        return jnp.stack(mapped, axis=1)[:, :, None]


def check_fitted(feature: str, variables: Mapping[str, Any], source: object) -> None:
    """Raises BdfError where features are asked for that a metric gives which is not fitted yet."""
    if feature == "fitted" and not float(variables["batch_stats"]["metric"]["fitted"]):
        raise BdfError(
            f"{source}: its metric is fitted at the end of training, and this checkpoint is of a step before; take the "
            "last one, or another feature (--feature=embedding)"
        )
