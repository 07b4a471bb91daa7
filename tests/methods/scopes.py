"""What a loss sees, made by hand; and a step's loss and gradient, compiled or not."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import small

from bdf_jax.losses.terms import Scope
from bdf_jax.method import find
from bdf_jax.models import Network
from bdf_jax.training.stages import divided, make_optimisers, phases
from bdf_jax.training.state import initial_state
from bdf_jax.training.step import train_step


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


def check_compiled(config) -> None:
    """Loss and squared norm of the gradient of every stage are what they are without a compiler."""
    network = Network.of(config, 7)
    state = initial_state(network, config)
    plain = {name: optax.sgd(1.0) for name in make_optimisers(config, 100)}
    state = state.replace(
        opt_state={name: plain[name].init(part) for name, part in divided(state.params, config).items()}
    )
    P, K = config.data.identities, config.data.images
    images = np.random.default_rng(0).integers(0, 256, (P * K, 2, 8, 4, 3), dtype=np.uint8).repeat(4, 2).repeat(4, 3)
    labels = np.repeat(np.arange(P), K).astype(np.int32)
    for phase in phases(config, 300):

        def loss_and_norm(state, phase=phase):
            _, metrics = train_step(
                state, images, labels, network=network, optimisers=plain, config=config, phase=phase, gather=lambda x: x
            )
            return metrics["loss"], jnp.square(metrics["gradient_norm"])

        with jax.disable_jit():
            expected = loss_and_norm(state)
        np.testing.assert_allclose(jax.jit(loss_and_norm)(state), expected, rtol=2e-3)
