"""Losses of views that are made of other views: DEEN's two."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from bdf_jax.errors import at_least, check_names
from bdf_jax.losses.terms import Loss, Terms

if TYPE_CHECKING:
    from bdf_jax.config import Config
    from bdf_jax.losses.terms import Scope

Pair = tuple[str, str]


def centre_pairs(base_2PD: jax.Array, made_2PD: jax.Array, *, margin: float = 0.2) -> jax.Array:
    """DEEN's centre-guided pair mining, of identity centres V, I of the bases and V', I' of what is made of them.

        h(n, p) = mean over identities of [margin + p - n]_+        m(c) = min over other identities of d(c_p, c_q)
        A = h(sg d(V, V'), d(I, V')) + (h(m(V'), d(I, V')) + h(m(V), d(I, V'))) / 2
        B = the same with V and I in each other's place              loss = (A + B) / 2

    d is the Euclidean distance and sg passes no gradient.

    Args:
      base_2PD: (2, P, D) float, centres of P >= 2 identities, visible and infrared.
      made_2PD: (2, P, D), of the views that are made of them.
      margin: in units of the distance.

    Returns:
      () float32.

    References:
      Zhang and Wang, "Diverse Embedding Expansion Network and Low-Light Cross-Modality Benchmark for Visible-Infrared
      Person Re-identification", CVPR 2023, section 3.4; the sum of three hinges is that of the authors' code.
    """
    base_2PD, made_2PD = base_2PD.astype(jnp.float32), made_2PD.astype(jnp.float32)

    def hinge(far_P: jax.Array, near_P: jax.Array) -> jax.Array:
        return jax.nn.relu(margin + near_P - far_P).mean()

    def one_way(own: int, other: int) -> jax.Array:
        near_P = _distance(base_2PD[other], made_2PD[own])
        apart_P = jax.lax.stop_gradient(_distance(base_2PD[own], made_2PD[own]))
        rivals = hinge(_nearest_other(made_2PD[own]), near_P) + hinge(_nearest_other(base_2PD[own]), near_P)
        return hinge(apart_P, near_P) + rivals / 2

    return (one_way(0, 1) + one_way(1, 0)) / 2


def _nearest_other(centres_PD: jax.Array) -> jax.Array:
    """(P,) the distance of each centre to the nearest one of another identity."""
    distance_PP = _distance(centres_PD[:, None], centres_PD[None])
    return jnp.where(jnp.eye(len(centres_PD), dtype=bool), jnp.inf, distance_PP).min(1)


def _distance(a: jax.Array, b: jax.Array) -> jax.Array:
    # The floor keeps sqrt(0), whose gradient is infinite, out of the graph.
    return jnp.sqrt(jnp.maximum(jnp.square(a - b).sum(-1), 1e-12))


@dataclasses.dataclass(frozen=True)
class CentrePairs(Loss):
    """Views that are made of others lie nearer to the other base than to their own; see `centre_pairs`.

    Attributes:
      made: the views made of `base`, visible and infrared.
      base: what they are made of.
      margin: in units of the distance.
    """

    made: Pair
    base: Pair = ("V", "I")
    margin: float = 0.2

    def __call__(self, scope: Scope) -> Terms:
        """One term: the mean over stripes."""
        found = []
        for features_PKMD in scope.gathered("pooled"):
            centres_PMD = features_PKMD.astype(jnp.float32).mean(1)
            base, made = (
                jnp.stack([centres_PMD[:, m] for m in scope.position(*pair)]) for pair in (self.base, self.made)
            )
            found.append(centre_pairs(base, made, margin=self.margin))
        return {"": jnp.stack(found).mean()}

    def check(self, path: str, views: tuple[str, ...], config: Config) -> None:
        """See `Loss.check`."""
        super().check(path, views, config)
        check_names(f"{path}.made", self.made, views)
        check_names(f"{path}.base", self.base, views)
        at_least(f"{path}.margin", self.margin, 0)


@dataclasses.dataclass(frozen=True)
class Orthogonal(Loss):
    """The product of the pooled features of two views of an image: the sum over bases, over the number of all views.

    It is signed, as in the authors' code; features after a ReLU are nowhere negative, and neither is it.

    Source: Zhang and Wang, CVPR 2023, section 3.3 (see `centre_pairs`).

    Attributes:
      first: a view of each base.
      second: the other view of each base.
    """

    first: Pair
    second: Pair

    def __call__(self, scope: Scope) -> Terms:
        """One term: mean over images."""
        features_NMSD = scope.local("pooled").astype(jnp.float32)
        ones, others = (
            jnp.stack([features_NMSD[:, m] for m in scope.position(*pair)], 1) for pair in (self.first, self.second)
        )
        return {"": (ones * others).sum((1, 2, 3)).mean() / len(scope.views)}

    def check(self, path: str, views: tuple[str, ...], config: Config) -> None:
        """See `Loss.check`."""
        super().check(path, views, config)
        check_names(f"{path}.first", self.first, views)
        check_names(f"{path}.second", self.second, views)
