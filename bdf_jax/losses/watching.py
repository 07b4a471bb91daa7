"""What tells whether images that a network makes are any good: numbers for the log, trained with by nobody."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from bdf_jax.errors import BdfError, check_names
from bdf_jax.losses.codes import pairs_of
from bdf_jax.losses.terms import Loss, Scope, Terms
from bdf_jax.pixels import MEAN, STD

if TYPE_CHECKING:
    from bdf_jax.config import Config

SMALL = (16, 8)  # pixels of an image whose neighbours are looked for, at most


def share_beside(made_NHWC: jax.Array, like_NHWC: jax.Array, unlike_NHWC: jax.Array) -> jax.Array:
    """The share of made images whose nearest real one, pixel by pixel, is one of those that they are to be like."""
    flat, like, unlike = (x.reshape(len(x), -1) for x in (made_NHWC, like_NHWC, unlike_NHWC))
    to_like, to_unlike = (jnp.square(flat[:, None] - other[None]).sum(-1).min(1) for other in (like, unlike))
    return (to_like < to_unlike).mean()


@dataclasses.dataclass(frozen=True)
class Likeness(Loss):
    """Mean and spread of made images beside real ones, in grey levels, and who their neighbours are.

    Terms, of the whole batch: `MADE_mean` and `MADE_spread` (the deviation over all pixels), the same of the real ones,
    and `MADE_near`: the share of made images, made small, whose nearest real one in the batch is of `like`; the other
    candidates are those of `unlike`, among them the image that it was made of.

    Attributes:
      made: a view.
      like: the base whose camera it is to look like.
      unlike: the other one.
    """

    made: str
    like: str
    unlike: str
    weight: float = dataclasses.field(default=0.0, kw_only=True)

    def __call__(self, scope: Scope) -> Terms:
        """See the class."""
        terms, small = {}, []
        for view in (self.made, self.like, self.unlike):
            levels = (scope.pixels(view) * STD + MEAN) * 255
            moments_N2 = scope.everywhere(jnp.stack([levels.mean((1, 2, 3)), jnp.square(levels).mean((1, 2, 3))], 1))
            mean, square = moments_N2.mean(0)
            if view != self.unlike:
                terms[f"{view}_mean"] = mean
                terms[f"{view}_spread"] = jnp.sqrt(jnp.maximum(square - jnp.square(mean), 1e-12))
            size = [min(most, side) for most, side in zip(SMALL, levels.shape[1:3], strict=True)]
            small.append(scope.everywhere(jax.image.resize(levels, (len(levels), *size, 3), "linear")))
        return terms | {f"{self.made}_near": share_beside(*small)}

    def looks_at(self) -> tuple[tuple[str, str], ...]:
        """See `Loss.looks_at`."""
        return tuple(("", view) for view in (self.made, self.like, self.unlike))


@dataclasses.dataclass(frozen=True)
class Verdicts(Loss):
    """The share of patches that a critic judges rightly: real above 1/2, made below; 1/2 is a coin.

    Attributes:
      critics: "CRITIC=REAL:MADE"; "CRITIC=REAL/REAL:MADE/REAL" for one that sees an image beside a map: whose image,
        whose map.
    """

    critics: str
    weight: float = dataclasses.field(default=0.0, kw_only=True)

    def _sides(self) -> list[tuple[str, list[list[str]]]]:
        return [
            (critic, [side.split("/") for side in views.split(":")])
            for critic, views in pairs_of(self.critics, "critics")
        ]

    def __call__(self, scope: Scope) -> Terms:
        """One term a critic."""
        terms = {}
        for critic, sides in self._sides():
            real, made = (
                scope.critic(critic, scope.pixels(side[0]), *(scope.map(view) for view in side[1:])) for side in sides
            )
            rights = [(x > 0.5).mean() for x in jax.tree.leaves(real)] + [
                (x < 0.5).mean() for x in jax.tree.leaves(made)
            ]
            terms[critic] = jnp.stack(rights).mean()
        return terms

    def looks_at(self) -> tuple[tuple[str, str], ...]:
        """See `Loss.looks_at`."""
        words = [side for _, sides in self._sides() for side in sides]
        return tuple((code, view) for side in words for code, view in zip(("", "map"), side, strict=False))

    def check(self, path: str, views: tuple[str, ...], config: Config) -> None:
        """See `Loss.check`."""
        super().check(path, views, config)
        check_names(f"{path}.critics", [critic for critic, _ in self._sides()], tuple(config.network.critics))
        for critic, sides in self._sides():
            maps = config.network.critics[critic].of == "pixels+map"
            if [len(side) for side in sides] != [1 + maps] * 2:
                form = f"{critic}=I/I:F/I" if maps else f"{critic}=V:B"
                raise BdfError(f"{path}.critics: expected words such as {form}, found {self.critics!r}")
