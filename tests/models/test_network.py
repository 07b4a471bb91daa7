"""The four-modality network: shapes, branches, statistics, gradients."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdf_jax.config import GeneratorConfig, ModelConfig
from bdf_jax.errors import BdfError
from bdf_jax.models import Network, feature_size, initial_variables

TINY = ModelConfig(arch="tiny")
SIZE = (32, 16)


def images(n=3, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(n, 2, *SIZE, 3)).astype(np.float32))


@functools.cache
def build(**changes):
    config = dataclasses.replace(TINY, **changes)
    network = Network(config, 10)
    return network, initial_variables(network, 0, SIZE)


@functools.partial(jax.jit, static_argnums=0)
def train(network, variables, x):
    """Outputs and updated statistics."""
    outputs, updates = network.apply(variables, x, train=True, mutable=["batch_stats"])
    return _arrays(outputs), updates


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def infer(network, variables, x, bases=(0, 1), derive=True):
    return _arrays(network.apply(variables, x, train=False, bases=bases, derive=derive))


def _arrays(outputs):
    return {**outputs, "modalities": jnp.asarray(outputs["modalities"])}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"split_at": 1},
        {"split_at": 2, "bn": "per_modality"},
        {"split_at": 5},
        {"bn": "per_modality"},
        {"stripes": 4, "pool": "gem"},
        {"pool": "max"},
        {"generator": GeneratorConfig(kind="middle")},
        {"generator": GeneratorConfig(kind="gray")},
        {"generator": GeneratorConfig(tied=True)},
        {"generator": GeneratorConfig(hidden=8, init="random")},
    ],
    ids=str,
)
def test_named_outputs_have_their_shapes(changes):
    def both(x):
        network = Network(dataclasses.replace(TINY, **changes), 10)
        variables = network.init(jax.random.key(0), x, train=True)
        outputs, _ = network.apply(variables, x, train=True, mutable=["batch_stats"])
        alone = [
            network.apply(variables, x[:, [base]], train=False, bases=(base,), derive=False) for base in (0, 1)
        ]  # inference on one modality
        return [_arrays(o) for o in (outputs, *alone)]

    outputs, *alone = jax.eval_shape(both, images())
    D = feature_size(dataclasses.replace(TINY, **changes))
    assert outputs["features"].shape == outputs["embeddings"].shape == (3, 4, D)
    assert outputs["logits"].shape == (3, 4, 10)
    assert {base: d.shape for base, d in outputs["derivatives"].items()} == {0: (3, *SIZE, 3), 1: (3, *SIZE, 3)}
    assert [o["features"].shape for o in alone] == [(3, 1, D)] * 2


@pytest.mark.parametrize(
    ("derivatives", "modalities"), [("none", (0, 1)), ("visible", (0, 1, 2)), ("infrared", (0, 1, 3))]
)
def test_modalities_that_are_left_out_have_no_parameters(derivatives, modalities):
    network, variables = build(generator=GeneratorConfig(derivatives=derivatives))
    outputs, _ = train(network, variables, images())
    assert tuple(outputs["modalities"].tolist()) == modalities
    generators = {name for name in variables["params"] if name.startswith("generator")}
    assert generators == {f"generator_{('visible', 'infrared')[m - 2]}" for m in modalities if m > 1}


@pytest.mark.parametrize("split_at", range(6))
def test_split_at_counts_the_stages_that_belong_to_one_base(split_at):
    network = Network(dataclasses.replace(TINY, split_at=split_at), 10)
    params = jax.eval_shape(lambda x: network.init(jax.random.key(0), x, train=True), images())["params"]
    stages = ["stem", "layer1", "layer2", "layer3", "layer4"]
    assert [stage for stage in stages if f"{stage}_visible" in params] == stages[:split_at]
    assert [stage for stage in stages if f"{stage}_infrared" in params] == stages[:split_at]
    assert [stage for stage in stages if stage in params] == stages[split_at:]


def test_a_derivative_goes_the_way_of_its_base():
    network, variables = build(split_at=2)
    stem = jax.tree.map(lambda a: a * 2 + 0.1, variables["params"]["stem_infrared"])
    changed = {**variables, "params": {**variables["params"], "stem_infrared": stem}}
    before, after = infer(network, variables, images()), infer(network, changed, images())
    same = [bool((before["features"][:, m] == after["features"][:, m]).all()) for m in range(4)]
    assert same == [True, False, True, False]


def test_a_derivative_depends_on_its_own_base_alone():
    network, variables = build()
    x = images()
    other = x.at[:, 1].add(1.0)
    before, after = (infer(network, variables, y)["derivatives"] for y in (x, other))
    np.testing.assert_array_equal(before[0], after[0])
    assert (before[1] != after[1]).any()


def test_the_generator_starts_as_the_grey_image_with_every_unit_open():
    network, variables = build()
    x = jnp.clip(images(), -2.1, 2.6)  # the range of normalised pixels
    outputs = infer(network, variables, x)
    for base in (0, 1):
        grey = x[:, base].mean(-1, keepdims=True).repeat(3, -1)
        np.testing.assert_allclose(outputs["derivatives"][base], grey, atol=1e-5)
        assert outputs["active"][base] == 1


def test_constant_initialisation_is_what_the_formula_says():
    network, variables = build(generator=GeneratorConfig(init="third"))
    x = images()
    outputs = infer(network, variables, x)
    hidden = np.maximum(np.asarray(x[:, 0]).sum(-1) / 3, 0)
    np.testing.assert_allclose(outputs["derivatives"][0], np.repeat(hidden[..., None] / 3, 3, -1), atol=1e-6)
    np.testing.assert_allclose(outputs["active"][0], (hidden > 0).mean(), atol=1e-6)


@pytest.mark.parametrize("kind", ["pixelwise", "middle"])
def test_gradient_reaches_every_layer_of_both_generators(kind):
    network, variables = build(generator=GeneratorConfig(kind=kind))

    def loss(params):
        outputs, _ = train(network, variables | {"params": params}, images())
        return jnp.square(outputs["features"][:, 2:]).sum()

    gradient = jax.jit(jax.grad(loss))(variables["params"])
    for base in ("visible", "infrared"):
        kernels = [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(gradient[f"generator_{base}"])
                   if "kernel" in str(path)]  # fmt: skip
        assert len(kernels) == 2
        # Behind the second layer of "middle", one weight, batch normalisation takes the gradient of its size away.
        reached = kernels if kind == "pixelwise" else kernels[:1]
        assert all(float(jnp.abs(kernel).sum()) > 0 for kernel in reached)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradient))


def test_a_detached_generator_gets_no_gradient_and_the_network_still_does():
    network, variables = build(generator=GeneratorConfig(detach=True))

    def loss(params):
        outputs, _ = train(network, variables | {"params": params}, images())
        return jnp.square(outputs["features"][:, 2:]).sum()

    gradient = jax.jit(jax.grad(loss))(variables["params"])
    assert all(float(jnp.abs(leaf).max()) == 0 for leaf in jax.tree.leaves(gradient["generator_visible"]))
    assert float(jnp.abs(gradient["stem"]["conv"]["kernel"]).max()) > 0


def test_one_forward_updates_running_statistics_from_all_four_modalities():
    """mean' = 0.9 mean + 0.1 (mean over the four modalities), of what enters the first batch normalisation."""
    network, variables = build()
    x = images()
    outputs, updates = train(network, variables, x)
    four = np.concatenate([x, np.stack([outputs["derivatives"][0], outputs["derivatives"][1]], 1)], 1)
    kernel = variables["params"]["stem"]["conv"]["kernel"]
    entering = jax.lax.conv_general_dilated(
        jnp.asarray(four.reshape(-1, *SIZE, 3)), kernel, (1, 1), [(1, 1), (1, 1)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip
    statistics = updates["batch_stats"]["stem"]["bn"]
    np.testing.assert_allclose(statistics["mean"], 0.1 * entering.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(statistics["var"], 0.9 + 0.1 * entering.var((0, 1, 2)), rtol=1e-4)


def test_per_modality_statistics_are_kept_apart():
    network, variables = build(bn="per_modality")
    x = images()
    _, first = train(network, variables, x)
    _, second = train(network, variables, x.at[:, 1].multiply(3.0))
    mean = [np.asarray(s["batch_stats"]["stem"]["bn"]["mean"]) for s in (first, second)]
    assert mean[0].shape == (4, 16)
    changed = (mean[0] != mean[1]).any(axis=1)
    np.testing.assert_array_equal(changed, [False, True, False, True])  # I and D_i, not V and D_v


def test_bfloat16_computes_low_and_keeps_parameters_and_features_high():
    network, variables = build(dtype="bfloat16")
    outputs, updates = train(network, variables, images())
    leaves = jax.tree.leaves([variables["params"], updates, outputs["features"], outputs["logits"]])
    assert all(leaf.dtype == jnp.float32 for leaf in leaves)
    exact, _ = train(*build(), images())
    np.testing.assert_allclose(outputs["features"], exact["features"], atol=0.1)
    assert (outputs["features"] != exact["features"]).any()


def test_too_many_stripes_are_refused():
    network = Network(dataclasses.replace(TINY, stripes=6), 10)
    with pytest.raises(BdfError, match="6 stripes need as many rows, but the last stage has 4"):
        initial_variables(network, 0, SIZE)
