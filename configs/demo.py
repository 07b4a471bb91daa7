"""A method on the synthetic world, from scratch, in minutes on two CPU cores.

python train.py --config=configs/demo.py --workdir=runs/demo
python train.py --config=configs/demo.py:xiv --workdir=runs/xiv      another method
"""

from bdf_jax.config import Config, DataConfig, EvaluationConfig, TrainingConfig, WorldConfig
from bdf_jax.method import experiment, find
from bdf_jax.models.trunk import tiny
from bdf_jax.training.optimiser import Adam

FAST = Adam(3e-3, warmup_epochs=0.5, milestones=(6.5, 8.5))


def get_config(method: str = "base_derivative") -> Config:
    """The method with a small trunk, small images and a short schedule."""
    recipe = find(method)
    replaces = {
        "network.trunk": tiny(recipe.network.trunk),
        "data.image_size": (64, 32),
        "data.identities": 16,
        "data.images": 2,
        # Erasing helps a run of hours and hurts one of minutes.
        "augment.pad": 4,
        "augment.erase": 0.0,
        "optimiser": FAST,
        **{f"groups.{name}.optimiser": FAST for name in recipe.groups},
        "training.epochs": 10.0,
    }
    if recipe.network.pool.stripes == 1:
        # Pooled over the whole image, the 128 features of a small network hardly differ from person to person.
        replaces["network.pool.stripes"] = 4
    return experiment(
        method,
        "demo",
        data=DataConfig(world=WorldConfig(train_ids=512, test_ids=256, images=2)),
        training=TrainingConfig(steps=900, log_every=1, checkpoint_every=100),
        evaluation=EvaluationConfig(baselines=True, batch_size=256),
        replaces=replaces,
    )
