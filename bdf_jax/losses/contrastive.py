"""The contrastive loss of pairs: near where they are one person, far where they are two."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from bdf_jax.errors import BdfError, at_least
from bdf_jax.losses.ranking import Metric, _distance, measured_in
from bdf_jax.losses.terms import Edges


def contrastive_terms(
    features_PKMD: jax.Array, edges: list[Any], *, margin: float, metric: Metric = "sphere"
) -> jax.Array:
    """Of every edge, the mean over pairs of d^2 / 2 for one person and of [margin - d]_+^2 / 2 for two.

    An image of the first view makes a pair with that of its own place in the second, and one with that of the next
    identity: half of the pairs are of one person, and as a batch draws its identities, the others are random.

    Args:
      features_PKMD: (P, K, M, D) float, P >= 2. Computed in float32.
      edges: pairs of positions on the M axis, a single one on each side.
      margin: in units of the distance.
      metric: see `ranking.ranking_terms`.

    Returns:
      (E,) float32.

    References:
      Hadsell et al., "Dimensionality Reduction by Learning an Invariant Mapping", CVPR 2006, equation 4.
    """
    features_PKMD = measured_in(features_PKMD.astype(jnp.float32), metric)
    terms = []
    for (m,), (n,) in edges:
        first, second = features_PKMD[:, :, m], features_PKMD[:, :, n]
        near = jnp.square(first - second).sum(-1)
        far = jnp.square(jax.nn.relu(margin - _distance(first, jnp.roll(second, 1, axis=0))))
        terms.append((near.mean() + far.mean()) / 4)
    return jnp.stack(terms)


@dataclasses.dataclass(frozen=True)
class Contrastive(Edges):
    """See `contrastive_terms`.

    Attributes:
      margin: in units of the metric.
      metric: "euclidean" or "sphere" (of unit vectors).
    """

    margin: float = 0.5
    metric: Metric = "sphere"

    def terms(self, features_PKMD: jax.Array, edges: list[Any]) -> jax.Array:
        """See `Edges.terms`."""
        return contrastive_terms(features_PKMD, edges, margin=self.margin, metric=self.metric)

    def check(self, path: str, views: tuple[str, ...], config: Any) -> None:
        """See `Loss.check`."""
        super().check(path, views, config)
        at_least(f"{path}.margin", self.margin, 0)
        if any(len(side) > 1 for pair in self.pairs() for side in pair):
            raise BdfError(f"{path}.edges: pairs are of two single views, such as V>I, found {self.edges!r}")
