"""What a loss sees, made by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import small

from bdf_jax.losses.terms import Scope
from bdf_jax.method import find


def scope(P, labels=None, views=("V", "I"), bases=(0, 1), **outputs) -> Scope:
    """Of arrays (N, M, S, D) by name, and `logits` by head."""
    outputs = jax.tree.map(jnp.asarray, outputs)
    N = len(jax.tree.leaves(outputs)[0])
    return Scope(
        {"views": views, **outputs},
        jnp.repeat(jnp.arange(P), N // P) if labels is None else jnp.asarray(labels),
        shape=(P, N // P),
        bases=bases,
        gather=lambda x: x,
        critic=lambda name, x: x,
    )


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def unit(vector):
    return vector / np.sqrt(sum(x * x for x in vector))


def far(a, b):
    return np.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)))


def parameters(method, classes=395) -> int:
    """How many a method has."""
    value = find(method)
    network = small.base_derivative(value.network, classes, value.views)
    images = dict.fromkeys("VI", jnp.zeros((1, 64, 32, 3)))
    shapes = jax.eval_shape(lambda x: network.init(jax.random.key(0), x, train=True), images)["params"]
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))
