"""Parts that only training has: what they compute is for losses, and at the test they are not there.

Their parameters lie under `auxiliary_NAME` (with their name in `network.auxiliary`), and so does in `batch_stats` what
they keep from step to step. A loss finds a part's array by its name, `scope.local(NAME)` or `scope.gathered(NAME)`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bdf_jax.errors import at_least, check_names, within
from bdf_jax.models.heads import Pool
from bdf_jax.models.metrics import WORDS
from bdf_jax.parts import Family

small = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


@dataclasses.dataclass(frozen=True)
class Auxiliary(Family):
    """A part that only training has."""

    def module(self, name: str, network: nn.Module) -> nn.Module:
        """The module under this name: (outputs, bases) to an array (N, M, S, ...).

        The outputs are those of the network, with the arrays of the parts before this one by their names; `bases` says
        which base each view is of.
        """
        raise NotImplementedError

    def check(self, path: str, features: tuple[str, ...]) -> None:
        """Raises BdfError on an impossible value; `features` are what it may look at."""


@dataclasses.dataclass(frozen=True)
class Projected(Auxiliary):
    """One matrix with an offset, of the pooled feature: (N, M, S, features).

    Attributes:
      features: of the result.
    """

    features: int = 256

    def module(self, name: str, network: nn.Module) -> nn.Module:
        """See `Auxiliary.module`."""
        return _Projected(self.features, name=name)

    def check(self, path: str, features: tuple[str, ...]) -> None:
        """See `Auxiliary.check`."""
        at_least(f"{path}.features", self.features, 1)


@dataclasses.dataclass(frozen=True)
class Shifted(Auxiliary):
    """A second feature (N, M, S, D): of the mean t of the last map, MLP(t + softmax(t)).

    The MLP normalises, widens by a factor, applies a GELU and narrows again. The map is cut into stripes as the pooled
    feature's is.

    Source: Jiang et al., "Domain Shifting", ECCV 2024 (DNS), common space shifting; its dropout (0.01) is left out.

    Attributes:
      factor: hidden units are that many times D.
    """

    factor: int = 4

    def module(self, name: str, network: nn.Module) -> nn.Module:
        """See `Auxiliary.module`."""
        config = network.config  # type: ignore[attr-defined]
        pool = dataclasses.replace(config.pool, kind="avg", learned=False)
        return _Shifted(pool, self.factor, name=name)

    def check(self, path: str, features: tuple[str, ...]) -> None:
        """See `Auxiliary.check`."""
        at_least(f"{path}.factor", self.factor, 1)


@dataclasses.dataclass(frozen=True)
class Linearly(Auxiliary):
    """A feature times a matrix (N, M, S, features), with an offset: what is ranked and not retrieved by.

    Attributes:
      of: "embedding", "pooled", or what a part before this one gives.
      features: of the result.
    """

    of: str = "embedding"
    features: int = 1024

    def module(self, name: str, network: nn.Module) -> nn.Module:
        """See `Auxiliary.module`."""
        return _Linearly(self.of, self.features, name=name)

    def check(self, path: str, features: tuple[str, ...]) -> None:
        """See `Auxiliary.check`."""
        check_names(f"{path}.of", [self.of], features)
        at_least(f"{path}.features", self.features, 1)


@dataclasses.dataclass(frozen=True)
class Exchanged(Auxiliary):
    """Scores of features by the classifier of their own base, and by a slow copy of the other base's.

    An array (N, M, S, F, 2, C): for each of the F features, its own scores and those of the copy, which pass no
    gradient.
    A copy moves by 1 - `decay` of the way to its classifier at every step, before it is used.

    Source: Jiang et al., "Domain Shifting", ECCV 2024 (DNS), domain distillation.

    Attributes:
      of: the features: "embedding", "pooled", or what a part before this one gives.
      decay: share of the copy that stays at a step.
    """

    of: tuple[str, ...]
    decay: float = 0.8

    def module(self, name: str, network: nn.Module) -> nn.Module:
        """See `Auxiliary.module`."""
        return _Exchanged(self.of, self.decay, network.num_classes, name=name)  # type: ignore[attr-defined]

    def check(self, path: str, features: tuple[str, ...]) -> None:
        """See `Auxiliary.check`."""
        check_names(f"{path}.of", self.of, features)
        within(f"{path}.decay", self.decay, 0, 1)


class _Projected(nn.Module):
    features: int

    @nn.compact
    def __call__(self, outputs: dict[str, Any], bases: tuple[int, ...]) -> jax.Array:
        return nn.Dense(self.features, kernel_init=small, name="matrix")(outputs["pooled"])


class _Shifted(nn.Module):
    pool: Pool
    factor: int

    @nn.compact
    def __call__(self, outputs: dict[str, Any], bases: tuple[int, ...]) -> jax.Array:
        mean = jnp.stack(self.pool(self, outputs["map"].astype(jnp.float32)), 2)
        x = nn.LayerNorm(epsilon=1e-5, name="norm")(mean + jax.nn.softmax(mean))
        wide = nn.Dense(self.factor * x.shape[-1], kernel_init=small, name="wide")(x)
        return nn.Dense(x.shape[-1], kernel_init=small, name="narrow")(nn.gelu(wide, approximate=False))


class _Linearly(nn.Module):
    of: str
    features: int

    @nn.compact
    def __call__(self, outputs: dict[str, Any], bases: tuple[int, ...]) -> jax.Array:
        return nn.Dense(self.features, kernel_init=small, name="matrix")(outputs[self.of])


class _Exchanged(nn.Module):
    of: tuple[str, ...]
    decay: float
    classes: int

    @nn.compact
    def __call__(self, outputs: dict[str, Any], bases: tuple[int, ...]) -> jax.Array:
        shape = (outputs[self.of[0]].shape[-1], self.classes)
        kernels = [self.param(f"kernel_{word}", small, shape, jnp.float32) for word in WORDS]
        copies = []
        for word, kernel in zip(WORDS, kernels, strict=True):
            kernel = jax.lax.stop_gradient(kernel)
            copy = self.variable("batch_stats", f"copy_{word}", lambda kernel=kernel: kernel)
            if not self.is_initializing():
                copy.value = self.decay * copy.value + (1 - self.decay) * kernel
            copies.append(copy.value)
        scores = [
            jnp.stack([self._scores(outputs[name], kernels, bases), self._others(outputs[name], copies, bases)], 3)
            for name in self.of
        ]
        return jnp.stack(scores, 3)

    def _scores(self, x_NMSD: jax.Array, kernels: list[jax.Array], bases: tuple[int, ...]) -> jax.Array:
        return jnp.stack([x_NMSD[:, m] @ kernels[base] for m, base in enumerate(bases)], 1)

    def _others(self, x_NMSD: jax.Array, copies: list[jax.Array], bases: tuple[int, ...]) -> jax.Array:
        return self._scores(jax.lax.stop_gradient(x_NMSD), copies[::-1], bases)
