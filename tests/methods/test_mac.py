"""MAC: two kinds of classifiers and how they agree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from scopes import normal, parameters, scope

from bdf_jax.config import vary
from bdf_jax.errors import BdfError
from bdf_jax.losses.agreement import Agreement, Consistency, divergence


def probabilities(scores):
    powers = [np.exp(score) for score in scores]
    return [power / sum(powers) for power in powers]


def kl(p, q):
    return sum(a * np.log(a / b) for a, b in zip(p, q, strict=True))


def logits(S=2):
    return {"classifier": normal(4, 2, S, 5), "specific": normal(4, 2, S, 5, seed=1)}


def test_agreement_is_its_definition_in_loops():
    heads = logits()
    found = Agreement()(scope(2, logits=heads))
    for m, view in enumerate("VI"):
        total = 0.0
        for n in range(4):
            for s in range(2):
                p, q = (probabilities(heads[name][n, m, s]) for name in ("classifier", "specific"))
                total += kl(p, q) + kl(q, p)
        np.testing.assert_allclose(found[view], total / 8, rtol=1e-4)


def test_each_learns_from_the_other_as_it_is():
    """The gradient is that of the divergence from what stands still: the difference of the probabilities."""
    heads = jax.tree.map(jnp.asarray, logits(1))
    gradient = jax.grad(lambda heads: sum(Agreement()(scope(2, logits=heads)).values()))(heads)
    for n in range(4):
        for m in range(2):
            p, q = (np.array(probabilities(heads[name][n, m, 0])) for name in ("classifier", "specific"))
            np.testing.assert_allclose(gradient["classifier"][n, m, 0], (p - q) / 4, atol=1e-6)
            np.testing.assert_allclose(gradient["specific"][n, m, 0], (q - p) / 4, atol=1e-6)


def test_consistency_is_its_definition_in_loops():
    heads = logits(1)
    found = Consistency()(scope(2, logits=heads))[""]
    pairs = [[probabilities(heads["classifier"][n, m, 0]) for m in range(2)] for n in range(4)]
    np.testing.assert_allclose(found, np.mean([kl(p, q) + kl(q, p) for p, q in pairs]), rtol=1e-4)


def test_certain_predictions_have_a_finite_divergence():
    far = jnp.asarray([300.0, 0.0, -300.0])
    value, gradient = jax.value_and_grad(lambda x: divergence(far, x))(far[::-1])
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    assert float(divergence(far, far)) == 0


def test_its_size():
    """Two ResNet-50s, one matrix, its normalisation, three classifiers with offsets."""
    assert parameters("mac") == 2 * 23_508_032 + (2048 + 1) * 512 + 1024 + 3 * (512 + 1) * 395


def test_a_head_that_is_not_there_is_refused_by_name():
    config = small.tiny_method("mac")
    with pytest.raises(BdfError, match=r"losses.agreement.second.*others"):
        vary(config, {"losses.agreement.second": "others"})
