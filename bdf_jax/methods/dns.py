"""DNS: maps and features shifted towards each other, with parts that only training has.

Written from the authors' code (Joey623/DNS). A second feature and a classifier for each base, with a slow copy, serve
the losses and are gone at the test: 26,257,728 parameters stay. Differences: float32 instead of mixed precision; no
dropout (0.01 in the code); no turn of hues of LLCM's infrared images; the code's first step of an epoch has the rate of
its last one, here every step has its own. The margin of the circle is the code's, 0.45; its logs have 0.5. The last
epoch of the authors' own logs, not reproduced here: SYSU-MM01 all-search R1 76.39, mAP 73.96; RegDB, first trial,
R1 91.84, mAP 87.55. Unverified on the real data sets.
"""

from bdf_jax.config import AugmentConfig, NetworkConfig
from bdf_jax.losses.shifting import Alignment, Circle, Distillation
from bdf_jax.losses.terms import Identity
from bdf_jax.method import Method
from bdf_jax.models.auxiliary import Exchanged, Shifted
from bdf_jax.models.blocks_dns import HSS
from bdf_jax.models.heads import BNNeck, Pool
from bdf_jax.models.trunk import ResNet
from bdf_jax.parts import Named
from bdf_jax.pixels import MEAN, STD
from bdf_jax.training.optimiser import SGD

FILL = (0.4914, 0.4822, 0.4465)
NO_GREY = (2 / 9, 2 / 9, 2 / 9, 0.0)

DNS = Method(
    paper="Jiang, Cheng, Yu, Liu, Chen, Zhao: Domain Shifting: A Generalized Solution for Heterogeneous "
    "Cross-Modality Person Re-Identification, ECCV",
    year=2024,
    fidelity="author's code",
    note="26,257,728 of its parameters are left at the test; the others are parts that only training has",
    network=NetworkConfig(
        trunk=ResNet(50),
        split_at=3,
        blocks=Named(hss3=HSS(after=4), hss4=HSS(after=5)),
        pool=Pool("gem"),
        neck=BNNeck(offset="learned"),
        auxiliary=Named(css=Shifted(), dd=Exchanged(("embedding", "css"))),
    ),
    losses=Named(
        ce=Identity(reduce="mean"),
        circle=Circle(margin=0.45, gamma=64.0),
        da=Alignment("css", weight=0.2),
        dd=Distillation("dd"),
    ),
    optimiser=SGD(
        0.2,
        warmup_epochs=16,
        warmup_factor=1e-4,
        milestones=(),
        fall="linear",
        scales=Named({"*": 0.1, "layer3": 0.2, "layer4": 0.25, "bnneck": 1.0, "classifier": 1.0, "auxiliary_dd": 1.0}),
    ),
    augment=AugmentConfig(erase_with=FILL, visible_channels=(1 / 6, 1 / 6, 1 / 6, 1 / 6)),
    image_size=(288, 144),
    identities=6,
    images=4,
    epochs=100,
    on={
        "regdb": {
            "optimiser.learning_rate": 0.1,
            "optimiser.scales.layer3": 0.1,
            "optimiser.scales.layer4": 0.1,
            # Filled before normalisation there.
            "augment.erase_with": tuple(((FILL - MEAN) / STD).tolist()),
            "augment.erase_area": (0.02, 0.33),
            "augment.visible_channels": NO_GREY,
        },
        "llcm": {"augment.visible_channels": NO_GREY},
    },
)
