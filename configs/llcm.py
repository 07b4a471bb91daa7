"""A method on LLCM, with its own recipe.

    python train.py --config=configs/llcm.py --config.data.root=LLCM --workdir=runs/llcm \
        --config.network.pretrained=timm/resnet50.tv_in1k

Unverified: the data set is under licence and no recipe has been run on it.
"""

from bdf_jax.config import Config, DataConfig
from bdf_jax.method import experiment


def get_config(method: str = "base_derivative") -> Config:
    """The method's recipe, with what it changes for LLCM."""
    return experiment(method, "llcm", data=DataConfig(dataset="llcm", workers=4))
