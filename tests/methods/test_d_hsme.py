"""D-HSME: the softmax of angles, what decorrelation keeps and changes, and what rests in which stage."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small
from scopes import normal, parameters, unit

from bdf_jax.config import vary
from bdf_jax.errors import BdfError
from bdf_jax.losses.terms import Identity
from bdf_jax.method import find
from bdf_jax.models import Network, initial_variables
from bdf_jax.training.decorrelation import Decorrelated
from bdf_jax.training.stages import divided, phases
from bdf_jax.training.state import initial_state
from bdf_jax.training.step import train_step

FEW = {"data.identities": 2, "data.images": 2, "augment.pad": 2, "network.neck.features": 12}
TINY = small.tiny_method("d_hsme", replaces=FEW)


def outputs_of(variables, config=TINY):
    images = {"V": normal(3, 32, 16, 3), "I": normal(3, 32, 16, 3, seed=1)}
    return Network.of(config, 7).apply(variables, images, train=False)


def drawn():
    """Variables whose classes are no random noise around 0."""
    variables = initial_variables(Network.of(TINY, 7), 0, (32, 16))
    params = {**variables["params"], "classifier": {"kernel": normal(12, 7)}}
    return {**variables, "params": params}


def test_the_softmax_of_angles_is_its_definition_in_loops():
    variables = drawn()
    outputs = outputs_of(variables)
    kernel = np.asarray(variables["params"]["classifier"]["kernel"])
    labels = [2, 0, 5]
    scope = type("Scope", (), {"views": ("V", "I"), "labels_N": jnp.asarray(labels)})()
    scope.logits = lambda head: outputs["logits"][head]
    found = Identity()(scope)
    for m, view in enumerate("VI"):
        total = 0.0
        for n, label in enumerate(labels):
            feature = unit(np.asarray(outputs["embedding"][n, m, 0], np.float64))
            powers = [np.exp(14 * sum(feature * unit(kernel[:, c]))) for c in range(7)]
            total -= np.log(powers[label] / sum(powers)) / 3
        np.testing.assert_allclose(found[view], total, rtol=1e-3)


def test_the_embedding_is_a_matrix_of_the_normalised_feature():
    variables = drawn()
    variables["params"]["bnneck"] = {"scale": 1 + 0.1 * normal(128), "bias": normal(128)}
    outputs, params = outputs_of(variables), variables["params"]
    for n in range(3):
        x = np.asarray(outputs["pooled"][n, 0, 0]) / np.sqrt(1 + 1e-5)  # statistics of an untrained network
        expected = (x * params["bnneck"]["scale"] + params["bnneck"]["bias"]) @ params["bnneck_project"]["kernel"]
        np.testing.assert_allclose(outputs["embedding"][n, 0, 0], expected, rtol=1e-3, atol=1e-4)


def test_decorrelation_keeps_distances_and_scores_and_makes_columns_orthogonal():
    before = drawn()
    after = {**before, "params": Decorrelated()(jax.tree.map(np.array, before["params"]))}
    one, other = outputs_of(before), outputs_of(after)
    features, turned = (np.asarray(x["embedding"]).reshape(6, 12) for x in (one, other))
    assert np.abs(features - turned).max() > 0.01 * np.abs(features).max()
    np.testing.assert_allclose(turned @ turned.T, features @ features.T, rtol=1e-3)
    np.testing.assert_allclose(other["logits"]["classifier"], one["logits"]["classifier"], rtol=1e-3, atol=1e-3)
    kernel = after["params"]["bnneck_project"]["kernel"]
    for i in range(12):
        for j in range(i):
            assert abs(kernel[:, i] @ kernel[:, j]) < 1e-5 * np.square(kernel).sum()
    np.testing.assert_allclose(
        np.linalg.norm(kernel, axis=0),
        np.linalg.svd(before["params"]["bnneck_project"]["kernel"])[1],
        rtol=1e-4,
    )
    rest = {name: tree for name, tree in after["params"].items() if name not in ("bnneck_project", "classifier")}
    jax.tree.map(np.testing.assert_array_equal, rest, {name: before["params"][name] for name in rest})


def test_an_embedding_longer_than_what_it_is_made_of_ends_in_zeros():
    params = {"bnneck_project": {"kernel": normal(3, 5)}, "classifier": {"kernel": normal(5, 7)}}
    after, x = Decorrelated()(params), normal(4, 3, seed=1)
    np.testing.assert_allclose(after["bnneck_project"]["kernel"][:, 3:], 0, atol=1e-6)
    before, turned = (x @ tree["bnneck_project"]["kernel"] @ tree["classifier"]["kernel"] for tree in (params, after))
    np.testing.assert_allclose(turned, before, rtol=1e-4, atol=1e-4)


def test_what_it_cannot_turn_is_refused_by_name():
    params = jax.tree.map(np.array, drawn()["params"])
    with pytest.raises(BdfError, match="no parameters 'head' to turn; there are bnneck, bnneck_project, classifier"):
        Decorrelated(heads=("head",))(params)
    with pytest.raises(BdfError, match="'bnneck_project' has an offset"):
        Decorrelated()({**params, "bnneck_project": {"kernel": normal(4, 3), "bias": normal(3)}})


def test_the_embedding_rests_in_the_second_stage_and_learns_in_the_others():
    network = Network.of(TINY, 7)
    state = initial_state(network, TINY)
    plain = {name: optax.sgd(1.0) for name in ("main", "embedding")}
    state = state.replace(opt_state={n: plain[n].init(part) for n, part in divided(state.params, TINY).items()})
    images = np.random.default_rng(0).integers(0, 256, (4, 2, 32, 16, 3), dtype=np.uint8)
    rests = {}
    for phase in phases(TINY, 120):

        @jax.jit
        def step(state, phase=phase):
            return train_step(
                state, images, np.array([0, 0, 1, 1], np.int32), network=network, optimisers=plain, config=TINY,
                phase=phase, gather=lambda x: x,
            )[0]  # fmt: skip

        after = step(state)
        same = {name: np.array_equal(after.params[name]["kernel"], state.params[name]["kernel"])
                for name in ("bnneck_project", "classifier")}  # fmt: skip
        rests[phase.name, phase.stop] = same
        assert (phase.enter == Decorrelated()) == (phase.name == "restraint")
    assert rests == {
        ("sphere", 60): {"bnneck_project": False, "classifier": False},
        ("restraint", 90): {"bnneck_project": True, "classifier": False},
        ("relaxation", 120): {"bnneck_project": False, "classifier": False},
    }


def test_rankings_are_on_the_sphere():
    losses = find("d_hsme").losses
    assert {losses[name].metric for name in ("cross", "intra")} == {"sphere"}
    assert {losses[name].on for name in ("cross", "intra")} == {"embedding"}


def test_pairs_of_views_that_are_not_there_are_refused():
    with pytest.raises(BdfError, match=r"losses.consistency.of.*X"):
        vary(TINY, {"losses.consistency.of": ("V", "X")})


def test_its_size():
    """A ResNet-50 with a second stem, a normalisation before one matrix, one vector a class."""
    assert parameters("d_hsme") == 23_508_032 + 7 * 7 * 3 * 64 + 2 * 64 + 2 * 2048 + 2048 * 512 + 512 * 395
