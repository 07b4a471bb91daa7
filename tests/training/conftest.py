"""A tiny configuration on a tiny world, for whole runs in seconds."""

import pytest
import small

from bdf_jax.config import AugmentConfig, Config, DataConfig, EvaluationConfig, TrainingConfig, WorldConfig
from bdf_jax.training.optimiser import Adam

WORLD = WorldConfig(train_ids=6, test_ids=3, images=2, size=(32, 16))


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory) -> Config:
    """Six steps of the full method on nine synthetic people."""
    return small.tiny_method(
        data=DataConfig(dir=str(tmp_path_factory.mktemp("data")), world=WORLD),
        replaces={
            "data.identities": 4,
            "data.images": 2,
            "augment": AugmentConfig(pad=2),
            "optimiser": Adam(1e-3, warmup_epochs=1.0),
        },
        training=TrainingConfig(steps=6, log_every=1, checkpoint_every=2),
        evaluation=EvaluationConfig(batch_size=16),
    )
