"""MAC: a classifier that the bases share, one for each, and both kinds agree.

What is known without code: two networks with parameters of their own, a shared classifier and two specific ones, whose
relation regularises them. The formulas are our reading: cross-entropy of both kinds, and the divergence of what they
say of an image, both ways, each learning from the other as it is; all weights are 1. The embedding of 512 with batch
normalisation, images, batches and rates are those of the other methods here. The authors' own SYSU-MM01 all-search
result, not reproduced here: R1 33.26, mAP 36.22; RegDB visible to thermal R1 36.43, mAP 37.03. Unverified on the real
data sets.
"""

from bdf_jax.config import NetworkConfig
from bdf_jax.losses.agreement import Agreement
from bdf_jax.losses.terms import Identity
from bdf_jax.method import Method
from bdf_jax.models.heads import Linear, Project
from bdf_jax.models.trunk import ResNet
from bdf_jax.parts import Named

MAC = Method(
    paper="Ye, Lan, Leng: Modality-aware Collaborative Learning for Visible Thermal Person Re-Identification, MM",
    year=2019,
    fidelity="our reading",
    network=NetworkConfig(
        trunk=ResNet(50),
        split_at=5,
        neck=Project(512),
        heads=Named(classifier=Linear(bias=True), specific=Linear(bias=True, specific=True)),
    ),
    losses=Named(
        shared=Identity(head="classifier", reduce="mean"),
        specific=Identity(head="specific", reduce="mean"),
        agreement=Agreement("classifier", "specific", reduce="mean"),
    ),
    on={"demo": {"network.split_at": 1}},  # two whole networks do not meet in a run of minutes from scratch
)
