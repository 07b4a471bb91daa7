"""Checkpoints as files: atomic, self-contained, readable when a neighbour is damaged."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdf_jax.checkpoints import Checkpoints, Metadata, load_metadata, load_variables
from bdf_jax.config import Config, vary
from bdf_jax.errors import BdfError

METADATA = Metadata(vary(Config(), {"data.image_size": (64, 32)}), "abc", 7)


def state(value):
    return {
        "params": {"w": jnp.full(5, value)},
        "batch_stats": {"mean": jnp.full((3, 3), -value)},
        "opt_state": (jnp.zeros((), jnp.int32), {"mu": jnp.full(5, 10 * value)}),
    }


@pytest.fixture
def saved(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step, score in ((10, 0.9), (20, 0.1), (30, None), (40, 0.2)):
        checkpoints.save(step, state(float(step)), METADATA, score)
    checkpoints.close()
    return tmp_path


def damage(workdir, step):
    """Empties every file of the arrays, as a crash of the machine can."""
    for file in (workdir / "checkpoints" / str(step) / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")


def test_the_last_two_and_the_best_are_kept(saved):
    checkpoints = Checkpoints(saved)
    assert checkpoints.steps() == [10, 30, 40]
    assert checkpoints.best_step() == 10
    checkpoints.close()


def test_a_state_comes_back_bit_for_bit_where_it_is_wanted(saved):
    checkpoints = Checkpoints(saved)
    restored, step = checkpoints.restore(state(0.0))
    checkpoints.close()
    assert step == 40
    jax.tree.map(np.testing.assert_array_equal, restored, state(40.0))


def test_a_state_may_be_overwritten_as_soon_as_saving_has_begun(tmp_path):
    checkpoints, step = Checkpoints(tmp_path), jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    current = jax.device_put(state(1.0))
    checkpoints.save(1, current, METADATA)
    for _ in range(50):
        current = step(current)
    checkpoints.wait()
    restored, _ = checkpoints.restore(state(0.0))
    checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, restored, state(1.0))


def test_variables_load_without_the_optimiser_and_default_to_the_best_on_validation(saved):
    metadata, variables, step = load_variables(saved)
    assert (metadata, step) == (METADATA, 10)
    assert set(variables) == {"params", "batch_stats"}
    np.testing.assert_array_equal(variables["params"]["w"], np.full(5, 10.0))
    assert load_variables(saved, 40)[2] == load_variables(saved / "checkpoints" / "40")[2] == 40
    assert load_metadata(saved, 30) == METADATA


def test_a_damaged_checkpoint_is_passed_over_kept_aside_and_reached_again(saved, caplog):
    damage(saved, 40)
    checkpoints = Checkpoints(saved)
    restored, step = checkpoints.restore(state(0.0))
    assert step == 30
    assert "checkpoint of step 40 cannot be read and is passed over" in caplog.text
    np.testing.assert_array_equal(restored["params"]["w"], np.full(5, 30.0))
    assert (saved / "damaged-checkpoint-40").is_dir()
    checkpoints.save(40, state(41.0), METADATA)
    checkpoints.close()
    np.testing.assert_array_equal(load_variables(saved, 40)[1]["params"]["w"], np.full(5, 41.0))


def test_a_checkpoint_that_was_deleted_is_not_missed(saved):
    shutil.rmtree(saved / "checkpoints" / "40")
    checkpoints = Checkpoints(saved)
    assert checkpoints.restore(state(0.0))[1] == 30
    checkpoints.close()


def test_when_none_can_be_read_nothing_is_overwritten(saved):
    for step in (10, 30, 40):
        damage(saved, step)
    checkpoints = Checkpoints(saved)
    with pytest.raises(BdfError, match="no checkpoint can be read"):
        checkpoints.restore(state(0.0))
    checkpoints.close()
    with pytest.raises(BdfError, match="damaged checkpoint"):
        load_variables(saved)


def test_other_splits_are_refused(saved):
    checkpoints = Checkpoints(saved)
    checkpoints.expect(METADATA)
    with pytest.raises(BdfError, match="trained on other splits"):
        checkpoints.expect(Metadata(METADATA.config, "def", 7))
    checkpoints.close()


def test_a_wrong_path_says_what_is_there(saved, tmp_path):
    with pytest.raises(BdfError, match="no such folder"):
        load_variables(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BdfError, match="expected a training run with finished checkpoints, found nothing"):
        load_variables(tmp_path / "empty")
    with pytest.raises(BdfError, match="no checkpoint of step 5; there are 10, 30, 40"):
        load_variables(saved, 5)
