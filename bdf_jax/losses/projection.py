"""A loss that draws the features of two views together behind a random projection."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from bdf_jax.errors import at_least, check_names
from bdf_jax.losses.ranking import unit
from bdf_jax.losses.terms import Loss, Terms

if TYPE_CHECKING:
    from bdf_jax.config import Config
    from bdf_jax.losses.terms import Scope


def projected_distance(ones_BD: jax.Array, others_BD: jax.Array, *, width: int = 256, seed: int = 0) -> jax.Array:
    """Mean distance of rows behind a random projection that is never trained.

        q(x) = l2(BN(W2 relu(BN(W1 l2(x))) + b2))        mean over rows of |q(x) - q(y)|

    BN takes the statistics of all rows of both. W1, W2 and b2 are uniform within 1 / sqrt(inputs).

    Args:
      ones_BD: (B, D) float.
      others_BD: (B, D), row by row of the same identity.
      width: of both layers.
      seed: of the projection, which depends on it and on D alone.

    Returns:
      () float32.

    References:
      Zhang et al., "Towards a Unified Middle Modality Learning for Visible-Infrared Person Re-Identification",
      ACM MM 2021, section 3.3; that the projection is not trained is so in the authors' code.
    """
    rows_RD = unit(jnp.concatenate([ones_BD, others_BD]).astype(jnp.float32))
    D, keys = rows_RD.shape[1], jax.random.split(jax.random.key(seed), 3)
    W1, W2, b2 = (
        jax.random.uniform(key, shape, minval=-1 / math.sqrt(fan_in), maxval=1 / math.sqrt(fan_in))
        for key, shape, fan_in in zip(keys, ((D, width), (width, width), (width,)), (D, width, width), strict=True)
    )
    hidden = jax.nn.relu(_whitened(jnp.dot(rows_RD, W1, precision="highest")))
    projected = unit(_whitened(jnp.dot(hidden, W2, precision="highest") + b2))
    apart = projected[: len(ones_BD)] - projected[len(ones_BD) :]
    # The floor keeps sqrt(0), whose gradient is infinite, out of the graph.
    return jnp.sqrt(jnp.maximum(jnp.square(apart).sum(-1), 1e-12)).mean()


def _whitened(x: jax.Array) -> jax.Array:
    """Batch normalisation without parameters."""
    return (x - x.mean(0)) * jax.lax.rsqrt(x.var(0) + 1e-5)


@dataclasses.dataclass(frozen=True)
class ProjectedDistance(Loss):
    """Features of two views of a pair lie near each other behind a random projection; see `projected_distance`.

    Attributes:
      first: a view.
      second: another.
      width: of the projection.
      seed: of the projection.
    """

    first: str
    second: str
    width: int = 256
    seed: int = 0

    def __call__(self, scope: Scope) -> Terms:
        """One term: mean over pairs and stripes, which share the projection."""
        first, second = scope.position(self.first, self.second)
        stripes = []
        for features_PKMD in scope.gathered("pooled"):
            rows = features_PKMD.reshape(-1, *features_PKMD.shape[2:])
            stripes.append(projected_distance(rows[:, first], rows[:, second], width=self.width, seed=self.seed))
        return {"": jnp.stack(stripes).mean()}

    def check(self, path: str, views: tuple[str, ...], config: Config) -> None:
        """See `Loss.check`."""
        super().check(path, views, config)
        check_names(f"{path}.first", [self.first], views)
        check_names(f"{path}.second", [self.second], views)
        at_least(f"{path}.width", self.width, 1)
        at_least(f"{path}.seed", self.seed, 0)
