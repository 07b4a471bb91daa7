"""BDTR and eBDTR: their rankings in plain loops, their sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from scopes import far, normal, parameters, scope, unit

from bdf_jax.config import vary
from bdf_jax.errors import BdfError
from bdf_jax.losses.terms import Triplet
from bdf_jax.losses.top_ranking import Apart, Centred
from bdf_jax.method import find

FEW = {"data.identities": 2, "data.images": 2, "augment.pad": 2}


def vectors(P, K, seed=0):
    """Unit vectors by (base, identity, shot), and the features as a loss sees them."""
    features = normal(P * K, 2, 1, 3, seed=seed)
    return {(m, p, k): unit(features[p * K + k, m, 0]) for m in (0, 1) for p in range(P) for k in range(K)}, features


@pytest.mark.parametrize("K", [1, 3])
def test_bdtr_is_its_definition_in_loops(K):
    P = 5
    vector, features = vectors(P, K)
    cross, intra = (find("bdtr").losses[name] for name in ("cross", "intra"))
    assert (cross.margin, intra.margin, intra.weight) == (0.5, 0.1, 0.1)
    # Distances in three dimensions are small; margins that some of them violate.
    for margin in (0.1, 0.9):
        for m, n, edge in ((0, 1, "V>I"), (1, 0, "I>V")):
            crossing, within = [], []
            for p in range(P):
                for k in range(K):
                    anchor = vector[m, p, k]
                    positive = max((vector[n, p, j] for j in range(K)), key=lambda z: far(anchor, z))
                    others = [vector[n, q, j] for q in range(P) if q != p for j in range(K)]
                    negative = min(others, key=lambda z: far(anchor, z))
                    crossing.append(max(0, 0.5 + far(anchor, positive) - far(anchor, negative)))
                    within.append(max(0, margin - far(positive, negative)))
            seen = scope(P, embedding=features)
            np.testing.assert_allclose(cross(seen)[edge], np.mean(crossing), rtol=1e-4)
            found = Apart("V<>I", on="embedding", margin=margin)(seen)[edge]
            np.testing.assert_allclose(found, np.mean(within), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_ebdtr_is_its_definition_in_loops(margin):
    P, K = 5, 3
    vector, features = vectors(P, K)
    for m, n, edge in ((0, 1, "V>I"), (1, 0, "I>V")):
        centre = [sum(vector[n, p, k] for k in range(K)) / K for p in range(P)]
        hinges = [
            max(0, margin + far(vector[m, p, k], centre[p])
                - min(far(vector[m, p, k], centre[q]) for q in range(P) if q != p))
            for p in range(P) for k in range(K)
        ]  # fmt: skip
        found = Centred("V<>I", on="embedding", margin=margin)(scope(P, embedding=features))[edge]
        np.testing.assert_allclose(found, np.mean(hinges), rtol=1e-4, atol=1e-6)


def test_the_intra_constraint_pushes_the_candidates_and_not_the_anchor():
    _, features = vectors(4, 1)
    loss = Apart("V>I", on="embedding", margin=2.0)
    gradient = jax.grad(lambda x: loss(scope(4, embedding=x))["V>I"])(jnp.asarray(features))
    assert float(jnp.abs(gradient[:, 0]).max()) == 0
    assert float(jnp.abs(gradient[:, 1]).max()) > 0


def test_one_image_against_centres_of_one_image_is_the_triplet_of_both_bases():
    _, features = vectors(4, 1)
    seen = scope(4, embedding=features)
    one, other = (kind("V<>I", on="embedding", margin=0.5, metric="sphere")(seen) for kind in (Centred, Triplet))
    np.testing.assert_allclose(list(one.values()), list(other.values()), rtol=1e-5)


@pytest.mark.parametrize("loss", [Apart("V<>I"), Centred("V<>I")], ids=str)
def test_gradients_are_finite_where_all_features_are_equal(loss):
    gradient = jax.grad(lambda x: sum(loss(scope(2, pooled=x)).values()))(jnp.ones((4, 2, 1, 5)))
    assert bool(jnp.isfinite(gradient).all())


@pytest.mark.parametrize(("method", "loss"), [("bdtr", "intra"), ("ebdtr", "centred")])
def test_margins_and_edges_are_checked(method, loss):
    config = small.tiny_method(method, replaces=FEW)
    with pytest.raises(BdfError, match=f"losses.{loss}.margin"):
        vary(config, {f"losses.{loss}.margin": -1.0})
    with pytest.raises(BdfError, match=f"losses.{loss}.edges.*X"):
        vary(config, {f"losses.{loss}.edges": "V>X"})


@pytest.mark.parametrize(("method", "width"), [("bdtr", 1024), ("ebdtr", 512)])
def test_its_size(method, width):
    """Two ResNet-50s, one matrix with normalisation and one classifier, with offsets."""
    assert parameters(method) == 2 * 23_508_032 + (2048 + 1 + 2) * width + (width + 1) * 395


def test_batches_of_bdtr_have_one_image_of_each_base():
    config = small.tiny_method("bdtr")
    assert (config.data.identities, config.data.images) == (64, 1)
