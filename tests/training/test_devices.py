"""One step, any number of devices: jit and pmap on eight agree with one, and variants known to be wrong do not.

The full method over 20 steps: mixed batch statistics, global mining and centres, augmentation on. `devices.py` beside
this file, which is run here in a process with eight devices, says what is compared and in which unit.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
WRONG = (
    "psum of gradients",
    "stop_gradient on the gathered features",
    "no gather",
    "batch statistics of a device",
    "one random key on all devices",
)


@pytest.fixture(scope="module")
def distances(tmp_path_factory):
    out = tmp_path_factory.mktemp("devices") / "distances.json"
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("devices.py")), str(out)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(out.read_text())


@pytest.mark.parametrize("compiler", ["jit", "pmap"])
def test_parameters_statistics_and_optimiser_agree_with_one_device(distances, compiler):
    # A few steps show the rounding itself; over twenty, training multiplies it, and an initial change of one unit in
    # the last place shows by how much.
    assert distances[f"{compiler}, 3 steps"] < 1e-3
    assert distances[f"{compiler}, 20 steps"] < 5 * distances["one unit in the last place"] < 0.2


@pytest.mark.parametrize("variant", WRONG)
def test_a_wrong_variant_is_far_away(distances, variant):
    assert distances[f"wrong: {variant}"] > 0.2
