"""Losses of methods that make images out of codes: reconstruction, priors, critics at several scales, alignment."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

import jax
import jax.numpy as jnp

from bdf_jax.errors import BdfError, at_least, check_names
from bdf_jax.losses.terms import Loss, Scope, Terms
from bdf_jax.pixels import signed

if TYPE_CHECKING:
    from bdf_jax.config import Config


def symmetric_kl(moving_NC: jax.Array, still_NC: jax.Array) -> jax.Array:
    """Mean over rows of KL(p || q) + KL(q || p) of two softmaxes; only the first has a gradient.

    Source: the alignment of Wang et al., AAAI 2020 (JSIA).
    """
    log_p, log_q = jax.nn.log_softmax(moving_NC), jax.lax.stop_gradient(jax.nn.log_softmax(still_NC))
    return ((jnp.exp(log_p) - jnp.exp(log_q)) * (log_p - log_q)).sum(-1).mean()


def least_squares(said: jax.Array | list[jax.Array], target: float) -> jax.Array:
    """Mean over places of (score - target)^2, summed over a critic's scales.

    Source: Mao et al., "Least Squares Generative Adversarial Networks", ICCV 2017.
    """
    return sum((jnp.square(scores - target).mean() for scores in jax.tree.leaves(said)), jnp.zeros(()))


def gradient_penalty(critic: object, images_NHWC: jax.Array) -> jax.Array:
    """R1: the mean over images of the squared gradient of a critic's scores, for each scale, summed over scales.

    Source: Mescheder et al., "Which Training Methods for GANs do actually Converge?", ICML 2018.
    """

    def scores(images: jax.Array) -> list[jax.Array]:
        return [said.sum() for said in jax.tree.leaves(critic(images))]  # type: ignore[operator]

    values, pull = jax.vjp(scores, images_NHWC)
    total = jnp.zeros(())
    for chosen in range(len(values)):
        (gradient,) = pull([jnp.full_like(value, scale == chosen) for scale, value in enumerate(values)])
        total += jnp.square(gradient).sum() / len(images_NHWC)
    return total


def pairs_of(words: str, path: str) -> list[tuple[str, str]]:
    """("a", "b") of every "a=b"."""
    found = [tuple(word.split("=")) for word in words.replace(",", " ").split()]
    if not found or not all(len(pair) == 2 and all(pair) for pair in found):
        raise BdfError(f"{path}: expected pairs of views such as rec_V=V, found {words!r}")
    return found  # type: ignore[return-value]


@dataclasses.dataclass(frozen=True)
class Alike(Loss):
    """Mean absolute difference of what is said of two views: of their pixels, or of a code.

    Source: reconstruction, cycle and code reconstruction of Huang et al., ECCV 2018 (MUNIT).

    Attributes:
      pairs: "rec_V=V rec_I=I": the views that are to be alike, two and two.
      code: a code's name; empty: pixels.
      pixels: whether pixels are compared as normalised, or as numbers between -1 and 1.
    """

    pairs: str
    code: str = ""
    pixels: Literal["normalised", "signed"] = "normalised"

    def __call__(self, scope: Scope) -> Terms:
        """One term a pair."""
        terms = {}
        for a, b in pairs_of(self.pairs, "pairs"):
            of_a, of_b = (scope.code(self.code, view).astype(jnp.float32) for view in (a, b))
            if not self.code and self.pixels == "signed":
                of_a, of_b = signed(of_a), signed(of_b)
            terms[f"{a}={b}"] = jnp.abs(of_a - of_b).mean()
        return terms

    def looks_at(self) -> tuple[tuple[str, str], ...]:
        """See `Loss.looks_at`."""
        return tuple((self.code, view) for pair in pairs_of(self.pairs, "pairs") for view in pair)

    def check(self, path: str, views: tuple[str, ...], config: Config) -> None:
        """See `Loss.check`."""
        super().check(path, views, config)
        pairs_of(self.pairs, f"{path}.pairs")


@dataclasses.dataclass(frozen=True)
class Small(Loss):
    """Mean square of a code, the prior of a normal distribution: KL to it but for its variance.

    Attributes:
      code: its name.
      of: of which views.
    """

    code: str
    of: tuple[str, ...]

    def __call__(self, scope: Scope) -> Terms:
        """One term a view."""
        return {view: jnp.square(scope.code(self.code, view)).mean() for view in self.of}

    def looks_at(self) -> tuple[tuple[str, str], ...]:
        """See `Loss.looks_at`."""
        return tuple((self.code, view) for view in self.of)


@dataclasses.dataclass(frozen=True)
class Fools(Loss):
    """Made images are to be called real: least squares against 1.

    Attributes:
      critics: "CRITIC=VIEW": who looks at what.
    """

    critics: str

    def __call__(self, scope: Scope) -> Terms:
        """One term a view."""
        return {
            view: least_squares(scope.critic(critic, scope.pixels(view)), 1.0)
            for critic, view in pairs_of(self.critics, "critics")
        }

    def looks_at(self) -> tuple[tuple[str, str], ...]:
        """See `Loss.looks_at`."""
        return tuple(("", view) for _, view in pairs_of(self.critics, "critics"))

    def check(self, path: str, views: tuple[str, ...], config: Config) -> None:
        """See `Loss.check`."""
        super().check(path, views, config)
        known = pairs_of(self.critics, f"{path}.critics")
        check_names(f"{path}.critics", [critic for critic, _ in known], tuple(config.network.critics))


@dataclasses.dataclass(frozen=True)
class Tells(Loss):
    """Critics call real images 1 and made ones 0: least squares, and where asked R1 on the real ones.

    Made images pass no gradient to their makers.

    Attributes:
      critics: "CRITIC=REAL:MADE": who tells what from what.
      penalty: factor of the gradient penalty; see `gradient_penalty`.
    """

    critics: str
    penalty: float = 0.0

    def _triples(self, path: str = "critics") -> list[tuple[str, str, str]]:
        found = []
        for critic, views in pairs_of(self.critics, path):
            real, colon, made = views.partition(":")
            if not colon or not real or not made:
                raise BdfError(f"{path}: expected words such as visible=V:fake_V, found {critic}={views}")
            found.append((critic, real, made))
        return found

    def __call__(self, scope: Scope) -> Terms:
        """One term a made view."""
        terms = {}
        for critic, real, made in self._triples():
            images = scope.pixels(real)
            term = least_squares(scope.critic(critic, images), 1.0)
            term += least_squares(scope.critic(critic, jax.lax.stop_gradient(scope.pixels(made))), 0.0)
            if self.penalty:

                def look(x: jax.Array, critic: str = critic) -> jax.Array:
                    return scope.critic(critic, x)

                term += self.penalty * gradient_penalty(look, images)
            terms[made] = term
        return terms

    def looks_at(self) -> tuple[tuple[str, str], ...]:
        """See `Loss.looks_at`."""
        return tuple(("", view) for _, *views in self._triples() for view in views)

    def check(self, path: str, views: tuple[str, ...], config: Config) -> None:
        """See `Loss.check`."""
        super().check(path, views, config)
        at_least(f"{path}.penalty", self.penalty, 0)
        triples = self._triples(f"{path}.critics")
        check_names(f"{path}.critics", [critic for critic, *_ in triples], tuple(config.network.critics))


@dataclasses.dataclass(frozen=True)
class Aligned(Loss):
    """What is said of a made image is to be what is said of the real one of the same content; see `symmetric_kl`.

    Attributes:
      pairs: "made=real ...": views that enter the trunk.
      head: whose scores.
    """

    pairs: str
    head: str = "classifier"

    def __call__(self, scope: Scope) -> Terms:
        """One term a pair, mean over stripes."""
        logits_NMSC, terms = scope.logits(self.head), {}
        for made, real in pairs_of(self.pairs, "pairs"):
            m, r = scope.position(made, real)
            stripes = [symmetric_kl(logits_NMSC[:, m, s], logits_NMSC[:, r, s]) for s in range(logits_NMSC.shape[2])]
            terms[f"{made}={real}"] = jnp.stack(stripes).mean()
        return terms

    def check(self, path: str, views: tuple[str, ...], config: Config) -> None:
        """See `Loss.check`."""
        super().check(path, views, config)
        check_names(f"{path}.head", [self.head], tuple(config.network.heads))
        for pair in pairs_of(self.pairs, f"{path}.pairs"):
            check_names(f"{path}.pairs", pair, views)
