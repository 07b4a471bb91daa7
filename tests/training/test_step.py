"""Slices and rematerialisation: the same step with less in memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend import core

from bdf_jax import losses
from bdf_jax.augment import augment, step_key
from bdf_jax.config import Config, vary
from bdf_jax.errors import BdfError
from bdf_jax.models import Network
from bdf_jax.training.analysis import analyse, kept_for_the_gradient
from bdf_jax.training.compile import compile_step
from bdf_jax.training.optimiser import make_optimiser
from bdf_jax.training.state import initial_state
from bdf_jax.training.step import train_step

P, K = 4, 4
TINY = vary(
    Config(),
    {"data.image_size": (32, 16), "data.identities": P, "data.images": K, "model.arch": "tiny", "augment.pad": 2},
)

PARTED = {"model.split_at": 1, "model.bn": "per_modality"}


def plain(config):
    """A network and an optimiser whose update is the negative gradient, so that a step shows it."""
    return Network(config.model, 7), optax.sgd(1.0)


def batch(seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (P * K, 2, 32, 16, 3), dtype=np.uint8)
    return images, np.repeat(rng.permutation(7)[:P], K).astype(np.int32)


def one_step(config):
    network, optimiser = plain(config)
    state = initial_state(network, optimiser, 0, config.data.image_size)
    step = functools.partial(train_step, network=network, optimiser=optimiser, config=config, gather=lambda x: x)
    return state, *jax.jit(step)(state, *batch())


def by_definition(config, state):
    """All features slice by slice in a plain loop, one loss over all of them, one gradient of everything."""
    network, _ = plain(config)
    images, labels = batch()
    images = augment(jnp.asarray(images), step_key(config.training.seed, 0), config.augment, first_pair=0)
    slices = config.training.slices

    def loss(params):
        features, logits = np.zeros(P * K, object), np.zeros(P * K, object)
        statistics = []
        for s in range(slices):
            pairs = range(s, P * K, slices)
            outputs, updates = network.apply(
                {"params": params, "batch_stats": state.batch_stats},
                images[jnp.asarray(pairs)],
                train=True,
                mutable=["batch_stats"],
            )
            for i, pair in enumerate(pairs):
                features[pair], logits[pair] = outputs["features"][i], outputs["logits"][i]
            statistics.append(updates["batch_stats"])
        features_PKMD = jnp.stack(list(features)).reshape(P, K, 4, -1)
        logits_PKMC = jnp.stack(list(logits)).reshape(P, K, 4, -1)
        settings = config.loss
        did = losses.did_loss(logits_PKMC, jnp.asarray(labels[::K]), label_smoothing=settings.label_smoothing)
        mml = losses.mml_loss(features_PKMD, margin=settings.mml_margin)
        mdl = losses.mdl_loss(features_PKMD, margin=settings.mdl_margin)
        mean = jax.tree.map(lambda *leaves: sum(leaves) / slices, *statistics)
        return did + mml + settings.mdl_weight * mdl, mean

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(state.params)


def test_the_gradient_of_slices_is_that_of_one_loss_over_all_features():
    config = vary(TINY, {"training.slices": 4})
    state, after, metrics = one_step(config)
    (loss, statistics), gradients = by_definition(config, state)

    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    found = jax.tree.map(lambda before, now: before - now, state.params, after.params)
    largest = optax.tree.norm(gradients)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * largest), found, gradients)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), after.batch_stats, statistics)


@pytest.mark.smoke
def test_more_slices_need_less_memory():
    sizes = [
        analyse(vary(TINY, {"training.slices": slices, "data.image_size": (64, 32)}), 7).temporary for slices in (1, 4)
    ]
    assert sizes[1] < 0.5 * sizes[0]


@pytest.mark.parametrize("slices", [3, 32])
def test_slices_that_do_not_divide_the_batch_are_refused_by_name(slices):
    config = vary(TINY, {"training.slices": slices})
    with pytest.raises(BdfError, match=rf"training.slices.*16 pairs.*{slices}"):
        compile_step(*plain(config), config)


@pytest.mark.parametrize("arch", ["resnet18", "resnet50", "mobilenet_v2"])
def test_rematerialisation_keeps_less_for_the_gradient(arch):
    none, block, stage = (
        kept_for_the_gradient(vary(TINY, {"model.arch": arch, "model.remat": remat, "data.image_size": (256, 128)}), 7)
        for remat in ("none", "block", "stage")
    )
    assert stage < 0.5 * block < 0.25 * none


@pytest.fixture(scope="module")
def without_rematerialisation():
    return one_step(vary(TINY, PARTED))[1:]


@pytest.mark.parametrize("remat", ["stage", "block"])
def test_rematerialisation_changes_no_number_beyond_rounding(without_rematerialisation, remat):
    expected, expected_metrics = without_rematerialisation
    _, found, metrics = one_step(vary(TINY, PARTED | {"model.remat": remat}))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), metrics, expected_metrics)


def equations(jaxpr):
    """Every equation of a program, those of its inner programs too."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in core.jaxprs_in_params(equation.params):
            yield from equations(inner)


# What statistics, distances, losses and the optimiser are made of.
PRECISE = {"sqrt", "rsqrt", "exp", "log", "log1p", "logistic", "square", "integer_pow", "pow", "argmax", "sort"}


@pytest.mark.parametrize(("arch", "slices"), [("tiny", 1), ("resnet18", 2)])
def test_bfloat16_is_for_convolutions_and_what_lies_between_them(arch, slices):
    """The whole step, gradients and update included: parameters, statistics, distances and losses stay float32."""
    config = vary(TINY, {"model.dtype": "bfloat16", "model.arch": arch, "training.slices": slices})
    network, optimiser = Network(config.model, 7), make_optimiser(config, 10)
    step = functools.partial(train_step, network=network, optimiser=optimiser, config=config, gather=lambda x: x)
    state = jax.eval_shape(lambda: initial_state(network, optimiser, 0, config.data.image_size))
    program, (after, metrics) = jax.make_jaxpr(step, return_shape=True)(state, *batch())
    assert jax.tree.map(lambda leaf: leaf.dtype, after) == jax.tree.map(lambda leaf: leaf.dtype, state)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(state)} == {"float32", "int32"}
    assert {str(value.dtype) for value in metrics.values()} == {"float32"}

    low = jnp.dtype(jnp.bfloat16)
    convolutions = 0
    for equation in equations(program.jaxpr):
        name, types = equation.primitive.name, {getattr(v.aval, "dtype", None) for v in equation.invars}
        if name == "conv_general_dilated":
            convolutions += 1
            assert types == {low}
        if low in types and (name in PRECISE or name.startswith("reduce_")):
            # The maximum of a pooling window and its gradient, which counts the elements that are equal to it.
            assert name in ("reduce_max", "reduce_sum")
            assert equation.invars[0].aval.size <= 4 * equation.outvars[0].aval.size
    assert convolutions
