"""MSR: a network for each base that is classified by itself, and what both share, compared by a learned metric.

No code of the authors is known; the structure is that of a third party's repetition: two ResNet-50s, a classifier for
each, one projection to 512 and one classifier that both share, and a Euclidean constraint between the bases, weight
0.1. It differs from that code, which draws the centres of whole batches together and has no metric: here the centres
are those of identities (`--config.losses.constraint.centre=batch` has the batch's), the specific classifiers see the
pooled feature of 2048, and an XQDA is fitted on the training features at the end, as our reading of the paper's
metric learning. Images, batches and rates are those of the other methods here; the third party has Adam at 1e-4 for
five epochs behind a trained baseline. The authors' own SYSU-MM01 all-search result, not reproduced here: R1 37.35,
mAP 38.11; RegDB visible to thermal R1 48.43, mAP 48.67. Unverified on the real data sets.
"""

from bdf_jax.config import NetworkConfig, RetrieveConfig
from bdf_jax.losses.centres import CentreDistance
from bdf_jax.losses.terms import Identity
from bdf_jax.method import Method
from bdf_jax.models.heads import Linear, Project
from bdf_jax.models.metrics_xqda import XQDA
from bdf_jax.models.trunk import ResNet
from bdf_jax.parts import Named

MSR = Method(
    paper="Feng, Lai, Xie: Learning Modality-Specific Representations for Visible-Infrared Person Re-Identification, "
    "TIP",
    year=2019,
    fidelity="third party",
    note="the metric is our reading",
    network=NetworkConfig(
        trunk=ResNet(50),
        split_at=5,
        neck=Project(512),
        heads=Named(shared=Linear(bias=True), specific=Linear(bias=True, specific=True, of="pooled")),
        metric=XQDA(features=256),
    ),
    losses=Named(
        specific=Identity(head="specific"),
        shared=Identity(head="shared"),
        constraint=CentreDistance(weight=0.1),
    ),
    retrieve=RetrieveConfig(feature="fitted", similarity="euclidean"),
    on={"demo": {"network.split_at": 1}},  # two whole networks do not meet in a run of minutes from scratch
)
