"""Losses between the distributions of two bases: DNS's circle, alignment and distillation."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from bdf_jax.errors import BdfError, at_least
from bdf_jax.losses.ranking import unit
from bdf_jax.losses.terms import Feature, Loss, Terms
from bdf_jax.models.auxiliary import Auxiliary, Exchanged, Shifted

if TYPE_CHECKING:
    from bdf_jax.config import Config
    from bdf_jax.losses.terms import Scope


def circle_loss(features_ND: jax.Array, pids_N: jax.Array, *, margin: float = 0.45, gamma: float = 64.0) -> jax.Array:
    """One circle loss for all pairs of images, of their cosine s.

        a_p = [1 + margin - s]_+ and a_n = [s + margin]_+, through which no gradient passes
        S_p = sum over positives of exp(-gamma a_p (s - 1 + margin))
        S_n = sum over negatives of exp(gamma a_n (s - margin))          loss = log(1 + S_n S_p)

    Args:
      features_ND: (N, D) float. Computed in float32.
      pids_N: (N,) int, who it is: a pair is positive where they are equal.
      margin: relaxation of the goals 1 and 0.
      gamma: scale.

    Returns:
      () float32.

    References:
      Sun et al., "Circle Loss: A Unified Perspective of Pair Similarity Optimization", CVPR 2020, equation 6.
    """
    unit_ND = unit(features_ND.astype(jnp.float32))
    cosine_NN = jnp.dot(unit_ND, unit_ND.T, precision="highest")
    pair_NN = jnp.triu(jnp.ones(cosine_NN.shape, bool), 1)
    positive_NN = pids_N[:, None] == pids_N[None]
    weight_p, weight_n = jax.lax.stop_gradient((jax.nn.relu(1 + margin - cosine_NN), jax.nn.relu(cosine_NN + margin)))
    from_p = _logsumexp(-gamma * weight_p * (cosine_NN - (1 - margin)), pair_NN & positive_NN)
    from_n = _logsumexp(gamma * weight_n * (cosine_NN - margin), pair_NN & ~positive_NN)
    return jax.nn.softplus(from_p + from_n)


def _logsumexp(x: jax.Array, chosen: jax.Array) -> jax.Array:
    return jax.nn.logsumexp(jnp.where(chosen, x, -jnp.inf))


def mmd_loss(x_ND: jax.Array, y_ND: jax.Array) -> jax.Array:
    """Maximum mean discrepancy of two sets of features: mean k(x, x) + mean k(y, y) - 2 mean k(x, y).

    k is the sum of five Gaussian kernels exp(-|a - b|^2 / w) with w = 1/4, 1/2, 1, 2 and 4 times the mean squared
    distance of two different features of both sets, through which no gradient passes.

    Args:
      x_ND: (N, D) float. Computed in float32.
      y_ND: (N', D) float.

    Returns:
      () float32.

    References:
      Long et al., "Learning Transferable Features with Deep Adaptation Networks", ICML 2015, for the kernels.
    """
    z_ND = jnp.concatenate([x_ND, y_ND]).astype(jnp.float32)
    n, N = len(x_ND), len(z_ND)
    square_N = jnp.square(z_ND).sum(-1)
    product_NN = jnp.dot(z_ND, z_ND.T, precision="highest")
    squared_NN = jnp.maximum(square_N[:, None] + square_N[None] - 2 * product_NN, 0)
    # The floor is for features that are all equal, of which no kernel is wide enough.
    mean = jax.lax.stop_gradient(jnp.maximum(squared_NN.sum() / (N * N - N), 1e-6))
    k_NN = jnp.stack([jnp.exp(-squared_NN / (mean * width)) for width in (0.25, 0.5, 1.0, 2.0, 4.0)]).sum(0)
    return k_NN[:n, :n].mean() + k_NN[n:, n:].mean() - 2 * k_NN[:n, n:].mean()


@dataclasses.dataclass(frozen=True)
class Circle(Loss):
    """The circle loss of all images of all views, over their number; see `circle_loss`.

    Attributes:
      margin: relaxation.
      gamma: scale.
      on: the feature that is compared; the mean over stripes.
    """

    margin: float = 0.45
    gamma: float = 64.0
    on: Feature = "embedding"

    def __call__(self, scope: Scope) -> Terms:
        """One term."""
        found = []
        for features_PKMD in scope.gathered(self.on):
            P, K, M, D = features_PKMD.shape
            pids_N = jnp.repeat(jnp.arange(P), K * M)
            found.append(
                circle_loss(features_PKMD.reshape(-1, D), pids_N, margin=self.margin, gamma=self.gamma) / (P * K * M)
            )
        return {"": jnp.stack(found).mean()}

    def check(self, path: str, views: tuple[str, ...], config: Config) -> None:
        """See `Loss.check`."""
        super().check(path, views, config)
        at_least(f"{path}.margin", self.margin, 0)
        if not self.gamma > 0:
            raise BdfError(f"{path}.gamma: expected more than 0, found {self.gamma}")


@dataclasses.dataclass(frozen=True)
class Alignment(Loss):
    """Two features of both bases, alike in distribution: `mmd_loss` of their unit vectors.

    Source: Jiang et al., "Domain Shifting", ECCV 2024 (DNS), domain alignment.

    Attributes:
      second: the other feature, a part of `network.auxiliary`; the one is pooled.
      across: weight of a feature of V and the same one of I.
      within: weight of the two features of one base.
    """

    second: str
    across: float = 0.45
    within: float = 0.05

    def __call__(self, scope: Scope) -> Terms:
        """The terms "across" and "within", mean over stripes."""
        across, within = [], []
        for stripes in zip(scope.gathered("pooled"), scope.gathered(self.second), strict=True):
            (zv, zi), (sv, si) = ([self._of(x, m) for m in scope.position("V", "I")] for x in stripes)
            across.append(mmd_loss(zv, zi) + mmd_loss(sv, si))
            within.append(mmd_loss(zv, sv) + mmd_loss(zi, si))
        return {
            "across": self.across * jnp.stack(across).mean(),
            "within": self.within * jnp.stack(within).mean(),
        }

    def _of(self, features_PKMD: jax.Array, m: int) -> jax.Array:
        return unit(features_PKMD[:, :, m].reshape(-1, features_PKMD.shape[-1]).astype(jnp.float32))

    def check(self, path: str, views: tuple[str, ...], config: Config) -> None:
        """See `Loss.check`."""
        super().check(path, views, config)
        check_auxiliary(f"{path}.second", self.second, config, Shifted)
        at_least(f"{path}.across", self.across, 0)
        at_least(f"{path}.within", self.within, 0)


@dataclasses.dataclass(frozen=True)
class Distillation(Loss):
    """What the classifier of one base says of its own features, and a copy of the other's, is to be the same.

    Of each feature: the sum over classes of p log(p / q), with p of its own classifier and q of the copy, which passes
    no gradient; and the cross-entropy of p in each base.

    Source: Jiang et al., "Domain Shifting", ECCV 2024 (DNS), domain distillation.

    Attributes:
      of: a part of `network.auxiliary`, `Exchanged`.
      identity: weight of the cross-entropies.
    """

    of: str
    identity: float = 0.25

    def __call__(self, scope: Scope) -> Terms:
        """The terms "apart" and "identity", means over images and stripes, sums over features."""
        scores = jax.nn.log_softmax(scope.local(self.of).astype(jnp.float32))
        own, copied = scores[..., 0, :], scores[..., 1, :]  # (N, M, S, F, C)
        apart = (jnp.exp(own) * (own - copied)).sum(-1).mean((0, 1, 2)).sum()
        target = jax.nn.one_hot(scope.labels_N, own.shape[-1])[:, None, None, None]
        entropy_M = -(own * target).sum((-2, -1)).mean((0, 2))
        return {"apart": apart, "identity": self.identity * entropy_M.sum()}

    def check(self, path: str, views: tuple[str, ...], config: Config) -> None:
        """See `Loss.check`."""
        super().check(path, views, config)
        check_auxiliary(f"{path}.of", self.of, config, Exchanged)
        at_least(f"{path}.identity", self.identity, 0)


def check_auxiliary(path: str, name: str, config: Config, kind: type[Auxiliary]) -> None:
    """Raises BdfError where the network has no such part that only training has."""
    parts = config.network.auxiliary
    if not isinstance(parts.get(name), kind):
        known = ", ".join(f"{other} ({type(part).__name__})" for other, part in parts.items()) or "none"
        raise BdfError(
            f"{path}: expected the name of a part {kind.__name__} of network.auxiliary, found {name!r}; it has {known}"
        )
