"""Schedules and updates against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdf_jax.config import Config, GeneratorConfig, ModelConfig, OptimiserConfig, vary
from bdf_jax.training.optimiser import make_optimiser, schedule

PARAMS = {
    "stem": {"conv": {"kernel": jnp.array([1.0, -2.0])}},
    "generator_visible": {"conv1": {"kernel": jnp.array([0.5])}},
    "bnneck": {"scale": jnp.array([1.0])},
    "classifier": {"kernel": jnp.array([3.0])},
}


def test_the_default_schedule_warms_up_over_ten_epochs_and_drops_at_forty_and_seventy():
    rate = schedule(OptimiserConfig(), epochs=120, steps=1200)  # ten steps an epoch
    np.testing.assert_allclose(rate(0), 3.5e-4 * 0.01, rtol=1e-5)
    np.testing.assert_allclose(rate(50), 3.5e-4 * (0.01 + 0.99 * 0.5), rtol=1e-5)
    for step, factor in ((100, 1), (399, 1), (400, 0.1), (699, 0.1), (700, 0.01), (1199, 0.01)):
        np.testing.assert_allclose(rate(step), 3.5e-4 * factor, rtol=1e-5)


def test_a_run_of_given_steps_keeps_the_shape_of_its_schedule():
    long, short = (schedule(OptimiserConfig(), epochs=120, steps=steps) for steps in (1200, 120))
    np.testing.assert_allclose([long(10 * s) for s in range(120)], [short(s) for s in range(120)], rtol=1e-5)


def test_adam_has_the_l2_penalty_inside_its_gradient():
    """One step by hand: m and v are corrected to g and g^2, so the update is -lr g / (|g| + eps) of g + wd p."""
    config = vary(Config(), {"optimiser.warmup_epochs": 0.0, "optimiser.learning_rate": 0.1})
    optimiser = make_optimiser(config, 100)
    gradient = jax.tree.map(lambda p: 0.01 * jnp.ones_like(p), PARAMS)
    updates, _ = optimiser.update(gradient, optimiser.init(PARAMS), PARAMS)

    def by_hand(g, p):
        g = g + 5e-4 * p
        return -0.1 * g / (np.abs(g) + 1e-8)

    jax.tree.map(lambda u, g, p: np.testing.assert_allclose(u, by_hand(g, p), rtol=1e-4), updates, gradient, PARAMS)


def test_sgd_is_nesterovs_with_its_own_rate_for_trunk_and_generators():
    config = vary(
        Config(),
        {
            "optimiser.name": "sgd", "optimiser.learning_rate": 1.0, "optimiser.warmup_epochs": 0.0,
            "optimiser.weight_decay": 0.0, "optimiser.trunk_scale": 0.1, "optimiser.generator_scale": 10.0,
        },
    )  # fmt: skip
    optimiser = make_optimiser(config, 100)
    gradient = jax.tree.map(jnp.ones_like, PARAMS)
    state = optimiser.init(PARAMS)
    first, state = optimiser.update(gradient, state, PARAMS)
    second, _ = optimiser.update(gradient, state, PARAMS)
    # v1 = 1, step g + 0.9 v1 = 1.9; v2 = 1.9, step g + 0.9 v2 = 2.71
    for updates, expected in ((first, 1.9), (second, 2.71)):
        np.testing.assert_allclose(updates["classifier"]["kernel"], [-expected], rtol=1e-5)
        np.testing.assert_allclose(updates["stem"]["conv"]["kernel"], [-0.1 * expected] * 2, rtol=1e-5)
        np.testing.assert_allclose(updates["generator_visible"]["conv1"]["kernel"], [-10 * expected], rtol=1e-5)


@pytest.mark.parametrize("detach", [True, False])
def test_weight_decay_leaves_a_detached_generator_alone(detach):
    config = Config(model=ModelConfig(generator=GeneratorConfig(detach=detach)))
    optimiser = make_optimiser(config, 100)
    nothing = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, _ = optimiser.update(nothing, optimiser.init(PARAMS), PARAMS)
    assert (updates["generator_visible"]["conv1"]["kernel"] == 0).all() == detach
    assert (updates["stem"]["conv"]["kernel"] != 0).all()
