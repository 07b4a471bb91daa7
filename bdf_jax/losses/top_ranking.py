"""Top-ranking losses of BDTR and eBDTR: between the bases, and against what lies too close within one."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from bdf_jax.errors import at_least
from bdf_jax.losses.ranking import Metric, _distance, _pooled, _rows, _same_identity, _squared_distances, measured_in
from bdf_jax.losses.terms import Edges


def intra_terms(features_PKMD: jax.Array, edges: list[Any], *, margin: float, metric: Metric = "sphere") -> jax.Array:
    """BDTR's intra-modality constraint of every edge, each the mean over its anchors.

        [margin - d(p, q)]_+    p the farthest positive of the anchor among the candidates, q its nearest negative

    p and q are of the candidates' modality: it is their distance within it that must not be small.

    Args:
      features_PKMD: (P, K, M, D) float. Computed in float32.
      edges: (anchors, candidates), tuples of positions on the M axis.
      margin: in units of the distance.
      metric: see `ranking.ranking_terms`.

    Returns:
      (E,) float32.

    References:
      Ye et al., "Visible Thermal Person Re-Identification via Dual-Constrained Top-Ranking", IJCAI 2018.
    """
    features_PKMD = measured_in(features_PKMD.astype(jnp.float32), metric)
    terms = []
    for m, n in edges:
        anchors_PAD, others_PBD = _pooled(features_PKMD, m), _pooled(features_PKMD, n)
        (P, A, D), B = anchors_PAD.shape, others_PBD.shape[1]
        anchors_ND, others_MD = anchors_PAD.reshape(P * A, D), others_PBD.reshape(P * B, D)
        squared_NM = _squared_distances(*jax.lax.stop_gradient((anchors_ND, others_MD)))
        same_NM = _same_identity(P, A, B)
        positive_N = jnp.argmax(jnp.where(same_NM, squared_NM, -jnp.inf), axis=1)
        negative_N = jnp.argmin(jnp.where(same_NM, jnp.inf, squared_NM), axis=1)
        distance_N = _distance(_rows(others_MD, positive_N), _rows(others_MD, negative_N))
        terms.append(jax.nn.relu(margin - distance_N).mean())
    return jnp.stack(terms)


def centred_terms(features_PKMD: jax.Array, edges: list[Any], *, margin: float, metric: Metric = "sphere") -> jax.Array:
    """The centre-constrained top-ranking of every edge, each the mean over its anchors.

        [margin + d(a, c_y) - min over k != y of d(a, c_k)]_+    a an image, c the centres of the identities in n

    All images are drawn to one centre, so that they come close to one another within a modality as well. Centres are
    means of the features in the metric's space, of unit vectors say, and not themselves of length 1.

    Args:
      features_PKMD: (P, K, M, D) float. Computed in float32.
      edges: (anchors, candidates), tuples of positions on the M axis.
      margin: in units of the distance.
      metric: see `ranking.ranking_terms`.

    Returns:
      (E,) float32.

    References:
      Ye et al., "Bi-Directional Center-Constrained Top-Ranking for Visible Thermal Person Re-Identification",
      TIFS 2020, for the idea; the formula is our reading.
    """
    features_PKMD = measured_in(features_PKMD.astype(jnp.float32), metric)
    terms = []
    for m, n in edges:
        anchors_PAD, centres_PD = _pooled(features_PKMD, m), _pooled(features_PKMD, n).mean(1)
        P, A, D = anchors_PAD.shape
        anchors_ND = anchors_PAD.reshape(P * A, D)
        squared_NP = _squared_distances(*jax.lax.stop_gradient((anchors_ND, centres_PD)))
        rival_N = jnp.argmin(jnp.where(_same_identity(P, A, 1), jnp.inf, squared_NP), axis=1)
        own_N = _distance(anchors_ND, jnp.repeat(centres_PD, A, axis=0))
        terms.append(jax.nn.relu(margin + own_N - _distance(anchors_ND, _rows(centres_PD, rival_N))).mean())
    return jnp.stack(terms)


@dataclasses.dataclass(frozen=True)
class Apart(Edges):
    """The candidates that the anchor takes for the same lie apart among themselves; see `intra_terms`.

    Attributes:
      margin: in units of the metric.
      metric: "euclidean", "sphere" (of unit vectors) or "cosine".
    """

    margin: float = 0.1
    metric: Metric = "sphere"

    def terms(self, features_PKMD: jax.Array, edges: list[Any]) -> jax.Array:
        """See `Edges.terms`."""
        return intra_terms(features_PKMD, edges, margin=self.margin, metric=self.metric)

    def check(self, path: str, views: tuple[str, ...], config: Any) -> None:
        """See `Loss.check`."""
        super().check(path, views, config)
        at_least(f"{path}.margin", self.margin, 0)


@dataclasses.dataclass(frozen=True)
class Centred(Edges):
    """Images against the centres of identities in the other view; see `centred_terms`.

    Attributes:
      margin: in units of the metric.
      metric: "euclidean", "sphere" (of unit vectors) or "cosine".
    """

    margin: float = 0.5
    metric: Metric = "sphere"

    def terms(self, features_PKMD: jax.Array, edges: list[Any]) -> jax.Array:
        """See `Edges.terms`."""
        return centred_terms(features_PKMD, edges, margin=self.margin, metric=self.metric)

    def check(self, path: str, views: tuple[str, ...], config: Any) -> None:
        """See `Loss.check`."""
        super().check(path, views, config)
        at_least(f"{path}.margin", self.margin, 0)
