"""Adversarial losses with critics that see an image beside a map of features.

Source: Wang et al., "RGB-Infrared Cross-Modality Person Re-Identification via Joint Pixel and Feature Alignment"
(AlignGAN), ICCV 2019, by its code.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

import jax
import jax.numpy as jnp

from bdf_jax.errors import check_names
from bdf_jax.losses.codes import least_squares
from bdf_jax.losses.terms import Loss, Scope, Terms

if TYPE_CHECKING:
    from bdf_jax.config import Config

still = jax.lax.stop_gradient


@dataclasses.dataclass(frozen=True)
class FoolsBeside(Loss):
    """A critic is to call an image beside a map real: least squares against 1.

    Attributes:
      critic: its name.
      image: the view whose pixels it sees.
      beside: the view whose last map of the trunk it sees; it enters the trunk.
      moves: what the gradient reaches; the other is a constant.
    """

    critic: str
    image: str
    beside: str
    moves: Literal["image", "map"] = "image"

    def __call__(self, scope: Scope) -> Terms:
        """One term."""
        image, beside = scope.pixels(self.image), scope.map(self.beside)
        seen = (image, still(beside)) if self.moves == "image" else (still(image), beside)
        return {"": least_squares(scope.critic(self.critic, *seen), 1.0)}

    def looks_at(self) -> tuple[tuple[str, str], ...]:
        """See `Loss.looks_at`."""
        return (("", self.image), ("map", self.beside))

    def check(self, path: str, views: tuple[str, ...], config: Config) -> None:
        """See `Loss.check`."""
        super().check(path, views, config)
        check_beside(f"{path}.critic", self.critic, config)


@dataclasses.dataclass(frozen=True)
class TellsBeside(Loss):
    """A critic calls a real image beside its own map 1, and four other pairs 0, each a fourth.

    They are the real image of the identity before beside that map, the real image beside the made one's map, the made
    image beside the real one's map, and the made image beside its own. No gradient but to the critic.

    Attributes:
      critic: its name.
      real: a view that enters the trunk.
      made: another.
    """

    critic: str
    real: str
    made: str

    def __call__(self, scope: Scope) -> Terms:
        """One term."""
        real, made = still(scope.pixels(self.real)), still(scope.pixels(self.made))
        of_real, of_made = still(scope.map(self.real)), still(scope.map(self.made))
        other = scope.moved(real, scope.shape[1])  # identities lie one after another, K pairs each
        wrong = [(other, of_real), (real, of_made), (made, of_real), (made, of_made)]
        terms = [least_squares(scope.critic(self.critic, *seen), 0.0) for seen in wrong]
        return {"": least_squares(scope.critic(self.critic, real, of_real), 1.0) + jnp.stack(terms).mean()}

    def looks_at(self) -> tuple[tuple[str, str], ...]:
        """See `Loss.looks_at`."""
        return tuple((code, view) for view in (self.real, self.made) for code in ("", "map"))

    def check(self, path: str, views: tuple[str, ...], config: Config) -> None:
        """See `Loss.check`."""
        super().check(path, views, config)
        check_beside(f"{path}.critic", self.critic, config)


def check_beside(path: str, critic: str, config: Config) -> None:
    """Raises BdfError where there is no critic of that name that looks at an image and a map."""
    check_names(path, [critic], tuple(name for name, c in config.network.critics.items() if c.of == "pixels+map"))
