"""MSR: its constraint, its metric against the textbook's formula, its size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scopes import normal, parameters, scope

from bdf_jax.errors import BdfError
from bdf_jax.losses.centres import CentreDistance
from bdf_jax.method import find
from bdf_jax.models.metrics_xqda import XQDA, moments


@pytest.mark.parametrize("centre", ["identity", "batch"])
def test_the_constraint_is_its_definition_in_loops(centre):
    features = normal(6, 2, 1, 4)  # of three people
    groups = [range(6)] if centre == "batch" else [(0, 1), (2, 3), (4, 5)]
    total = 0.0
    for group in groups:
        for d in range(4):
            v, i = (sum(features[n, m, 0, d] for n in group) / len(group) for m in (0, 1))
            total += (v - i) ** 2 / 4 / len(groups)
    (found,) = CentreDistance(centre=centre)(scope(3, embedding=features)).values()
    np.testing.assert_allclose(found, total, rtol=1e-5)


def test_the_constraint_has_a_finite_gradient_where_centres_meet():
    gradient = jax.grad(lambda x: CentreDistance()(scope(2, embedding=x))[""])(jnp.ones((4, 2, 1, 5)))
    np.testing.assert_array_equal(gradient, 0)


def people(P=12, each=4, D=6, seed=0):
    """Features, people and bases of a training set whose bases see the same vectors through noise."""
    rng = np.random.default_rng(seed)
    pids, modalities = np.repeat(np.arange(P), each), np.tile([0, 1], P * each // 2)
    spread = np.diag([3.0, 2.0, 1.0, 0.3, 0.1, 0.1][:D])
    noise = rng.normal(size=(P * each, D)) * np.array([0.2, 0.2, 0.2, 2.0, 2.0, 2.0])[:D]
    return (rng.normal(size=(P, D)) @ spread)[pids] + noise, pids, modalities


def differences(features, pids, modalities):
    same, other = [], []
    for x, p, m in zip(features, pids, modalities, strict=True):
        for z, q, n in zip(features, pids, modalities, strict=True):
            if (m, n) == (0, 1):
                (same if p == q else other).append(np.outer(x - z, x - z))
    return np.mean(same, 0), np.mean(other, 0)


def test_moments_are_means_over_all_pairs():
    for found, expected in zip(moments(*people()), differences(*people()), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_the_metric_is_the_textbooks():
    """W from the eigenvectors of inv(S) B, then W (inv(W'SW) - inv(W'BW)) W', by a general solver."""
    features, pids, modalities = people()
    same, other = differences(features, pids, modalities)
    same = same + 0.01 * np.trace(same) / len(same) * np.eye(len(same))
    values, vectors = np.linalg.eig(np.linalg.inv(same) @ other)
    W = vectors[:, values.real > 1].real
    M = W @ (np.linalg.inv(W.T @ same @ W) - np.linalg.inv(W.T @ other @ W)) @ W.T
    maps = XQDA(features=9).fit(features, pids, modalities)
    found = maps["matrix_visible"] @ maps["matrix_visible"].T
    np.testing.assert_allclose(found, M, rtol=1e-3, atol=1e-4 * np.abs(M).max())
    np.testing.assert_array_equal(maps["matrix_infrared"], maps["matrix_visible"])
    assert maps["matrix_visible"].shape == (6, 9)


def test_it_finds_the_right_person_more_often_than_the_features_do():
    def hits(features, pids, modalities):
        query, gallery = features[modalities == 1], features[modalities == 0]
        nearest = [min(range(len(gallery)), key=lambda j: ((q - gallery[j]) ** 2).sum()) for q in query]
        return np.mean(pids[modalities == 0][nearest] == pids[modalities == 1])

    maps = XQDA(features=4).fit(*people())
    features, pids, modalities = people(seed=1)
    assert hits(features @ maps["matrix_visible"], pids, modalities) > hits(features, pids, modalities) + 0.2


def test_without_pairs_there_is_no_metric():
    features, pids, _ = people()
    with pytest.raises(BdfError, match=r"network.metric: an XQDA needs.*48 visible and 0 infrared"):
        XQDA().fit(features, pids, np.zeros(len(pids), int))
    with pytest.raises(BdfError, match="0 pairs of one person"):
        XQDA().fit(features, np.arange(len(pids)), np.tile([0, 1], len(pids) // 2))


def test_its_size():
    """Two ResNet-50s, one matrix, its normalisation, one classifier of 512 and two of 2048, with offsets."""
    expected = 2 * 23_508_032 + (2048 + 1) * 512 + 1024 + (512 + 1) * 395 + 2 * (2048 + 1) * 395
    assert parameters("msr") == expected
    assert find("msr").losses["constraint"].weight == 0.1
