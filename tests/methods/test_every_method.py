"""What holds for every method of the registry: compiled as not compiled, on any number of devices, killed or not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small

import bdf_jax
from bdf_jax.checkpoints import load_state
from bdf_jax.config import DataConfig, EvaluationConfig, TrainingConfig, WorldConfig
from bdf_jax.evaluation.workdir import evaluate_workdir
from bdf_jax.export import export_embedder
from bdf_jax.method import registry
from bdf_jax.models import Network
from bdf_jax.training.loop import run
from bdf_jax.training.preemption import Preempted
from bdf_jax.training.stages import divided, phases
from bdf_jax.training.state import initial_state
from bdf_jax.training.step import train_step

FIRST = ("base_derivative", "cmgan")  # the others are looked at by the long tests
METHODS = [pytest.param(name, marks=() if name in FIRST else pytest.mark.long) for name in registry(variations=False)]
FEW = {"data.identities": 2, "data.images": 2, "augment.pad": 2, "augment.erase": 0.0}


def value_and_norm(method, images, labels):
    """Loss and squared gradient norm of a step in each stage, as functions of nothing; and the parameters' number."""
    config = small.tiny_method(method, replaces=FEW)
    network = Network.of(config, 7)
    sgd = {name: optax.sgd(1.0) for name in ("main", *config.groups)}
    state = initial_state(network, config)
    parts = divided(state.params, config)
    state = state.replace(opt_state={name: optax.sgd(1.0).init(part) for name, part in parts.items()})
    for phase in phases(config, 300):

        def step(state, images, labels, phase=phase):
            _, metrics = train_step(
                state, images, labels, network=network, optimisers=sgd, config=config, phase=phase, gather=lambda x: x
            )
            return metrics["loss"], jnp.square(metrics["gradient_norm"])

        yield step, (state, images, labels)


def smooth(n):
    """Random images of few pixels, enlarged."""
    return np.random.default_rng(0).integers(0, 256, (n, 2, 8, 4, 3), dtype=np.uint8).repeat(4, 2).repeat(4, 3)


@pytest.mark.parametrize("method", METHODS)
def test_a_compiled_step_gives_what_is_computed_without_a_compiler(method):
    """XLA for CPU has made garbage of sums that are right outside jit (bdf_jax/xla.py)."""
    for step, arguments in value_and_norm(method, smooth(4), np.repeat([0, 1], 2).astype(np.int32)):
        with jax.disable_jit():
            expected = step(*arguments)
        np.testing.assert_allclose(jax.jit(step)(*arguments), expected, rtol=2e-3)


@pytest.mark.parametrize("method", METHODS)
def test_images_that_are_all_equal_give_finite_gradients(method):
    for step, arguments in value_and_norm(method, np.full((4, 2, 32, 16, 3), 90, np.uint8), np.array([0, 0, 1, 1])):
        assert np.isfinite(jax.jit(step)(*arguments)).all()


@pytest.fixture(scope="module")
def distances(tmp_path_factory):
    """Of each method asked for, measured once in a process with four devices."""
    known = {}

    def measured(method):
        if method not in known:
            out = tmp_path_factory.mktemp("agreement") / "out.json"
            command = [sys.executable, str(Path(__file__).with_name("agreement.py")), str(out), method]
            done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[-3000:]
            known.update(json.loads(out.read_text()))
        return known[method]

    return measured


@pytest.mark.parametrize("method", METHODS)
def test_two_steps_agree_on_one_and_four_devices(distances, method):
    """In units of what the steps moved, jit and pmap, in every stage: no more than rounding does to one device.

    Mining and ReLUs may turn on a last bit, so the same is measured for one device that starts one unit in the last
    place away. A step that is wrong on several devices is further off than 0.2 (`tests/training/test_devices.py`).
    """
    for what, found in distances(method).items():
        assert found["distance"] < max(1e-3, 5 * found["one unit in the last place"]), what
        assert found["distance"] < 0.2, what


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


def tiny_run(method, data_dir, **training):
    """A run of four steps on a world of six people."""
    world = WorldConfig(train_ids=6, test_ids=3, images=2, size=(32, 16))
    return small.tiny_method(
        method,
        replaces={"data.identities": 3, "data.images": 2, "augment.pad": 2},
        data=DataConfig(dir=str(data_dir), world=world),
        training=TrainingConfig(steps=4, log_every=1, checkpoint_every=2, tensorboard=False, **training),
        evaluation=EvaluationConfig(batch_size=16),
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_run_is_saved_continued_evaluated_loaded_and_exported(method, data_dir, tmp_path, monkeypatch, capsys):
    config = tiny_run(method, data_dir)
    rows = run(config, tmp_path / "whole")
    assert 0 <= rows[0]["mAP"] <= 100

    stopped = iter([False, True])
    with monkeypatch.context() as patch:
        patch.setattr("bdf_jax.distributed.Termination.reached", lambda self, step: next(stopped))
        with pytest.raises(Preempted):
            run(config, tmp_path / "cut")
    assert run(config, tmp_path / "cut")[0]["mAP"] == rows[0]["mAP"]
    one, other = load_state(tmp_path / "whole"), load_state(tmp_path / "cut")
    assert one[2] == other[2] == 4
    jax.tree.map(np.testing.assert_array_equal, one[1], other[1])
    logged = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "cut")]
    assert logged[0] == logged[1]
    # Every loss is logged in the stages that compute it.
    assert set(config.losses) <= {name for line in logged[0].splitlines() for name in json.loads(line)}

    model = bdf_jax.load(tmp_path / "whole")
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 16, 3), dtype=np.uint8)
    for modality in ("visible", "infrared"):
        assert np.isfinite(model.embed(images, modality, progress=False)).all()
    assert evaluate_workdir(tmp_path / "whole", report=tmp_path / "report")[0]["mAP"] == rows[0]["mAP"]
    assert (tmp_path / "report" / "ranked-best-1.png").is_file()
    manifest = export_embedder(tmp_path / "whole", tmp_path / "exported", formats=("stablehlo",))
    assert manifest["output"]["dimension"] == model.embed(images, "infrared", progress=False).shape[1]
