"""The full method on the synthetic world, from scratch, in minutes on two CPU cores.

python train.py --config=configs/demo.py --workdir=runs/demo
"""

from bdf_jax.config import (
    AugmentConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    LossConfig,
    ModelConfig,
    OptimiserConfig,
    TrainingConfig,
    WorldConfig,
    editable,
)

CONFIG = Config(
    data=DataConfig(
        image_size=(64, 32),
        identities=16,
        images=2,
        world=WorldConfig(train_ids=512, test_ids=256, images=2),
    ),
    # Erasing helps a run of hours and hurts one of minutes.
    augment=AugmentConfig(pad=4, erase=0.0),
    # Pooled over the whole image, the 128 features of a small network hardly differ from person to person.
    model=ModelConfig(arch="tiny", stripes=4),
    # Ten times the default. After 300 steps the default did better (docs/ablation.md); the numbers in the README are
    # of this weight.
    loss=LossConfig(mdl_weight=1.0),
    optimiser=OptimiserConfig(learning_rate=3e-3, warmup_epochs=0.5, milestones=(6.5, 8.5)),
    training=TrainingConfig(epochs=10.0, steps=900, log_every=1, checkpoint_every=100),
    evaluation=EvaluationConfig(baselines=True, batch_size=256),
)


def get_config():
    return editable(CONFIG)
