"""AGW: non-local attention, generalised-mean pooling, weighted triplets; and its `agw_base` without them.

Written from the authors' code (mangye16/Cross-Modal-Re-ID-baseline), but for the weights of the triplet, which are a
softmax over the negatives alone; `--config.losses.wrt.legacy=true` has the code's, which lose every negative that lies
far away. The rate warms up linearly within an epoch where the code keeps it. The authors' own SYSU-MM01 all-search
result, not reproduced here: R1 47.50, mAP 47.65. Unverified on the real data sets.
"""

import dataclasses

from bdf_jax.config import AugmentConfig, NetworkConfig
from bdf_jax.losses.terms import Identity, Triplet, WeightedTriplet
from bdf_jax.method import Method
from bdf_jax.models.heads import BNNeck, Pool
from bdf_jax.models.trunk import ResNet
from bdf_jax.parts import Named
from bdf_jax.training.optimiser import SGD

NECK = BNNeck(offset="frozen")

AGW = Method(
    paper="Ye, Shen, Lin, Xiang, Shao, Hoi: Deep Learning for Person Re-identification: A Survey and Outlook, TPAMI",
    year=2021,
    fidelity="author's code",
    network=NetworkConfig(trunk=ResNet(50, non_local=(0, 2, 3, 0)), split_at=1, pool=Pool("gem"), neck=NECK),
    losses=Named(ce=Identity(reduce="mean"), wrt=WeightedTriplet("V+I>V+I")),
    optimiser=SGD(0.1, warmup_epochs=10, warmup_factor=0.1, milestones=(20, 50), scales=Named(trunk=0.1)),
    augment=AugmentConfig(erase=0.0),
    image_size=(288, 144),
    identities=8,
    images=4,
    epochs=81,
)

AGW_BASE = dataclasses.replace(
    AGW,
    network=NetworkConfig(trunk=ResNet(50), split_at=1, neck=NECK),
    losses=Named(ce=Identity(reduce="mean"), tri=Triplet("V+I>V+I", margin=0.3)),
)
