"""SYSU-MM01 with the SGD schedule of the AGW baseline.

Schedule: Ye et al., "Deep Learning for Person Re-identification: A Survey and Outlook", TPAMI 2021.

    python train.py --config=configs/sysu_mm01_agw.py --config.data.root=SYSU-MM01 --workdir=runs/sysu_mm01_agw \
        --config.model.pretrained=timm/resnet50.tv_in1k

Unverified: the data set is under licence and this recipe has not been run on it.
"""

from configs import variation


def get_config():
    return variation(
        "sysu_mm01",
        {
            "optimiser.name": "sgd",
            "optimiser.learning_rate": 0.1,
            "optimiser.trunk_scale": 0.1,
            "optimiser.warmup_epochs": 10.0,
            "optimiser.milestones": (20.0, 50.0),
            "training.epochs": 81.0,
        },
    )
