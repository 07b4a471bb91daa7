"""A tiny configuration on a tiny world, for whole runs in seconds."""

import pytest

from bdf_jax.config import (
    AugmentConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    OptimiserConfig,
    TrainingConfig,
    WorldConfig,
)

WORLD = WorldConfig(train_ids=6, test_ids=3, images=2, size=(32, 16))


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory) -> Config:
    """Six steps of the full method on nine synthetic people."""
    return Config(
        data=DataConfig(
            dir=str(tmp_path_factory.mktemp("data")), image_size=(32, 16), identities=4, images=2, world=WORLD
        ),
        augment=AugmentConfig(pad=2),
        model=ModelConfig(arch="tiny"),
        optimiser=OptimiserConfig(learning_rate=1e-3, warmup_epochs=1.0),
        training=TrainingConfig(steps=6, log_every=1, checkpoint_every=2),
        evaluation=EvaluationConfig(batch_size=16),
    )
