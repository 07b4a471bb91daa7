"""A method on SYSU-MM01, with its own recipe.

    python train.py --config=configs/sysu_mm01.py --config.data.root=SYSU-MM01 --workdir=runs/sysu_mm01 \
        --config.network.pretrained=timm/resnet50.tv_in1k
    python train.py --config=configs/sysu_mm01.py:agw ...     another method

Unverified: the data set is under licence and no recipe has been run on it.
"""

from bdf_jax.config import Config, DataConfig
from bdf_jax.method import experiment


def get_config(method: str = "base_derivative") -> Config:
    """The method's recipe."""
    # Processes: threads share Python's lock, and on two cores decode 1.2 to 1.3 times what one process does
    # (docs/performance.md).
    return experiment(method, "sysu_mm01", data=DataConfig(workers=4))
