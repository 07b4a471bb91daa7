"""Slices and rematerialisation: the same step with less in memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small
from jax.extend import core

from bdf_jax import losses
from bdf_jax.augment import augment, step_key
from bdf_jax.config import Group, Stage, vary
from bdf_jax.errors import BdfError
from bdf_jax.models import Network
from bdf_jax.training.analysis import analyse, kept_for_the_gradient
from bdf_jax.training.compile import compile_step
from bdf_jax.training.optimiser import SGD
from bdf_jax.training.stages import divided, make_optimisers, phases
from bdf_jax.training.state import TrainState, initial_state
from bdf_jax.training.step import train_step

P, K = 4, 4
SMALL = {"data.identities": P, "data.images": K, "augment.pad": 2}
TINY = small.tiny_method(replaces=SMALL)

PARTED = {"network.split_at": 1, "network.bn": "per_view"}


def step_of(config, network, **optimisers):
    """The step of the first stage."""
    phase = phases(config, 100)[0]
    optimisers = make_optimisers(config, 100) | optimisers
    return functools.partial(
        train_step, network=network, optimisers=optimisers, config=config, phase=phase, gather=lambda x: x
    )


def batch(seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (P * K, 2, 32, 16, 3), dtype=np.uint8)
    return images, np.repeat(rng.permutation(7)[:P], K).astype(np.int32)


def one_step(config):
    """Its update is the negative gradient, so that the step shows it."""
    network, plain = Network.of(config, 7), optax.sgd(1.0)
    state = initial_state(network, config)
    state = state.replace(opt_state={"main": plain.init(state.params)})
    return state, *jax.jit(step_of(config, network, main=plain))(state, *batch())


def by_definition(config, state):
    """All features slice by slice in a plain loop, one loss over all of them, one gradient of everything."""
    network = Network.of(config, 7)
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
                {name: images[jnp.asarray(pairs), base] for base, name in enumerate("VI")},
                train=True,
                mutable=["batch_stats"],
            )
            for i, pair in enumerate(pairs):
                features[pair], logits[pair] = outputs["pooled"][i, :, 0], outputs["logits"]["classifier"][i, :, 0]
            statistics.append(updates["batch_stats"])
        features_PKMD = jnp.stack(list(features)).reshape(P, K, 4, -1)
        logits_PKMC = jnp.stack(list(logits)).reshape(P, K, 4, -1)
        did = losses.did_loss(logits_PKMC, jnp.asarray(labels[::K]), label_smoothing=0.1)
        mml = losses.mml_loss(features_PKMD, margin=0.3)
        mdl = losses.mdl_loss(features_PKMD, margin=0.5)
        mean = jax.tree.map(lambda *leaves: sum(leaves) / slices, *statistics)
        return did + mml + 0.1 * mdl, mean

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
        compile_step(Network.of(config, 7), config, phases(config, 100)[0], 100)


@pytest.mark.parametrize("arch", ["resnet18", "resnet50", "mobilenet_v2"])
def test_rematerialisation_keeps_less_for_the_gradient(arch):
    large = vary(TINY, {"network.trunk": small.trunk(arch), "data.image_size": (256, 128)})
    none, block, stage = (
        kept_for_the_gradient(vary(large, {"network.remat": remat}), 7) for remat in ("none", "block", "stage")
    )
    assert stage < 0.5 * block < 0.25 * none


@pytest.fixture(scope="module")
def without_rematerialisation():
    return one_step(vary(TINY, PARTED))[1:]


@pytest.mark.parametrize("remat", ["stage", "block"])
def test_rematerialisation_changes_no_number_beyond_rounding(without_rematerialisation, remat):
    expected, expected_metrics = without_rematerialisation
    _, found, metrics = one_step(vary(TINY, PARTED | {"network.remat": remat}))
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
    config = vary(TINY, {"network.dtype": "bfloat16", "network.trunk": small.trunk(arch), "training.slices": slices})
    network = Network.of(config, 7)
    state = jax.eval_shape(lambda: initial_state(network, config))
    program, (after, metrics) = jax.make_jaxpr(step_of(config, network), return_shape=True)(state, *batch())
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


STAGED = {
    "stages.first": Stage(epochs=1, groups=("critics",), losses=("gan",)),
    "stages.second": Stage(epochs=2),
}


@pytest.fixture(scope="module")
def staged():
    """cmGAN with its critic alone at first."""
    config = small.tiny_method("cmgan", replaces=SMALL | STAGED)
    network = Network.of(config, 7)
    return config, network, initial_state(network, config)


def test_what_a_stage_does_not_train_stays_bit_identical(staged):
    config, network, state = staged
    after, metrics = jax.jit(step_of(config, network))(state, *batch())
    same = jax.tree.map(lambda a, b: bool((a == b).all()), divided(state.params, config), divided(after.params, config))
    assert all(jax.tree.leaves(same["main"]))
    assert not any(jax.tree.leaves({n: t["kernel"] for n, t in same["critics"]["critic_modality"].items()}))
    jax.tree.map(np.testing.assert_array_equal, after.opt_state["main"], state.opt_state["main"])
    assert set(config.losses) & set(metrics) == {"gan"}  # what is switched off is not computed
    assert [(phase.name, phase.stop) for phase in phases(config, 30)] == [("first", 10), ("second", 30)]


def test_groups_with_the_same_losses_learn_as_one_group_with_one_optimiser_would():
    """The gradient of each group is its part of the gradient of the sum, bit for bit."""
    one = small.tiny_method("xiv", replaces=SMALL)
    two = vary(one, {"groups.rest": Group(("layer4", "head"), one.optimiser)})
    networks = [Network.of(config, 7) for config in (one, two)]
    after = [
        jax.jit(step_of(config, network))(initial_state(network, config), *batch())[0]
        for config, network in zip((one, two), networks, strict=True)
    ]
    jax.tree.map(np.testing.assert_array_equal, after[0].params, after[1].params)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups.more": Group(("nothing",), SGD())}, "groups.more: no parameters are in it; the network has"),
        ({"groups.a": Group(("layer4",), SGD()), "groups.b": Group(("layer*",), SGD())}, "'layer4' are in a and b"),
    ],
)
def test_every_parameter_is_in_one_group(changes, message):
    config = vary(TINY, changes)
    with pytest.raises(BdfError, match=message):
        initial_state(Network.of(config, 7), config)


def test_a_group_without_a_loss_is_refused():
    config = small.tiny_method("cmgan", replaces=SMALL | {"losses.gan.weight": 0.0})
    with pytest.raises(BdfError, match="'critics' learns from no loss in stage 'train'"):
        phases(config, 10)


def test_weights_of_zero_are_logged_and_not_trained_with():
    with_it, without = (
        small.tiny_method(replaces=SMALL | change) for change in ({"losses.mdl.weight": 0.0}, {"losses.mdl": None})
    )
    (_, one, metrics), (_, other, fewer) = one_step(with_it), one_step(without)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one.params, other.params)
    assert metrics["mdl"] > 0
    assert "mdl" not in fewer
    assert isinstance(one, TrainState)
