"""What adversarial losses are made of."""

from __future__ import annotations

import functools

import jax


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def reversed_gradient(x: jax.Array, factor: float) -> jax.Array:
    """`x` itself, with its gradient times -`factor`."""
    return x


def _kept(x: jax.Array, factor: float) -> tuple[jax.Array, None]:
    return x, None


def _turned(factor: float, _: None, gradient: jax.Array) -> tuple[jax.Array]:
    return (-factor * gradient,)


reversed_gradient.defvjp(_kept, _turned)
