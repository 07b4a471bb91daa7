"""Two steps of methods on one device against four under jit and pmap; a program: agreement.py OUT.json METHOD...

A difference is told in units of the movement, see `tests/training/devices.py`.
"""

import json
import os
import sys
from pathlib import Path

os.environ["JAX_NUM_CPU_DEVICES"] = "4"

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]  # from a checkout that is not installed

import jax
import numpy as np
import small
from PIL import Image

from bdf_jax.config import vary
from bdf_jax.models import Network
from bdf_jax.training.compile import compile_step
from bdf_jax.training.stages import phases
from bdf_jax.training.state import initial_state
from bdf_jax.xla import at_risk, avoid_wrong_sums

CLASSES, TOTAL = 24, 300
SMALL = {
    "data.identities": 16,
    "data.images": 2,
    "augment.pad": 0,  # what is padded is flat
    # Small first steps: behind a large one, the last bit decides on which side of a kink an activation lies.
    "optimiser.warmup_epochs": 10.0,
    "optimiser.warmup_factor": 0.01,
}


def batches(steps):
    """Smooth random images: without flat patches, whose maxima are ties that any last bit decides."""
    rng = np.random.default_rng(0)
    for _ in range(steps):
        coarse = rng.integers(0, 256, (64, 6, 4, 3), dtype=np.uint8)
        fine = np.stack([np.asarray(Image.fromarray(c).resize((16, 32), Image.Resampling.BICUBIC)) for c in coarse])
        yield fine.reshape(32, 2, 32, 16, 3), np.repeat(rng.permutation(CLASSES)[:16], 2).astype(np.int32)


def norm(a, b):
    pairs = zip(jax.tree.leaves(jax.device_get(a)), jax.tree.leaves(jax.device_get(b)), strict=True)
    return np.sqrt(sum(float(np.square(np.float64(x) - np.float64(y)).sum()) for x, y in pairs))


def distances(method):
    """{"phase, compiler": distance} for the first steps of every stage of a method."""
    config = small.tiny_method(method, replaces=SMALL)
    if at_risk(config):
        avoid_wrong_sums()
    network, found = Network.of(config, CLASSES), {}
    start = jax.tree.map(np.array, initial_state(network, config))
    for phase in phases(config, TOTAL):
        steps = {}
        for compiler, count in (("jit", 1), ("jit", 4), ("pmap", 4)):
            changed = vary(config, {"training.compiler": compiler})
            steps[compiler, count] = compile_step(network, changed, phase, TOTAL, jax.devices()[:count])
        alone = steps.pop(("jit", 1))
        one = end_of(alone, start)
        nudged = max(
            distance(end_of(alone, start.replace(params=nudge(start.params, seed))), one, start) for seed in range(3)
        )
        for (compiler, _), compiled in steps.items():
            found[f"{phase.name}, {compiler}"] = {
                "distance": distance(end_of(compiled, start), one, start),
                "one unit in the last place": nudged,
            }
    return found


def end_of(compiled, start):
    """The state after two steps."""
    state = compiled.place_state(start)
    for images, labels in batches(2):
        state, _ = compiled.step(state, *compiled.place_batch(images, labels))
    return jax.tree.map(np.array, jax.device_get(state))


def distance(end, one, start):
    """In units of the movement, the largest over parameters, batch statistics and optimiser state."""
    return max(
        norm(getattr(end, part), getattr(one, part)) / norm(getattr(one, part), getattr(start, part))
        for part in ("params", "batch_stats", "opt_state")
    )


def nudge(params, seed):
    """Every parameter one unit in the last place away: what rounding alone does is told by this."""
    signs = np.random.default_rng(seed)
    return jax.tree.map(lambda x: np.nextafter(x, x + signs.choice([-1, 1], x.shape).astype(x.dtype)), params)


if __name__ == "__main__":
    out, *methods = sys.argv[1:]
    Path(out).write_text(json.dumps({method: distances(method) for method in methods}, indent=1))
