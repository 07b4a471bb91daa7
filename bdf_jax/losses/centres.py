"""Losses that draw the means of two views together."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax.numpy as jnp

from bdf_jax.errors import check_names
from bdf_jax.losses.terms import Feature, Loss, Terms


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
