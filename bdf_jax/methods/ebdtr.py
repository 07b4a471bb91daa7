"""eBDTR: BDTR with one constraint in place of two, of images against centres of identities.

The abstract says that a centre-constrained top-ranking merges the constraints between and within modalities; no code of
it is known, and the formula is our reading: an image lies nearer to its identity's centre in the other base than to any
other centre there, by a margin of 0.5 between unit vectors. The network is that of the authors' later baseline
(mangye16/Cross-Modal-Re-ID-baseline, its first commit): two whole ResNet-50s, an embedding of 512 with batch
normalisation and a leaky ReLU, 288 x 144 pixels, a rate of 0.01 and a tenth of it in the trunk. Dropout is left out.
The authors' own SYSU-MM01 all-search result, not reproduced here: R1 27.82, mAP 28.42; RegDB visible to thermal
R1 34.62, mAP 33.46. Unverified on the real data sets.
"""

from bdf_jax.config import AugmentConfig, NetworkConfig
from bdf_jax.losses.terms import Identity
from bdf_jax.losses.top_ranking import Centred
from bdf_jax.method import Method
from bdf_jax.models.heads import Linear, Project
from bdf_jax.models.trunk import ResNet
from bdf_jax.parts import Named
from bdf_jax.training.optimiser import SGD

EBDTR = Method(
    paper="Ye, Lan, Wang, Yuen: Bi-Directional Center-Constrained Top-Ranking for Visible Thermal Person "
    "Re-Identification, TIFS",
    year=2020,
    fidelity="our reading",
    network=NetworkConfig(
        trunk=ResNet(50),
        split_at=5,
        neck=Project(512, slope=0.1),
        heads=Named(classifier=Linear(bias=True)),
    ),
    losses=Named(
        ce=Identity(reduce="mean"),
        centred=Centred("V<>I", on="embedding", margin=0.5),
    ),
    optimiser=SGD(0.01, warmup_epochs=0, milestones=(30,), scales=Named(trunk=0.1)),
    augment=AugmentConfig(erase=0.0),
    image_size=(288, 144),
    identities=8,
    images=4,
    epochs=60,
    on={"demo": {"network.split_at": 1}},  # two whole networks do not meet in a run of minutes from scratch
)
