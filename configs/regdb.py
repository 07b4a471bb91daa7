"""RegDB, one of its ten trials, with the same recipe as SYSU-MM01.

Paper: Liu et al., "A Base-Derivative Framework for Cross-Modality RGB-Infrared Person Re-Identification", ICPR 2020.
The paper's own visible-to-thermal result, mean of ten trials (theirs, not reproduced here): R1 80.67, mAP 78.83.

    python train.py --config=configs/regdb.py --config.data.root=RegDB --config.data.trial=1 --workdir=runs/regdb-1 \
        --config.model.pretrained=timm/resnet50.tv_in1k

Every trial trains a network of its own; `python -m bdf_jax trials --config=configs/regdb.py --config.data.root=RegDB
--workdir=runs/regdb` does all ten and prints mean and deviation. Unverified: the data set is under licence and this
recipe has not been run on it.
"""

from bdf_jax.config import Config, DataConfig, editable

CONFIG = Config(data=DataConfig(dataset="regdb", workers=4))  # processes, as in sysu_mm01.py


def get_config():
    return editable(CONFIG)
