"""HC: a whole network for each base, six stripes, and one centre for an identity's images of both.

Written from the authors' code (98zyx/Hetero-center-loss-for-cross-modality-person-re-id). The loss is a sum over the
identities of a batch and over stripes, as there. Dropout, 0 in the code, is left out. The authors' own results, not
reproduced here, as their code's notes have them: SYSU-MM01 all-search R1 about 56, mAP about 54; RegDB visible to
thermal R1 about 83, mAP about 72. Unverified on the real data sets.
"""

from bdf_jax.config import AugmentConfig, NetworkConfig, RetrieveConfig
from bdf_jax.losses.centres import HeteroCentre
from bdf_jax.losses.terms import Identity
from bdf_jax.method import Method
from bdf_jax.models.heads import Linear, Pool, Project
from bdf_jax.models.trunk import ResNet
from bdf_jax.parts import Named
from bdf_jax.training.optimiser import SGD

STRIPES = 6  # the code adds up what the losses average over stripes

HC = Method(
    paper="Zhu, Yang, Wang, Zhao, Hu, Tao: Hetero-Center Loss for Cross-Modality Person Re-Identification, "
    "Neurocomputing",
    year=2020,
    fidelity="author's code",
    network=NetworkConfig(
        trunk=ResNet(50),
        split_at=5,
        pool=Pool(stripes=STRIPES, join=False),
        neck=Project(512),
        heads=Named(classifier=Linear(bias=True, slope=0.1)),
    ),
    losses=Named(ce=Identity(reduce="mean", weight=STRIPES), hc=HeteroCentre(weight=0.5)),
    optimiser=SGD(0.01, warmup_epochs=0, milestones=(30, 60), scales=Named(trunk=0.1)),
    retrieve=RetrieveConfig(feature="stripes"),
    augment=AugmentConfig(pad=0, erase=0.0),
    image_size=(288, 144),
    identities=4,
    images=8,
    epochs=61,
    on={"demo": {"network.pool.stripes": 4}},  # its last map has four rows
)
