"""JSIA: its size, and who learns from what."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scopes
import small

from bdf_jax.models import Network
from bdf_jax.models.resnet import Stage
from bdf_jax.training.stages import divided, phases
from bdf_jax.training.state import initial_state
from bdf_jax.training.step import train_step

CONFIG = small.tiny_method(
    "jsia", replaces={"data.identities": 2, "data.images": 2, "augment.pad": 0, "augment.erase": 0.0}
)


def test_it_has_the_parameters_of_the_authors_code():
    """Encoder and classifier; for each base a style encoder (without the unused classifier), MLP, decoder, critics."""
    encoder, style, mlp, decoder, critic = 24_321_088, 760_779 - 50_955, 625_152, 3_198_723, 2 * 690_401
    assert scopes.parameters("jsia") == encoder + 2 * (style + mlp + decoder + critic)


def test_the_stem_has_no_activation():
    x = jnp.asarray(scopes.normal(1, 1, 16, 8, 3))
    plain, without = (
        Stage("resnet18", 0, stem_relu=relu).init_with_output(jax.random.key(0), x, train=True)[0]
        for relu in (True, False)
    )
    assert without.min() < 0
    np.testing.assert_array_equal(plain, jnp.maximum(without, 0))


@pytest.fixture(scope="module")
def moved():
    """(stage, losses that are kept) -> the groups that a step of plain descent moves, and the statistics that move."""
    network = Network.of(CONFIG, 5)
    state = initial_state(network, CONFIG)
    parts = divided(state.params, CONFIG)
    plain = dict.fromkeys(parts, optax.sgd(1.0))
    state = state.replace(opt_state={name: plain[name].init(part) for name, part in parts.items()})
    images = np.random.default_rng(0).integers(0, 256, (4, 2, 32, 16, 3), dtype=np.uint8)
    stages = {phase.name: phase for phase in phases(CONFIG, 300)}

    def step(stage, *kept):
        phase = stages[stage]
        kept = kept or phase.losses
        pulls = tuple((group, tuple(name for name in names if name in kept)) for group, names in phase.pulls)
        after, _ = jax.jit(
            lambda state: train_step(
                state, images, np.array([0, 0, 1, 1], np.int32), network=network, optimisers=plain, config=CONFIG,
                phase=dataclasses.replace(phase, pulls=pulls), gather=lambda x: x,
            )
        )(state)  # fmt: skip
        same = {name: bool((before == after).all()) for name, before, after in leaves(state.params, after.params)}
        groups = {g: {not same[name] for name in same if name.split("/")[0] in part} for g, part in parts.items()}
        statistics = {
            name.split("/")[0]: bool((a != b).any()) for name, a, b in leaves(state.batch_stats, after.batch_stats)
        }
        return {group for group, found in groups.items() if True in found}, statistics

    return step


def leaves(before, after):
    """(name, before, after) of every array."""
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True):
        yield "/".join(key.key for key in path), np.asarray(a), np.asarray(b)


def test_reconstructed_codes_do_not_move_the_encoder_of_the_content(moved):
    """Not by a bit: its gradient is dropped; that of the images is not."""
    assert moved("joint", "content", "style")[0] == {"generators"}


@pytest.mark.long
def test_images_move_the_encoder_of_the_content_as_well(moved):
    assert moved("joint", "fool", "pixels")[0] == {"generators", "shared"}


@pytest.mark.long
def test_the_alignment_moves_the_encoder_alone(moved):
    assert moved("joint", "align")[0] == {"main", "shared"}


@pytest.mark.long
def test_the_warm_up_leaves_the_encoder_and_moves_its_running_statistics(moved):
    groups, statistics = moved("warmup")
    assert groups == {"generators", "critics"}
    assert statistics["layer1"]


def test_the_images_that_are_aligned_pass_no_gradient_to_their_makers():
    assert {name for name, view in CONFIG.views.items() if view.detach} == {"seen_V", "seen_I"}
    assert set(CONFIG.network.inputs) == {"Vg", "Ig", "seen_V", "seen_I"}
