"""Schedules and updates against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from bdf_jax.parts import Named
from bdf_jax.training.optimiser import SGD, Adam, schedule
from bdf_jax.training.stages import divided

PARAMS = {
    "stem": {"conv": {"kernel": jnp.array([1.0, -2.0])}},
    "generator_Dv": {"conv1": {"kernel": jnp.array([0.5])}},
    "bnneck": {"scale": jnp.array([1.0])},
    "classifier": {"kernel": jnp.array([3.0])},
}


def test_the_default_schedule_warms_up_over_ten_epochs_and_drops_at_forty_and_seventy():
    rate = schedule(Adam(), epochs=120, steps=1200)  # ten steps an epoch
    np.testing.assert_allclose(rate(0), 3.5e-4 * 0.01, rtol=1e-5)
    np.testing.assert_allclose(rate(50), 3.5e-4 * (0.01 + 0.99 * 0.5), rtol=1e-5)
    for step, factor in ((100, 1), (399, 1), (400, 0.1), (699, 0.1), (700, 0.01), (1199, 0.01)):
        np.testing.assert_allclose(rate(step), 3.5e-4 * factor, rtol=1e-5)


def test_a_run_of_given_steps_keeps_the_shape_of_its_schedule():
    long, short = (schedule(Adam(), epochs=120, steps=steps) for steps in (1200, 120))
    np.testing.assert_allclose([long(10 * s) for s in range(120)], [short(s) for s in range(120)], rtol=1e-5)


def test_adam_has_the_l2_penalty_inside_its_gradient():
    """One step by hand: m and v are corrected to g and g^2, so the update is -lr g / (|g| + eps) of g + wd p."""
    optimiser = Adam(0.1, warmup_epochs=0.0).transformation(120, 100)
    gradient = jax.tree.map(lambda p: 0.01 * jnp.ones_like(p), PARAMS)
    updates, _ = optimiser.update(gradient, optimiser.init(PARAMS), PARAMS)

    def by_hand(g, p):
        g = g + 5e-4 * p
        return -0.1 * g / (np.abs(g) + 1e-8)

    jax.tree.map(lambda u, g, p: np.testing.assert_allclose(u, by_hand(g, p), rtol=1e-4), updates, gradient, PARAMS)


def test_sgd_is_nesterovs_with_its_own_rate_for_trunk_and_generators():
    sgd = SGD(1.0, weight_decay=0.0, warmup_epochs=0.0, scales=Named({"trunk": 0.1, "generator_*": 10.0}))
    optimiser = sgd.transformation(120, 100)
    gradient = jax.tree.map(jnp.ones_like, PARAMS)
    state = optimiser.init(PARAMS)
    first, state = optimiser.update(gradient, state, PARAMS)
    second, _ = optimiser.update(gradient, state, PARAMS)
    # v1 = 1, step g + 0.9 v1 = 1.9; v2 = 1.9, step g + 0.9 v2 = 2.71
    for updates, expected in ((first, 1.9), (second, 2.71)):
        np.testing.assert_allclose(updates["classifier"]["kernel"], [-expected], rtol=1e-5)
        np.testing.assert_allclose(updates["stem"]["conv"]["kernel"], [-0.1 * expected] * 2, rtol=1e-5)
        np.testing.assert_allclose(updates["generator_Dv"]["conv1"]["kernel"], [-10 * expected], rtol=1e-5)


def test_the_last_scale_that_fits_counts():
    """A role, a name or a pattern."""
    sgd = SGD(1.0, 0.0, warmup_epochs=0.0, momentum=0.0, scales=Named({"head": 2.0, "bnneck": 3.0, "*em": 4.0}))
    optimiser = sgd.transformation(120, 100)
    gradient = jax.tree.map(jnp.ones_like, PARAMS)
    updates, _ = optimiser.update(gradient, optimiser.init(PARAMS), PARAMS)
    found = {name: float(-jax.tree.leaves(tree)[0].ravel()[0]) for name, tree in updates.items()}
    assert found == {"stem": 4.0, "generator_Dv": 1.0, "bnneck": 3.0, "classifier": 2.0}


@pytest.mark.parametrize("detach", [True, False])
def test_no_group_has_a_detached_generator_which_weight_decay_would_shrink(detach):
    config = small.tiny_method(replaces={"views.Dv.detach": detach})
    assert ("generator_Dv" in divided(PARAMS, config)["main"]) != detach
