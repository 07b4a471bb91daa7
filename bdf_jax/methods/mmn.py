"""MMN: a middle image for each base, made by encoders of their own and a shared decoder; four stripes.

Written from the authors' code (ZYK100/MMN). Of both middle images, features behind a random projection are drawn
together; the code never trains that projection, which here is a constant of the seed and no parameter. It has a
triplet whose distances are overwritten by others, and never calls it: it is left out. The code reports four matrices of
similarities, and their sum, least and greatest; here it is the sum. The rate warms up linearly within an epoch where
the code keeps it. The authors' own results, not reproduced here: SYSU-MM01 all-search R1 70.6, mAP 66.9; RegDB visible
to thermal R1 91.6, mAP 84.1. Unverified on the real data sets.
"""

from bdf_jax.config import NetworkConfig, RetrieveConfig
from bdf_jax.losses.projection import ProjectedDistance
from bdf_jax.losses.terms import Identity, Triplet
from bdf_jax.method import Method
from bdf_jax.models.heads import BNNeck, Pool
from bdf_jax.models.trunk import ResNet
from bdf_jax.parts import Named
from bdf_jax.training.optimiser import SGD
from bdf_jax.views import Middle, View

POOLS = ("V+I", "V+Im", "Vm+I", "Vm+Im")

MMN = Method(
    paper="Zhang, Yan, Lu, Wang: Towards a Unified Middle Modality Learning for Visible-Infrared Person "
    "Re-Identification, MM",
    year=2021,
    fidelity="author's code",
    views=Named(Vm=View("V", Middle()), Im=View("I", Middle())),
    network=NetworkConfig(trunk=ResNet(50), split_at=1, pool=Pool(stripes=4, join=False), neck=BNNeck(offset="frozen")),
    losses=Named(
        ce=Identity(reduce="mean"),
        tri=Triplet(" ".join(f"{pool}>{pool}" for pool in POOLS), margin=0.3, reduce="mean"),
        dcl=ProjectedDistance("Vm", "Im", weight=0.2),
    ),
    optimiser=SGD(0.1, warmup_epochs=10, warmup_factor=0.1, milestones=(20, 50), scales=Named(trunk=0.1, views=0.1)),
    retrieve=RetrieveConfig(use="sum4"),
    image_size=(384, 192),
    identities=4,
    images=4,
    epochs=81,
)
