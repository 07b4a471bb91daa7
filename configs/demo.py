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
        identities=12,
        images=4,
        world=WorldConfig(train_ids=256, test_ids=64, images=4),
    ),
    # Erasing and a strong weight decay help a run of hours and hurt one of minutes.
    augment=AugmentConfig(pad=4, erase=0.0),
    model=ModelConfig(arch="tiny"),
    # From scratch the cross-modality term needs the weight of the others; 0.1 suits a pretrained network.
    loss=LossConfig(mdl_weight=1.0),
    optimiser=OptimiserConfig(learning_rate=1e-3, weight_decay=5e-5, warmup_epochs=0.5, milestones=(7.0,)),
    training=TrainingConfig(epochs=10.0, steps=400, log_every=1, checkpoint_every=100),
    evaluation=EvaluationConfig(baselines=True, batch_size=256),
)


def get_config():
    return editable(CONFIG)
