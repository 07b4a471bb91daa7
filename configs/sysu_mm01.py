"""SYSU-MM01 with the defaults of the method's closest relatives.

Paper: Liu et al., "A Base-Derivative Framework for Cross-Modality RGB-Infrared Person Re-Identification", ICPR 2020.
The paper's own all-search result (theirs, not reproduced here): R1 51.05, mAP 49.63.

    python train.py --config=configs/sysu_mm01.py --config.data.root=SYSU-MM01 --workdir=runs/sysu_mm01 \
        --config.model.pretrained=timm/resnet50.tv_in1k

Unverified: the data set is under licence and this recipe has not been run on it.
"""

from bdf_jax.config import Config, DataConfig, editable

# Processes: threads share Python's lock, and on two cores decode 1.2 to 1.3 times what one process does
# (docs/performance.md).
CONFIG = Config(data=DataConfig(workers=4))


def get_config():
    return editable(CONFIG)
