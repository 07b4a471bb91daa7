"""DEEN: two more embeddings of each image, made in the middle of the trunk, and maps aggregated with those before them.

Written from the authors' code (ZYK100/LLCM), which is not the paper's in the second half of each aggregation block: its
tokens are pairs of positions, half a map apart, without a softmax; `--config.network.blocks.mfa1.position=paper` (and
mfa2, mfa3) has attention between positions as the paper draws it. The code's last step of the rate, at epoch 120, can
never be reached in it and is left out, as is its dropout of 0.01; the rate warms up linearly within an epoch where the
code keeps it. The sum of six similarities at the test is the product of two vectors. On RegDB, the trunk ends with
layer3, and the embeddings are made before it. The authors' own results, not reproduced here: SYSU-MM01 all-search
R1 74.7, mAP 71.8; RegDB visible to thermal R1 91.1, mAP 85.1. Unverified on the real data sets.
"""

from bdf_jax.config import AugmentConfig, NetworkConfig, RetrieveConfig
from bdf_jax.losses.branches import CentrePairs, Orthogonal
from bdf_jax.losses.terms import Identity, Triplet
from bdf_jax.method import Method
from bdf_jax.models.blocks_deen import DEE, MFA
from bdf_jax.models.heads import BNNeck
from bdf_jax.models.trunk import ResNet
from bdf_jax.parts import Named
from bdf_jax.pixels import MEAN
from bdf_jax.training.optimiser import SGD
from bdf_jax.views import Branch, View

ALL = "V+I+V1+I1+V2+I2"
ERASED_LESS = {"augment.erase_area": (0.02, 0.4)}

DEEN = Method(
    paper="Zhang, Wang: Diverse Embedding Expansion Network and Low-Light Cross-Modality Benchmark for "
    "Visible-Infrared Person Re-identification, CVPR",
    year=2023,
    fidelity="author's code",
    views=Named(
        V1=View("V", Branch("dee", 0)),
        V2=View("V", Branch("dee", 1)),
        I1=View("I", Branch("dee", 0)),
        I2=View("I", Branch("dee", 1)),
    ),
    network=NetworkConfig(
        trunk=ResNet(50),
        split_at=1,
        blocks=Named(mfa1=MFA(after=2), mfa2=MFA(after=3), mfa3=MFA(after=4), dee=DEE(after=4)),
        neck=BNNeck(offset="frozen"),
    ),
    losses=Named(
        ce=Identity(reduce="mean"),
        tri=Triplet(f"{ALL}>{ALL}", margin=0.3),
        cpm1=CentrePairs(("V1", "I1"), weight=0.8),
        cpm2=CentrePairs(("V2", "I2"), weight=0.8),
        ort=Orthogonal(("V1", "I1"), ("V2", "I2"), weight=0.01),
    ),
    optimiser=SGD(
        0.1,
        warmup_epochs=10,
        warmup_factor=0.1,
        milestones=(20, 80),
        scales=Named({"trunk": 0.1, "mfa*": 0.1, "dee": 0.1}),
    ),
    retrieve=RetrieveConfig(feature="both", use="concat"),
    augment=AugmentConfig(
        erase_area=(0.2, 0.8),
        erase_with=tuple(float(x) for x in MEAN),  # type: ignore[arg-type]
        visible_channels=(0.0, 0.0, 0.0, 0.5),
        infrared_channels=(0.0, 0.0, 0.0, 0.5),
        channels_of="pixels",
    ),
    image_size=(384, 144),
    identities=6,
    images=4,
    epochs=151,
    on={
        "regdb": {
            "network.trunk": ResNet(50, layers=3),
            "network.blocks.mfa3": None,
            "network.blocks.dee.after": 3,
            **ERASED_LESS,
        },
        "llcm": ERASED_LESS,
    },
)
