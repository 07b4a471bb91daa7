"""HCML: its pairs and its objective in plain loops, the solver's gradients by differences, and what it is good for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from scopes import far, normal, parameters, scope, unit

from bdf_jax.config import vary
from bdf_jax.errors import BdfError
from bdf_jax.losses.contrastive import Contrastive
from bdf_jax.models.metrics_hcml import HCML, Problem, principal, root, semidefinite, solve


@pytest.mark.parametrize("margin", [0.5, 1.8])
def test_pairs_are_their_definition_in_loops(margin):
    """Half of one person, half of two."""
    P, K = 4, 2
    features = normal(P * K, 2, 1, 3)
    halves = []
    for p in range(P):
        for k in range(K):
            visible = unit(features[p * K + k, 0, 0])
            halves.append(far(visible, unit(features[p * K + k, 1, 0])) ** 2 / 2)
            other = unit(features[(p - 1) % P * K + k, 1, 0])
            halves.append(max(0, margin - far(visible, other)) ** 2 / 2)
    (found,) = Contrastive("V>I", on="embedding", margin=margin)(scope(P, embedding=features)).values()
    np.testing.assert_allclose(found, np.mean(halves), rtol=1e-4)


def test_features_have_length_1_each_by_itself():
    """The authors' code normalises along the batch: an image's loss would depend on the others'."""
    features = normal(4, 2, 1, 3)
    loss = Contrastive("V>I", on="embedding")
    scaled = features * np.array([1, 2, 3, 4], np.float32)[:, None, None, None]
    one, other = (loss(scope(2, embedding=x))["V>I"] for x in (features, scaled))
    np.testing.assert_allclose(one, other, rtol=1e-5)


def test_equal_features_have_finite_gradients():
    gradient = jax.grad(lambda x: Contrastive("V>I")(scope(2, pooled=x))["V>I"])(jnp.ones((4, 2, 1, 5)))
    assert bool(jnp.isfinite(gradient).all())


def test_pools_make_no_pairs():
    config = small.tiny_method("hcml")
    with pytest.raises(BdfError, match=r"losses.pairs.edges: pairs are of two single views.*V\+I>I"):
        vary(config, {"losses.pairs.edges": "V+I>I"})


def people(P=10, each=6, D=5, seed=0, turned=True):
    """Features, people, bases; the infrared ones turned in a plane, and noisy in one direction."""
    rng = np.random.default_rng(seed)
    pids, modalities = np.repeat(np.arange(P), each), np.tile([0, 1], P * each // 2)
    features = rng.normal(size=(P, D))[pids] + rng.normal(size=(P * each, D)) * ([0.1] * (D - 1) + [2.0])
    turn = np.eye(D)
    turn[:2, :2] = [[np.cos(1.2), np.sin(1.2)], [-np.sin(1.2), np.cos(1.2)]]
    features[modalities == 1] = features[modalities == 1] @ (turn if turned else np.eye(D))
    return features, pids, modalities


def objective(features, pids, modalities, V, T, M, mu, within):
    """The objective of the paper, pair by pair."""
    image = {(base, p): features[(pids == p) & (modalities == base)] for base in (0, 1) for p in np.unique(pids)}
    mean = {key: sum(rows) / len(rows) for key, rows in image.items()}
    C = len(np.unique(pids))
    total = 0.0
    for i in range(C):
        for j in range(C):
            gap = V.T @ mean[0, i] - T.T @ mean[1, j]
            sign, weight = (1, 1 / C) if i == j else (-1, 1 / (C * C - C))
            total += weight * np.log(1 + np.exp(sign * (gap @ M @ gap - mu)))
    for base, own in ((0, V), (1, T)):
        rows = [x - mean[base, p] for p in range(C) for x in image[base, p]]
        total += within * np.mean([np.log(1 + np.exp(np.sum((own.T @ x) ** 2))) for x in rows])
    return total


def matrices(D=5, seed=3):
    V, T, P = np.eye(D) + 0.3 * np.random.default_rng(seed).normal(size=(3, D, D))
    return V, T, P @ P.T


def test_the_objective_is_its_definition_in_loops():
    features, pids, modalities = people()
    problem = Problem.of(features, pids, modalities, 0.2)
    gaps = [np.sum((problem.means_2Cr[0, i] - problem.means_2Cr[1, j]) ** 2) for i in range(10) for j in range(10)]
    np.testing.assert_allclose(problem.mu, np.mean(gaps))
    expected = objective(features, pids, modalities, *matrices(), problem.mu, 0.2)
    np.testing.assert_allclose(problem.value_and_gradients(*matrices())[0], expected, rtol=1e-10)


@pytest.mark.parametrize("which", [0, 1, 2], ids="VTM")
def test_gradients_are_differences_of_the_objective(which):
    """The authors' code has others for V and T: not twice each side, and the infrared one's taken at V."""
    problem = Problem.of(*people(), 0.2)
    given = matrices()
    gradient = problem.value_and_gradients(*given)[1 + which]
    for i in range(5):
        for j in range(5):
            ends = []
            for sign in (1, -1):
                moved = [matrix.copy() for matrix in given]
                moved[which][i, j] += sign * 1e-5
                ends.append(problem.value_and_gradients(*moved)[0])
            np.testing.assert_allclose(gradient[i, j], (ends[0] - ends[1]) / 2e-5, rtol=1e-4, atol=1e-8)


def test_the_solver_goes_down_and_keeps_distances():
    problem = Problem.of(*people(), 0.2)
    _, _, between, values = solve(problem, 100, 1e-6)
    assert values[-1] < 0.9 * values[0]
    assert min(values) >= 0.999 * values[-1]
    np.testing.assert_allclose(between, between.T)
    assert np.linalg.eigvalsh(between).min() > -1e-9


def test_the_nearest_semidefinite_matrix():
    matrix = np.diag([2.0, -1.0, 0.5])
    np.testing.assert_allclose(semidefinite(matrix), np.diag([2.0, 0.0, 0.5]), atol=1e-12)
    half = root(matrix)
    np.testing.assert_allclose(half @ half.T, np.diag([2.0, 0.0, 0.5]), atol=1e-12)


def test_principal_directions_are_those_of_the_largest_variance():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 4)) * [1.0, 3.0, 0.1, 0.0]
    x -= x.mean(0)
    found = principal(x, 10)
    assert found.shape == (4, 3)  # the empty direction is left out
    np.testing.assert_allclose(np.abs(found[:, 0]), [0, 1, 0, 0], atol=0.1)


def hits(maps, features, pids, modalities):
    sides = [
        features[modalities == base] @ maps[f"matrix_{word}"] + maps[f"offset_{word}"]
        for base, word in enumerate(("visible", "infrared"))
    ]
    nearest = [int(np.argmin(((row - sides[0]) ** 2).sum(1))) for row in sides[1]]
    return np.mean(pids[modalities == 0][nearest] == pids[modalities == 1])


def test_it_finds_the_right_person_more_often_than_the_features_do():
    plain = {f"{what}_{word}": value for word in ("visible", "infrared")
             for what, value in (("matrix", np.eye(5)), ("offset", np.zeros(5)))}  # fmt: skip
    maps = HCML(features=8).fit(*people())
    assert maps["matrix_visible"].shape == (5, 8)
    new = people(seed=1)
    assert hits(maps, *new) > hits(plain, *new) + 0.1


def test_the_scale_of_the_features_does_not_matter():
    features, pids, modalities = people()
    one, other = (HCML(features=5).fit(scale * features + 3, pids, modalities) for scale in (1.0, 50.0))
    between = []
    for scale, maps in ((1.0, one), (50.0, other)):
        sides = [
            (scale * features[modalities == base] + 3) @ maps[f"matrix_{word}"] + maps[f"offset_{word}"]
            for base, word in enumerate(("visible", "infrared"))
        ]
        between.append([far(v, i) for v in sides[0] for i in sides[1]])
    np.testing.assert_allclose(between[0], between[1], rtol=1e-3)


def test_too_few_people_are_refused():
    features, pids, _ = people()
    with pytest.raises(BdfError, match=r"network.metric: HCML needs at least 2 identities.*found 0"):
        HCML().fit(features, pids, np.zeros(len(pids), int))


def test_its_size():
    """Two ResNet-50s, one matrix, its normalisation, one classifier, with offsets."""
    assert parameters("hcml") == 2 * 23_508_032 + (2048 + 1 + 2) * 2048 + (2048 + 1) * 395
