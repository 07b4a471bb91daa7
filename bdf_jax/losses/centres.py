"""Losses that draw the means of two views together."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp

from bdf_jax.errors import at_least, check_names
from bdf_jax.losses.ranking import unit
from bdf_jax.losses.terms import Feature, Loss, Terms


def hetero_centre(ones_PKD: jax.Array, others_PKD: jax.Array, *, threshold: float = 0.0) -> jax.Array:
    """sum over identities of [|c_p - c'_p|^2 - threshold]_+, c and c' the mean unit vectors of an identity.

    It is a sum and no mean: twice the identities in a batch, twice the loss.

    Args:
      ones_PKD: (P, K, D) float, features of one view.
      others_PKD: (P, K', D), of the other.
      threshold: squared distance that is allowed.

    Returns:
      () float32.

    References:
      Zhu et al., "Hetero-Center Loss for Cross-Modality Person Re-Identification", Neurocomputing 2020, equation 3; the
      unit vectors are those of the authors' code.
    """
    one_PD, other_PD = (unit(x.astype(jnp.float32)).mean(1) for x in (ones_PKD, others_PKD))
    return jax.nn.relu(jnp.square(one_PD - other_PD).sum(-1) - threshold).sum()


@dataclasses.dataclass(frozen=True)
class CentreDistance(Loss):
    """The mean squared difference, over dimensions and centres, between the centres of two views; mean over stripes.

    Attributes:
      of: the two views.
      on: the feature.
      centre: of each "identity", or one of the whole "batch".
    """

    of: tuple[str, str] = ("V", "I")
    on: Feature = "embedding"
    centre: Literal["identity", "batch"] = "identity"

    def __call__(self, scope: Any) -> Terms:
        """One term."""
        first, second = scope.position(*self.of)
        axes = 0 if self.centre == "batch" else ()
        apart = []
        for features_PKMD in scope.gathered(self.on):
            centres_PMD = features_PKMD.mean(1).mean(axes)
            apart.append(jnp.square(centres_PMD[..., first, :] - centres_PMD[..., second, :]).mean())
        return {"": jnp.stack(apart).mean()}

    def check(self, path: str, views: tuple[str, ...], config: Any) -> None:
        """See `Loss.check`."""
        super().check(path, views, config)
        check_names(f"{path}.of", self.of, views)


@dataclasses.dataclass(frozen=True)
class HeteroCentre(Loss):
    """An identity's centres in two views are one; see `hetero_centre`.

    Attributes:
      first: a view.
      second: another.
      threshold: squared distance that is allowed.
      on: the feature.
    """

    first: str = "V"
    second: str = "I"
    threshold: float = 0.0
    on: Feature = "embedding"

    def __call__(self, scope: Any) -> Terms:
        """One term: the sum over stripes."""
        one, other = scope.position(self.first, self.second)
        stripes = [
            hetero_centre(x_PKMD[:, :, one], x_PKMD[:, :, other], threshold=self.threshold)
            for x_PKMD in scope.gathered(self.on)
        ]
        return {"": jnp.stack(stripes).sum()}

    def check(self, path: str, views: tuple[str, ...], config: Any) -> None:
        """See `Loss.check`."""
        super().check(path, views, config)
        check_names(f"{path}.first", [self.first], views)
        check_names(f"{path}.second", [self.second], views)
        at_least(f"{path}.threshold", self.threshold, 0)
