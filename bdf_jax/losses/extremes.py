"""A triplet loss that also draws its extremes to fixed similarities."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from bdf_jax.errors import at_least, check_names
from bdf_jax.losses.ranking import unit
from bdf_jax.losses.terms import Edges, Scope, Terms

if TYPE_CHECKING:
    from bdf_jax.config import Config


def extremes(anchors_PAD: jax.Array, candidates_PCD: jax.Array, margin: float) -> jax.Array:
    """Mean over anchors of max(0, margin + n - p) + (n + 1)^2 + (p - 1)^2, of cosines.

    p is the similarity to the least similar candidate of the anchor's identity, n to the most similar one of another.

    Source: Choi et al., CVPR 2020 (Hi-CMD), by its code.

    Args:
      anchors_PAD: of P identities.
      candidates_PCD: of the same.
      margin: of the hinge.
    """
    P = len(anchors_PAD)
    cosines_PAQC = jnp.einsum("pad,qcd->paqc", unit(anchors_PAD), unit(candidates_PCD))
    same_P1Q1 = jnp.eye(P, dtype=bool)[:, None, :, None]
    p_PA = jnp.where(same_P1Q1, cosines_PAQC, jnp.inf).min((2, 3))
    n_PA = jnp.where(same_P1Q1, -jnp.inf, cosines_PAQC).max((2, 3))
    return (jnp.maximum(margin + n_PA - p_PA, 0) + jnp.square(n_PA + 1) + jnp.square(p_PA - 1)).mean()


@dataclasses.dataclass(frozen=True)
class Extremes(Edges):
    """See `extremes`.

    Attributes:
      part: of `network.auxiliary`, whose array is compared instead of the feature `on`; empty: the feature.
      margin: of the hinge, in cosines.
    """

    part: str = ""
    margin: float = 0.5

    def __call__(self, scope: Scope) -> Terms:
        """One term an edge."""
        (features_PKMD,) = scope.gathered(self.part or self.on, joined=True)
        P, D, terms = len(features_PKMD), features_PKMD.shape[-1], {}
        for anchors, candidates in self.pairs():
            a, c = (
                features_PKMD[:, :, jnp.asarray(scope.position(*side))].reshape(P, -1, D)
                for side in (anchors, candidates)
            )
            terms["+".join(anchors)] = extremes(a, c, self.margin)
        return terms

    def check(self, path: str, views: tuple[str, ...], config: Config) -> None:
        """See `Loss.check`."""
        super().check(path, views, config)
        at_least(f"{path}.margin", self.margin, 0)
        check_names(f"{path}.part", [self.part] if self.part else [], tuple(config.network.auxiliary))
