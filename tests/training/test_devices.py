"""One step, any number of devices: jit and pmap agree with one device within rounding.

Eight steps of the full method with mixed batch statistics, global mining and centres, and augmentation.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]

STEPS = """
import sys, jax, numpy as np
from bdf_jax.config import Config, vary
from bdf_jax.models import Network
from bdf_jax.training.compile import compile_step
from bdf_jax.training.optimiser import make_optimiser
from bdf_jax.training.state import initial_state

compiler, out = sys.argv[1:]
config = vary(Config(), {
    "data.image_size": (32, 16), "data.identities": 4, "data.images": 2, "model.arch": "tiny", "augment.pad": 2,
    "optimiser.name": "sgd", "optimiser.learning_rate": 0.0001, "optimiser.warmup_epochs": 0.0,
    "loss.mdl_weight": 1.0, "training.compiler": compiler,
})
network, optimiser = Network(config.model, 9), make_optimiser(config, 100)
compiled = compile_step(network, optimiser, config)
state = compiled.place_state(initial_state(network, optimiser, 0, config.data.image_size))
rng, history = np.random.default_rng(0), []
for _ in range(8):
    labels = np.repeat(rng.permutation(9)[:4], 2).astype(np.int32)
    images = rng.integers(0, 256, (8, 2, 32, 16, 3), dtype=np.uint8)
    state, metrics = compiled.step(state, *compiled.place_batch(images, labels))
    history.append({name: float(value) for name, value in metrics.items()})
leaves = jax.tree_util.tree_leaves_with_path({"p": state.params, "s": state.batch_stats, "o": state.opt_state})
arrays = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
metrics = {f"metric {name}": np.array([h[name] for h in history]) for name in history[0]}
np.savez(out, **arrays, **metrics)
"""


def eight_steps(compiler, devices, tmp_path):
    out = tmp_path / f"{compiler}{devices}.npz"
    done = subprocess.run(
        [sys.executable, "-c", STEPS, compiler, str(out)],
        env=os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)},
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(np.load(out))


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    return eight_steps("jit", 1, tmp_path_factory.mktemp("one"))


@pytest.mark.parametrize(("compiler", "devices"), [("jit", 4), ("pmap", 1), ("pmap", 8)])
def test_parameters_statistics_optimiser_and_metrics_agree_with_one_device(one_device, compiler, devices, tmp_path):
    found = eight_steps(compiler, devices, tmp_path)
    assert set(found) == set(one_device)
    for name, expected in one_device.items():
        # Before a last bit decides which image is the hardest or which pixel a ReLU lets through, all is rounding.
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-5, err_msg=f"{compiler} {devices}: {name}")
