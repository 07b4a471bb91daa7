"""Twenty steps on one device, on eight under jit and pmap, and in variants known to be wrong; a program, see `main`.

    python tests/training/devices.py OUT.json [SEED]

A difference is told in units of the movement: |a - b| / |b - start|, the largest over parameters, batch statistics and
optimiser state. Training in float32 is sensitive: Adam's first steps are hardly more than signs, and a last bit decides
which of two images is the harder. So the same is measured for one device that starts one unit in the last place away.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from pathlib import Path

os.environ["JAX_NUM_CPU_DEVICES"] = "8"

import jax
import numpy as np
import optax
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))  # from a checkout that is not installed

import small

from bdf_jax.config import vary
from bdf_jax.models import Network
from bdf_jax.training import step as step_module
from bdf_jax.training.compile import AXIS, compile_step
from bdf_jax.training.stages import make_optimisers, phases
from bdf_jax.training.state import initial_state
from bdf_jax.training.step import train_step

STEPS, SHORT, DEVICES, CLASSES = 20, 3, 8, 24
SMALL = {"data.identities": 16, "data.images": 2, "augment.pad": 2}
CONFIG = small.tiny_method(replaces=SMALL | {"losses.mdl.weight": 1.0})
TOTAL = 300


def batches(seed, steps):
    """Smooth random images: without flat patches, whose maxima are ties that any last bit decides."""
    rng = np.random.default_rng(seed)
    N = CONFIG.data.identities * CONFIG.data.images
    for _ in range(steps):
        coarse = rng.integers(0, 256, (N * 2, 6, 4, 3), dtype=np.uint8)
        fine = np.stack([np.asarray(Image.fromarray(c).resize((16, 32), Image.Resampling.BICUBIC)) for c in coarse])
        labels = rng.permutation(CLASSES)[: CONFIG.data.identities]
        yield fine.reshape(N, 2, 32, 16, 3), np.repeat(labels, CONFIG.data.images).astype(np.int32)


def gather(x):
    return jax.lax.all_gather(x, AXIS, tiled=True)


def times_devices(optimiser):
    """As if gradients had been summed over devices instead of averaged."""

    def update(gradients, state, params):
        return optimiser.update(jax.tree.map(lambda g: DEVICES * g, gradients), state, params)

    return optax.GradientTransformation(optimiser.init, update)


def run(step, place, state, seed, steps):
    for batch in batches(seed, steps):
        state, _ = step(state, *place(*batch))
    return jax.tree.map(np.array, state)


def distance(found, expected, start):
    """The largest difference in units of the movement over the three parts of a state."""

    def norm(a, b):
        pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
        return np.sqrt(sum(((np.asarray(x, np.float64) - y) ** 2).sum() for x, y in pairs))

    parts = ("params", "batch_stats", "opt_state")
    return max(
        norm(getattr(found, part), getattr(expected, part)) / norm(getattr(expected, part), getattr(start, part))
        for part in parts
    )


def main(out, seed=0):
    config = vary(CONFIG, {"training.seed": seed})
    network, optimisers = Network.of(config, CLASSES), make_optimisers(config, TOTAL)
    start = jax.tree.map(np.array, initial_state(network, config))
    phase = phases(config, TOTAL)[0]
    given = {"optimisers": optimisers, "config": CONFIG, "phase": phase}

    def whole(x):
        return x

    alone = jax.jit(functools.partial(train_step, network=network, gather=whole, **given))
    place_alone = lambda *arrays: arrays  # noqa: E731
    one = run(alone, place_alone, start, seed, STEPS)
    one_short = run(alone, place_alone, start, seed, SHORT)

    signs = np.random.default_rng(seed + 1)
    nudged = start.replace(
        params=jax.tree.map(lambda x: np.nextafter(x, x + signs.choice([-1, 1], x.shape).astype(x.dtype)), start.params)
    )
    results = {"one unit in the last place": distance(run(alone, place_alone, nudged, seed, STEPS), one, start)}

    for compiler in ("jit", "pmap"):
        compiled = compile_step(network, vary(CONFIG, {"training.compiler": compiler}), phase, TOTAL)
        for steps, expected in ((STEPS, one), (SHORT, one_short)):
            found = run(compiled.step, compiled.place_batch, compiled.place_state(start), seed, steps)
            results[f"{compiler}, {steps} steps"] = distance(found, expected, start)

    right = {
        "network": network.clone(axis_name=AXIS),
        **given,
        "gather": gather,
        "axis_name": AXIS,
    }
    few = vary(CONFIG, {"data.identities": CONFIG.data.identities // DEVICES})
    wrong = {
        "psum of gradients": {"optimisers": {name: times_devices(each) for name, each in optimisers.items()}},
        "stop_gradient on the gathered features": {"gather": lambda x: jax.lax.stop_gradient(gather(x))},
        "no gather": {"gather": whole, "config": few},
        "batch statistics of a device": {"network": network},
        "one random key on all devices": {},
    }
    augmented = step_module.augmented_views
    for name, change in wrong.items():
        if name.startswith("one random key"):
            step_module.augmented_views = lambda *arguments, first_pair: augmented(*arguments, first_pair=0)
        step = jax.pmap(
            functools.partial(train_step, **(right | change)), axis_name=AXIS, in_axes=(None, 0, 0), out_axes=None
        )
        place = lambda *arrays: tuple(a.reshape(DEVICES, -1, *a.shape[1:]) for a in arrays)  # noqa: E731
        results[f"wrong: {name}"] = distance(run(step, place, start, seed, SHORT), one_short, start)
    step_module.augmented_views = augmented

    with open(out, "w") as file:
        json.dump(results, file, indent=1)
    for name, value in results.items():
        print(f"{name:50} {value:.1e}")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
