"""BDTR: two networks that meet in one embedding, ranked both ways between the bases and kept apart within each.

Written from the authors' code (mangye16/Visible-Thermal-Person-Re-Identification), in which the two networks are
AlexNets up to fc6; here each is a whole ResNet-50 and its pooled feature stands for fc6, so that methods are compared
with the same trunk. Losses, margins, the shared embedding of 1024, its ReLU before the classifier, batches of one
image of each base for 64 identities and the rate are the code's; the batch normalisation that it has behind fc6
stands behind the embedding's matrix, as in the authors' later networks, and dropout is left out. Of several images of
an identity, which the code never draws, the positive is the farthest one. The readme advises a larger weight of the
ranking on RegDB without naming one. The authors' own SYSU-MM01 all-search result, not reproduced here: R1 17.01, mAP
19.66; RegDB visible to thermal R1 33.47, mAP 31.83. Unverified on the real data sets.
"""

from bdf_jax.config import AugmentConfig, NetworkConfig
from bdf_jax.losses.terms import Identity, Triplet
from bdf_jax.losses.top_ranking import Apart
from bdf_jax.method import Method
from bdf_jax.models.heads import BNNeck, Linear, Project
from bdf_jax.models.trunk import ResNet
from bdf_jax.parts import Named
from bdf_jax.training.optimiser import SGD

BDTR = Method(
    paper="Ye, Wang, Lan, Yuen: Visible Thermal Person Re-Identification via Dual-Constrained Top-Ranking, IJCAI",
    year=2018,
    fidelity="author's code",
    note="ResNet-50 in place of AlexNet; dropout is left out",
    network=NetworkConfig(
        trunk=ResNet(50),
        split_at=5,
        neck=Project(1024),
        heads=Named(classifier=Linear(bias=True, slope=0.0)),
    ),
    losses=Named(
        ce=Identity(reduce="mean"),
        cross=Triplet("V<>I", on="embedding", margin=0.5, metric="sphere"),
        intra=Apart("V<>I", on="embedding", margin=0.1, weight=0.1),
    ),
    optimiser=SGD(1e-3, weight_decay=0.0, warmup_epochs=0, milestones=(), nesterov=False),
    augment=AugmentConfig(flip=0.0, erase=0.0),
    identities=64,
    images=1,
    epochs=15,
    on={  # in minutes from scratch, two whole networks do not meet, and a classifier behind a ReLU does not learn
        "demo": {"network.split_at": 1, "network.neck": BNNeck(), "network.heads.classifier.slope": 1.0}
    },
)
