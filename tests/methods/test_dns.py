"""DNS: its block, its parts for training and its losses in plain loops, its sizes and its rate."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from bdf_jax.config import DataConfig, vary
from bdf_jax.errors import BdfError
from bdf_jax.losses.shifting import Alignment, Circle, Distillation, circle_loss, mmd_loss
from bdf_jax.losses.terms import Scope
from bdf_jax.method import experiment, find
from bdf_jax.models import Network, initial_variables
from bdf_jax.models.auxiliary import Exchanged, Shifted
from bdf_jax.models.blocks_dns import HSS
from bdf_jax.training.optimiser import SGD, _scaled, schedule
from bdf_jax.training.stages import phases
from bdf_jax.training.state import initial_state
from bdf_jax.training.step import train_step

TINY = small.tiny_method("dns", replaces={"data.identities": 2, "data.images": 2, "augment.pad": 2})
SIZE = (32, 16)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def softmax(x):
    power = np.exp(x - np.max(x))
    return power / power.sum()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_the_block_is_its_definition_in_loops():
    H, W, C = 4, 2, 6
    x = normal(1, 2, H, W, C)
    module = HSS(after=4).module("hss")
    variables = module.init(jax.random.key(0), x, x, train=False)
    params = jax.tree.map(lambda leaf: leaf + 0.3, variables["params"])
    found = module.apply({**variables, "params": params}, x, x, train=False)
    first, rows, columns = (np.asarray(params[name]["kernel"])[0, 0] for name in ("conv", "conv_rows", "conv_columns"))
    assert first.shape == (C, 8)

    def inner(line):
        y = line @ first / math.sqrt(1 + 1e-5) * np.asarray(params["bn"]["scale"]) + np.asarray(params["bn"]["bias"])
        return y * np.clip(y + 3, 0, 6) / 6

    for m in range(2):
        image, shifted = x[0, m], np.zeros((H, W, C))
        for c in range(C):
            of_rows = softmax(np.array([max(image[i, j, c] for j in range(W)) for i in range(H)]))
            of_columns = softmax(np.array([max(image[i, j, c] for i in range(H)) for j in range(W)]))
            for i in range(H):
                for j in range(W):
                    shifted[i, j, c] = image[i, j, c] + of_rows[i] * of_columns[j]
        for i in range(H):
            for j in range(W):
                row, column = inner(shifted[i].mean(0)) @ rows, inner(shifted[:, j].mean(0)) @ columns
                np.testing.assert_allclose(
                    found[0, m, i, j], image[i, j] * sigmoid(row) * sigmoid(column), rtol=1e-4, atol=1e-5
                )


@pytest.mark.parametrize(("channels", "inside"), [(1024, 32), (2048, 64), (64, 8)])
def test_the_block_is_narrow_inside(channels, inside):
    x = jnp.zeros((1, 1, 2, 2, channels))
    shapes = jax.eval_shape(lambda x: HSS(after=4).module("hss").init(jax.random.key(0), x, x, train=False), x)
    assert shapes["params"]["conv"]["kernel"].shape == (1, 1, channels, inside)


def circle(features, pids, margin, gamma):
    """Over all pairs, in double precision."""
    unit = [f / np.linalg.norm(f) for f in features.astype(np.float64)]
    positives, negatives = 0.0, 0.0
    for i in range(len(unit)):
        for j in range(i + 1, len(unit)):
            s = unit[i] @ unit[j]
            if pids[i] == pids[j]:
                positives += math.exp(-gamma * max(0, 1 + margin - s) * (s - (1 - margin)))
            else:
                negatives += math.exp(gamma * max(0, s + margin) * (s - margin))
    return math.log1p(positives * negatives)


@pytest.mark.parametrize("gamma", [2.0, 64.0])
def test_the_circle_is_its_definition_in_loops(gamma):
    x, pids = normal(7, 5), np.array([0, 1, 0, 2, 1, 2, 2])
    found = circle_loss(jnp.asarray(x), jnp.asarray(pids), margin=0.45, gamma=gamma)
    np.testing.assert_allclose(found, circle(x, pids, 0.45, gamma), rtol=1e-4)


def test_the_weights_of_the_circle_pass_no_gradient():
    """Of one positive pair (s = cosine t) and one negative pair at a fixed cosine."""
    margin, gamma, t = 0.45, 3.0, 1.1

    def loss(t):
        a, b = jnp.array([1.0, 0.0, 0.0]), jnp.array([jnp.cos(t), jnp.sin(t), 0.0])
        return circle_loss(jnp.stack([a, b, jnp.array([0.0, 0.0, 1.0])]), jnp.array([0, 0, 1]), gamma=gamma)

    s = math.cos(t)
    weight = 1 + margin - s  # a constant of the derivative
    negatives = 2 * math.exp(gamma * margin * -margin)  # both at cosine 0
    inside = negatives * math.exp(-gamma * weight * (s - (1 - margin)))
    expected = inside / (1 + inside) * -gamma * weight * -math.sin(t)
    np.testing.assert_allclose(jax.grad(loss)(t), expected, rtol=1e-4)


def gaussian_mmd(x, y):
    """Over all pairs, in double precision, the pair of an image with itself included."""
    z = [*x.astype(np.float64), *y.astype(np.float64)]
    squared = [[((a - b) ** 2).sum() for b in z] for a in z]
    width = sum(map(sum, squared)) / (len(z) ** 2 - len(z)) / 4
    total = {}
    for i, row in enumerate(squared):
        for j, d in enumerate(row):
            key = (i < len(x), j < len(x))
            total.setdefault(key, []).append(sum(math.exp(-d / (width * 2**power)) for power in range(5)))
    return sum((1 if a == b else -1) * np.mean(values) for (a, b), values in total.items())


def test_the_discrepancy_is_its_definition_in_loops():
    x, y = normal(6, 5), 0.5 + normal(6, 5, seed=1)
    np.testing.assert_allclose(mmd_loss(x, y), gaussian_mmd(x, y), rtol=1e-4)
    np.testing.assert_allclose(mmd_loss(x, x), 0, atol=1e-5)
    assert mmd_loss(x, y + 3) > mmd_loss(x, y) > 0


def scope(outputs, N=4, labels=None):
    labels = jnp.arange(N) // 2 if labels is None else labels
    return Scope(
        {"views": ("V", "I"), **{name: jnp.asarray(x) for name, x in outputs.items()}},
        labels,
        shape=(2, N // 2),
        bases=(0, 1),
        gather=lambda x: x,
        critic=lambda name, x: x,
    )


def test_the_circle_is_divided_by_the_images():
    x = normal(4, 2, 1, 5)
    images, pids = [x[n, m, 0] for n in range(4) for m in range(2)], [0] * 4 + [1] * 4
    (found,) = Circle(gamma=8.0)(scope({"embedding": x})).values()
    np.testing.assert_allclose(found, circle(np.stack(images), pids, 0.45, 8.0) / 8, rtol=1e-4)


def test_alignment_is_of_unit_vectors_across_and_within():
    z, second = normal(4, 2, 1, 5), normal(4, 2, 1, 5, seed=1)
    found = Alignment("css")(scope({"pooled": z, "css": second}))
    zv, zi, sv, si = (
        np.stack([f / np.linalg.norm(f) for f in x[:, m, 0]]) for x in (z, second) for m in (0, 1)
    )  # fmt: skip
    across, within = gaussian_mmd(zv, zi) + gaussian_mmd(sv, si), gaussian_mmd(zv, sv) + gaussian_mmd(zi, si)
    np.testing.assert_allclose(found["across"], 0.45 * across, rtol=1e-3)
    np.testing.assert_allclose(found["within"], 0.05 * within, rtol=1e-3)


def test_distillation_is_its_definition_in_loops():
    F, C, labels = 2, 3, [0, 2, 1, 1]
    scores = normal(4, 2, 1, F, 2, C)
    found = Distillation("dd")(scope({"dd": scores}, labels=jnp.asarray(labels)))
    apart = identity = 0.0
    for f in range(F):
        for n in range(4):
            for m in range(2):
                p, q = softmax(scores[n, m, 0, f, 0]), softmax(scores[n, m, 0, f, 1])
                apart += sum(p[c] * math.log(p[c] / q[c]) for c in range(C)) / 8
                identity += -0.25 * math.log(p[labels[n]]) / 4  # a mean in each base, their sum
    np.testing.assert_allclose(found["apart"], apart, rtol=1e-4)
    np.testing.assert_allclose(found["identity"], identity, rtol=1e-4)


@pytest.mark.parametrize("loss", [Circle(), Alignment("css"), Distillation("dd")], ids=str)
def test_gradients_are_finite_where_all_features_are_equal(loss):
    shapes = {"embedding": (4, 2, 1, 5), "pooled": (4, 2, 1, 5), "css": (4, 2, 1, 5), "dd": (4, 2, 1, 2, 2, 3)}
    outputs = {name: jnp.ones(shape) for name, shape in shapes.items()}
    gradients = jax.grad(lambda outputs: sum(loss(scope(outputs)).values()))(outputs)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradients))


@pytest.fixture(scope="module")
def tiny():
    network = Network.of(TINY, 7)
    return network, initial_variables(network, 0, SIZE)


def images():
    return {"V": normal(3, *SIZE, 3), "I": normal(3, *SIZE, 3, seed=1)}


def test_the_second_feature_is_its_definition(tiny):
    network, variables = tiny
    found, _ = network.apply(variables, images(), train=True, mutable=["batch_stats"])
    params = jax.tree.map(np.asarray, variables["params"]["auxiliary_css"])
    assert found["css"].shape == (3, 2, 1, 128)
    for n in range(3):
        for m in range(2):
            mean = np.asarray(found["map"])[n, m].mean((0, 1)).astype(np.float64)
            t = mean + softmax(mean)
            t = (t - t.mean()) / math.sqrt(t.var() + 1e-5) * params["norm"]["scale"] + params["norm"]["bias"]
            wide = t @ params["wide"]["kernel"] + params["wide"]["bias"]
            wide = np.array([x * (1 + math.erf(x / math.sqrt(2))) / 2 for x in wide])
            expected = wide @ params["narrow"]["kernel"] + params["narrow"]["bias"]
            np.testing.assert_allclose(found["css"][n, m, 0], expected, rtol=1e-3, atol=1e-4)


def test_classifiers_of_a_base_and_their_slow_copies(tiny):
    network, variables = tiny
    params = variables["params"]["auxiliary_dd"]
    moved = jax.tree.map(lambda kernel: kernel + 0.1, params)
    changed = {**variables, "params": {**variables["params"], "auxiliary_dd": moved}}
    found, updates = network.apply(changed, images(), train=True, mutable=["batch_stats"])
    for word in ("visible", "infrared"):  # they start as their classifier is, and follow it before they are used
        expected = 0.8 * params[f"kernel_{word}"] + 0.2 * moved[f"kernel_{word}"]
        np.testing.assert_allclose(updates["batch_stats"]["auxiliary_dd"][f"copy_{word}"], expected, rtol=1e-5)
    copies = updates["batch_stats"]["auxiliary_dd"]
    for m, (own, other) in enumerate((("visible", "infrared"), ("infrared", "visible"))):
        for f, name in enumerate(("embedding", "css")):
            x = np.asarray(found[name])[:, m, 0]
            np.testing.assert_allclose(found["dd"][:, m, 0, f, 0], x @ moved[f"kernel_{own}"], rtol=1e-3, atol=1e-4)
            np.testing.assert_allclose(found["dd"][:, m, 0, f, 1], x @ copies[f"copy_{other}"], rtol=1e-3, atol=1e-4)


def test_a_copy_passes_no_gradient(tiny):
    network, variables = tiny

    def copied(params):
        found, _ = network.apply({**variables, "params": params}, images(), train=True, mutable=["batch_stats"])
        return jnp.square(found["dd"][..., 1, :]).sum()

    assert all(
        float(jnp.abs(leaf).max()) == 0 for leaf in jax.tree.leaves(jax.jit(jax.grad(copied))(variables["params"]))
    )


def test_at_the_test_the_parts_are_not_there(tiny):
    network, variables = tiny
    found = network.apply(variables, images(), train=False)
    assert not {"css", "dd"} & set(found)
    left = {name: tree for name, tree in variables["params"].items() if not name.startswith("auxiliary_")}
    kept = {name: tree for name, tree in variables["batch_stats"].items() if not name.startswith("auxiliary_")}
    alone = network.apply({"params": left, "batch_stats": kept}, images(), train=False)
    np.testing.assert_array_equal(found["embedding"], alone["embedding"])


def test_it_has_the_published_number_of_parameters():
    config = experiment("dns", "sysu_mm01", data=DataConfig())
    network = Network.of(config, 395)
    pixels = {base: jnp.zeros((1, *SIZE, 3)) for base in "VI"}
    shapes = jax.eval_shape(lambda x: network.init(jax.random.key(0), x, train=True), pixels)["params"]
    sizes = {name: sum(leaf.size for leaf in jax.tree.leaves(tree)) for name, tree in shapes.items()}
    assert sum(size for name, size in sizes.items() if not name.startswith("auxiliary_")) == 26_257_728
    assert sizes["auxiliary_css"] == 2 * 2048 + 2 * 2048 * 8192 + 8192 + 2048
    assert sizes["auxiliary_dd"] == 2 * 2048 * 395


def test_the_rate_rises_for_sixteen_epochs_and_falls_in_a_line():
    sgd = find("dns").optimiser
    rate = schedule(sgd, epochs=100, steps=1000)
    line = np.interp(np.arange(1000) / 10, [0, 16, 100], [1e-4 * 0.2, 0.2, 0.0])
    np.testing.assert_allclose([rate(step) for step in range(1000)], line, rtol=1e-4)
    plain = schedule(SGD(0.2, warmup_epochs=0, milestones=(), fall="linear"), epochs=100, steps=1000)
    np.testing.assert_allclose([plain(0), plain(500), plain(1000)], [0.2, 0.1, 0.0], rtol=1e-5)


def test_parts_learn_at_rates_of_their_own():
    names = ("stem_visible", "layer2_infrared", "layer3", "layer4", "hss3", "bnneck", "classifier", "auxiliary_css",
             "auxiliary_dd")  # fmt: skip
    rates = {"sysu_mm01": (0.1, 0.1, 0.2, 0.25, 0.1, 1, 1, 0.1, 1), "regdb": (0.1, 0.1, 0.1, 0.1, 0.1, 1, 1, 0.1, 1)}
    for place, expected in rates.items():
        scaled = _scaled(experiment("dns", place, data=DataConfig()).optimiser.scales)
        found, _ = scaled.update({name: {"kernel": jnp.ones(())} for name in names}, None)
        np.testing.assert_allclose([found[name]["kernel"] for name in names], expected, rtol=1e-6)


def test_a_step_moves_the_copies_and_lets_every_part_learn():
    network = Network.of(TINY, 7)
    state = initial_state(network, TINY)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 2, *SIZE, 3), dtype=np.uint8)
    from bdf_jax.training.stages import make_optimisers

    def step(state):
        return train_step(
            state, pixels, np.repeat([0, 1], 2).astype(np.int32), network=network,
            optimisers=make_optimisers(TINY, 100), config=TINY, phase=phases(TINY, 100)[0], gather=lambda x: x,
        )  # fmt: skip

    compiled = jax.jit(step)
    first, metrics = compiled(state)
    second, _ = compiled(first)
    assert {"ce", "circle", "da/across", "da/within", "dd/apart", "dd/identity"} <= set(metrics)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), state.params, first.params)
    assert all(any(jax.tree.leaves(tree)) for tree in moved.values())
    for word in ("visible", "infrared"):
        copies = [s.batch_stats["auxiliary_dd"][f"copy_{word}"] for s in (state, first, second)]
        np.testing.assert_allclose(copies[0], copies[1], rtol=1e-5)
        expected = 0.8 * copies[1] + 0.2 * first.params["auxiliary_dd"][f"kernel_{word}"]
        np.testing.assert_allclose(copies[2], expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"losses.da": Alignment("dd")},
            r"losses.da.second: .*Shifted.*'dd'; it has css \(Shifted\), dd \(Exchanged\)",
        ),
        ({"losses.dd": Distillation("no")}, "losses.dd.of: .*Exchanged.*'no'"),
        ({"network.auxiliary.pooled": Shifted()}, "network.auxiliary.pooled: .*output"),
        ({"network.auxiliary.dd": Exchanged(("later",))}, "network.auxiliary.dd.of: .*later"),
        ({"network.auxiliary.dd": Exchanged(("embedding",), decay=1.5)}, "network.auxiliary.dd.decay"),
        ({"losses.circle.gamma": 0.0}, "losses.circle.gamma: expected more than 0"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changes, message):
    with pytest.raises(BdfError, match=message):
        vary(TINY, changes)
