"""The four-modality network: shapes, branches, statistics, gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from bdf_jax.errors import BdfError
from bdf_jax.method import find
from bdf_jax.models import feature_size, initial_variables
from bdf_jax.models.heads import Layers, Pool
from bdf_jax.models.layers import NonLocal
from bdf_jax.models.network import criticise
from bdf_jax.parts import Named
from bdf_jax.views import Grey, Middle, Pixelwise, View

SIZE = (32, 16)
VIEWS = ("V", "I", "Dv", "Di")


def images(n=3, seed=0):
    x = np.random.default_rng(seed).normal(size=(n, 2, *SIZE, 3)).astype(np.float32)
    return {"V": jnp.asarray(x[:, 0]), "I": jnp.asarray(x[:, 1])}


def both(maker, **settings):
    return Named(Dv=View("V", maker, **settings), Di=View("I", maker, **settings))


@functools.cache
def build(views=small.DERIVATIVES, **changes):
    network = small.base_derivative(small.part(**changes), 10, views)
    return network, initial_variables(network, 0, SIZE)


@functools.partial(jax.jit, static_argnums=0)
def train(network, variables, x):
    """Outputs and updated statistics."""
    outputs, updates = network.apply(variables, x, train=True, mutable=["batch_stats"])
    return _arrays(outputs), updates


@functools.partial(jax.jit, static_argnums=0)
def infer(network, variables, x):
    return _arrays(network.apply(variables, x, train=False))


def _arrays(outputs):
    return {name: value for name, value in outputs.items() if name != "views"}


@pytest.mark.parametrize(
    ("views", "changes"),
    [
        (small.DERIVATIVES, {}),
        (small.DERIVATIVES, {"split_at": 1}),
        (small.DERIVATIVES, {"split_at": 2, "bn": "per_view"}),
        (small.DERIVATIVES, {"split_at": 5}),
        (small.DERIVATIVES, {"bn": "per_view"}),
        (small.DERIVATIVES, {"pool": Pool("gem", stripes=4, learned=True)}),
        (small.DERIVATIVES, {"pool": Pool("max")}),
        (both(Middle()), {}),
        (both(Grey()), {}),
        (Named(Dv=View("V", Pixelwise()), Di=View("I", Pixelwise(), share="Dv")), {}),
        (both(Pixelwise(hidden=8, init="random")), {}),
    ],
    ids=str,
)
def test_named_outputs_have_their_shapes(views, changes):
    config = small.part(**changes)

    def every(x):
        network = small.base_derivative(config, 10, views)
        variables = network.init(jax.random.key(0), x, train=True)
        outputs, _ = network.apply(variables, x, train=True, mutable=["batch_stats"])
        alone = [network.apply(variables, {b: x[b]}, train=False, views=(b,)) for b in "VI"]  # inference on one base
        return [_arrays(o) for o in (outputs, *alone)]

    outputs, *alone = jax.eval_shape(every, images())
    D = feature_size(config)
    assert outputs["pooled"].shape == outputs["embedding"].shape == (3, 4, 1, D)
    assert outputs["logits"]["classifier"].shape == (3, 4, 1, 10)
    assert {name: x.shape for name, x in outputs["pixels"].items()} == dict.fromkeys(VIEWS, (3, *SIZE, 3))
    assert [o["pooled"].shape for o in alone] == [(3, 1, 1, D)] * 2


def test_stripes_that_are_not_joined_have_necks_and_heads_of_their_own():
    network, variables = build(pool=Pool(stripes=4, join=False))
    outputs = infer(network, variables, images())
    assert outputs["pooled"].shape == outputs["embedding"].shape == (3, 4, 4, 128)
    assert outputs["logits"]["classifier"].shape == (3, 4, 4, 10)
    assert {name for name in variables["params"] if not name.startswith(("stem", "layer", "generator"))} == {
        f"{part}{stripe}" for part in ("bnneck", "classifier") for stripe in range(4)
    }
    joined, same = build(pool=Pool(stripes=4))
    at_once = infer(joined, {**same, "params": {**same["params"], **_trunk(variables)}}, images())["pooled"]
    np.testing.assert_array_equal(at_once.reshape(outputs["pooled"].shape), outputs["pooled"])


def _trunk(variables):
    return {name: tree for name, tree in variables["params"].items() if name.startswith(("stem", "layer"))}


@pytest.mark.parametrize("names", [(), ("Dv",), ("Di",)])
def test_views_that_are_left_out_have_no_parameters(names):
    network, variables = build(Named({name: small.DERIVATIVES[name] for name in names}))
    assert network.inputs == ("V", "I", *names)
    generators = {name for name in variables["params"] if name.startswith("generator")}
    assert generators == {f"generator_{name}" for name in names}


def test_views_that_share_a_maker_share_its_parameters():
    network, variables = build(Named(Dv=View("V", Pixelwise()), Di=View("I", Pixelwise(), share="Dv")))
    assert [name for name in variables["params"] if name.startswith("generator")] == ["generator_Dv"]
    x = images()
    made = infer(network, variables, {"V": x["V"], "I": x["V"]})["pixels"]
    np.testing.assert_array_equal(made["Dv"], made["Di"])


def test_a_view_of_a_view_is_made_of_it():
    chained = Named(Dv=View("V", Pixelwise()), Gv=View("Dv", Grey()))
    network, variables = build(chained)
    x = images()
    made = infer(network, variables, x)["pixels"]
    alone, _ = build(Named(Gv=View("V", Grey())))
    np.testing.assert_allclose(made["Gv"], infer(alone, variables, {**x, "V": made["Dv"]})["pixels"]["Gv"], atol=1e-6)
    assert network.views_of(0) == ("V", "Dv", "Gv")


@pytest.mark.parametrize("split_at", range(6))
def test_split_at_counts_the_stages_that_belong_to_one_base(split_at):
    network = small.base_derivative(small.part(split_at=split_at), 10)
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
    same = [bool((before["pooled"][:, m] == after["pooled"][:, m]).all()) for m in range(4)]
    assert same == [True, False, True, False]


def test_a_derivative_depends_on_its_own_base_alone():
    network, variables = build()
    x = images()
    other = {**x, "I": x["I"] + 1.0}
    before, after = (infer(network, variables, y)["pixels"] for y in (x, other))
    np.testing.assert_array_equal(before["Dv"], after["Dv"])
    assert (before["Di"] != after["Di"]).any()


def test_the_generator_starts_as_the_grey_image_with_every_unit_open():
    network, variables = build()
    x = jax.tree.map(lambda a: jnp.clip(a, -2.1, 2.6), images())  # the range of normalised pixels
    outputs = infer(network, variables, x)
    for base, name in (("V", "Dv"), ("I", "Di")):
        grey = x[base].mean(-1, keepdims=True).repeat(3, -1)
        np.testing.assert_allclose(outputs["pixels"][name], grey, atol=1e-5)
        assert outputs["active"][name] == 1


def test_constant_initialisation_is_what_the_formula_says():
    network, variables = build(both(Pixelwise(init="third")))
    x = images()
    outputs = infer(network, variables, x)
    hidden = np.maximum(np.asarray(x["V"]).sum(-1) / 3, 0)
    np.testing.assert_allclose(outputs["pixels"]["Dv"], np.repeat(hidden[..., None] / 3, 3, -1), atol=1e-6)
    np.testing.assert_allclose(outputs["active"]["Dv"], (hidden > 0).mean(), atol=1e-6)


@pytest.mark.parametrize("maker", [Pixelwise(), Middle()], ids=str)
def test_gradient_reaches_every_layer_of_both_generators(maker):
    network, variables = build(both(maker))

    def loss(params):
        outputs, _ = train(network, variables | {"params": params}, images())
        return jnp.square(outputs["pooled"][:, 2:]).sum()

    gradient = jax.jit(jax.grad(loss))(variables["params"])
    for base in ("Dv", "Di"):
        kernels = [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(gradient[f"generator_{base}"])
                   if "kernel" in str(path)]  # fmt: skip
        assert len(kernels) == 2
        # Behind the second layer of "middle", one weight, batch normalisation takes the gradient of its size away.
        reached = kernels if maker == Pixelwise() else kernels[:1]
        assert all(float(jnp.abs(kernel).sum()) > 0 for kernel in reached)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradient))


def test_a_detached_generator_gets_no_gradient_and_the_network_still_does():
    network, variables = build(both(Pixelwise(), detach=True))

    def loss(params):
        outputs, _ = train(network, variables | {"params": params}, images())
        return jnp.square(outputs["pooled"][:, 2:]).sum()

    gradient = jax.jit(jax.grad(loss))(variables["params"])
    assert all(float(jnp.abs(leaf).max()) == 0 for leaf in jax.tree.leaves(gradient["generator_Dv"]))
    assert float(jnp.abs(gradient["stem"]["conv"]["kernel"]).max()) > 0


def test_one_forward_updates_running_statistics_from_all_four_modalities():
    """mean' = 0.9 mean + 0.1 (mean over the four modalities), of what enters the first batch normalisation."""
    network, variables = build()
    x = images()
    outputs, updates = train(network, variables, x)
    four = np.stack([outputs["pixels"][name] for name in VIEWS], 1)
    kernel = variables["params"]["stem"]["conv"]["kernel"]
    entering = jax.lax.conv_general_dilated(
        jnp.asarray(four.reshape(-1, *SIZE, 3)), kernel, (1, 1), [(1, 1), (1, 1)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip
    statistics = updates["batch_stats"]["stem"]["bn"]
    np.testing.assert_allclose(statistics["mean"], 0.1 * entering.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(statistics["var"], 0.9 + 0.1 * entering.var((0, 1, 2)), rtol=1e-4)


def test_statistics_per_view_are_kept_apart():
    network, variables = build(bn="per_view")
    x = images()
    _, first = train(network, variables, x)
    _, second = train(network, variables, {**x, "I": 3.0 * x["I"]})
    mean = [np.asarray(s["batch_stats"]["stem"]["bn"]["mean"]) for s in (first, second)]
    assert mean[0].shape == (4, 16)
    changed = (mean[0] != mean[1]).any(axis=1)
    np.testing.assert_array_equal(changed, [False, True, False, True])  # I and D_i, not V and D_v


def test_bfloat16_computes_low_and_keeps_parameters_and_features_high():
    network, variables = build(dtype="bfloat16")
    outputs, updates = train(network, variables, images())
    leaves = jax.tree.leaves([variables["params"], updates, outputs["pooled"], outputs["logits"]])
    assert all(leaf.dtype == jnp.float32 for leaf in leaves)
    exact, _ = train(*build(), images())
    np.testing.assert_allclose(outputs["pooled"], exact["pooled"], atol=0.1)
    assert (outputs["pooled"] != exact["pooled"]).any()


def test_stripes_that_do_not_divide_the_map_are_refused():
    network = small.base_derivative(small.part(pool=Pool(stripes=3)), 10)
    with pytest.raises(BdfError, match="3 stripes do not divide the 4 rows of the last stage"):
        initial_variables(network, 0, SIZE)


def test_too_many_stripes_are_refused():
    network = small.base_derivative(small.part(pool=Pool(stripes=6)), 10)
    with pytest.raises(BdfError, match="6 stripes need as many rows, but the last stage has 4"):
        initial_variables(network, 0, SIZE)


def test_critics_have_parameters_and_a_word_on_any_feature():
    network, variables = build(critics=Named(modality=Layers((6, 2))))
    assert {leaf.shape for leaf in jax.tree.leaves(variables["params"]["critic_modality"])} == {
        (128, 6),
        (6,),
        (6, 2),
        (2,),
    }
    x = jnp.ones((5, 128))
    said = criticise(network, variables["params"], "modality", x)
    first, second = (variables["params"]["critic_modality"][f"layer{i}"] for i in (0, 1))
    hidden = np.maximum(np.asarray(x @ first["kernel"] + first["bias"]), 0)
    np.testing.assert_allclose(said, hidden @ second["kernel"] + second["bias"], rtol=1e-5)


def test_a_non_local_block_starts_as_the_identity_and_is_its_definition_in_loops():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 2, 3, 2, 4)).astype(np.float32))
    block = NonLocal()
    variables = block.init(jax.random.key(0), x, train=False)
    np.testing.assert_array_equal(block.apply(variables, x, train=False), x)

    params = jax.tree.map(lambda leaf: leaf + 0.5, variables["params"])
    found = block.apply({**variables, "params": params}, x, train=False)

    def dense(pixel, name):
        return pixel @ np.asarray(params[name]["kernel"]) + np.asarray(params[name]["bias"])

    for m in range(2):
        pixels = [np.asarray(x[0, m, i, j]) for i in range(3) for j in range(2)]
        for i, pixel in enumerate(pixels):
            y = sum(dense(pixel, "theta") * dense(other, "phi") * dense(other, "g") for other in pixels) / len(pixels)
            z = dense(y, "W") / np.sqrt(1 + 1e-5) * params["bn"]["scale"] + params["bn"]["bias"]
            np.testing.assert_allclose(found[0, m, i // 2, i % 2], pixel + z, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "classes", "count"), [("agw", 395, 24_359_311), ("cmgan", 395, 24_759_755 + 2_550_502)]
)
def test_a_method_has_the_published_number_of_parameters(method, classes, count):
    value = find(method)
    network = small.base_derivative(value.network, classes, value.views)
    shapes = jax.eval_shape(lambda x: network.init(jax.random.key(0), x, train=True), images())
    found = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
    assert found == count
