"""A method on RegDB, one of its ten trials.

    python train.py --config=configs/regdb.py --config.data.root=RegDB --config.data.trial=1 --workdir=runs/regdb-1 \
        --config.network.pretrained=timm/resnet50.tv_in1k

Every trial trains a network of its own; `python -m bdf_jax trials --config=configs/regdb.py --config.data.root=RegDB
--workdir=runs/regdb` does all ten and prints mean and deviation. Unverified: the data set is under licence and no
recipe has been run on it.
"""

from bdf_jax.config import Config, DataConfig
from bdf_jax.method import experiment


def get_config(method: str = "base_derivative") -> Config:
    """The method's recipe, with what it changes for RegDB."""
    return experiment(method, "regdb", data=DataConfig(dataset="regdb", workers=4))
