"""HcTri: stripes, first stages for each base, and a triplet of identity centres.

Written from the authors' code (hijune6/Hetero-center-triplet-loss-for-VT-Re-ID). The rate warms up linearly within an
epoch where the code keeps it. On RegDB: a generalised mean with exponent 10, smoothed labels, and twice the weight of
the centres of single stripes, as the authors' notes ask. The authors' own results, not reproduced here: SYSU-MM01
all-search R1 61.68, mAP 57.51; RegDB visible to thermal R1 91.05, mAP 83.28. Unverified on the real data sets.
"""

from bdf_jax.config import AugmentConfig, NetworkConfig
from bdf_jax.losses.terms import Identity, Triplet
from bdf_jax.method import Method
from bdf_jax.models.heads import Linear, Pool, Project
from bdf_jax.models.trunk import ResNet
from bdf_jax.parts import Named
from bdf_jax.training.optimiser import SGD

STRIPES = 6  # the code adds up what the losses average over stripes

HCTRI = Method(
    paper="Liu, Tan, Zhou: Parameter Sharing Exploration and Hetero-Center Triplet Loss for Visible-Thermal Person "
    "Re-Identification, TMM",
    year=2020,
    fidelity="author's code",
    network=NetworkConfig(
        trunk=ResNet(50),
        split_at=2,
        pool=Pool("gem", p=3.0, stripes=STRIPES, join=False),
        neck=Project(256, slope=0.0),
        heads=Named(classifier=Linear(bias=True)),
    ),
    losses=Named(
        ce=Identity(reduce="mean", weight=STRIPES),
        whole=Triplet("V+I>V+I", level="center", margin=0.3, on="embedding", joined=True),
        stripes=Triplet("V+I>V+I", level="center", margin=0.3, on="embedding", weight=STRIPES),
    ),
    optimiser=SGD(0.1, warmup_epochs=10, warmup_factor=0.1, milestones=(20, 50), scales=Named(trunk=0.1)),
    augment=AugmentConfig(erase=0.0),
    image_size=(288, 144),
    identities=6,
    images=8,
    epochs=61,
    on={
        "regdb": {
            "network.pool.p": 10.0,
            "losses.ce.smoothing": 0.1,
            "losses.stripes.weight": 2.0 * STRIPES,
            "data.identities": 8,
            "data.images": 4,
        },
        # Its last map has four rows; and behind a ReLU the embedding dies in a run of minutes: all centres are 0.
        "demo": {"network.pool.stripes": 4, "network.neck.slope": 1.0},
    },
)
