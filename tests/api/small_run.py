"""A checkpoint of a small network that nobody trained."""

from pathlib import Path

import jax
import numpy as np
import small

from bdf_jax.checkpoints import Checkpoints, Metadata
from bdf_jax.config import Config, DataConfig, EvaluationConfig
from bdf_jax.models import Network, initial_variables

SIZE = (32, 16)
CONFIG = small.tiny_method(
    data=DataConfig(image_size=SIZE),
    replaces={"network.split_at": 1},  # a visible image and an infrared one take different ways
    evaluation=EvaluationConfig(batch_size=8),
)


def save_run(workdir: Path, config: Config = CONFIG, seed: int = 0) -> Path:
    """A work folder with a checkpoint of step 7, its parameters and statistics as after some training."""
    made = initial_variables(Network.of(config, 4), seed, config.data.image_size)
    random = np.random.default_rng(seed)
    params = jax.tree.map(lambda a: a + 0.01 * random.standard_normal(a.shape).astype(np.float32), made["params"])
    statistics = jax.tree.map(lambda a: a + 0.1 * random.random(a.shape).astype(np.float32), made["batch_stats"])
    state = {"params": params, "batch_stats": statistics, "opt_state": {"count": np.zeros(())}}
    checkpoints = Checkpoints(workdir)
    checkpoints.save(7, jax.device_put(state), Metadata(config, "abc", 4))
    checkpoints.close()
    return workdir
