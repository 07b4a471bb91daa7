"""The base-derivative framework with what later years taught. It is ours: no paper has it, nobody published numbers.

Each piece comes from a method that stands beside it, and `base_derivative_plus_no_PIECE` is the same without it:

    channels    a second visible view, one of whose channels stands for all three       CAJ, ICCV 2021
    erasing     random erasing                                                          Zhong et al., AAAI 2020
    stem        a first stage for each base                                             AGW, TPAMI 2021
    stripes     four stripes, each with a neck, a classifier and losses of its own      MMN, ACM MM 2021
    pooled      a triplet over all views together                                       AGW; DEEN, CVPR 2023
    gem         generalised-mean pooling                                                AGW
    neck        retrieval by the feature after the BNNeck                               Luo et al., CVPRW 2019
    flip        the mean feature of an image and its mirror image                       CAJ

Unverified on the real data sets.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from bdf_jax.config import AugmentConfig, NetworkConfig, RetrieveConfig
from bdf_jax.losses.terms import Identity, Triplet
from bdf_jax.method import varied
from bdf_jax.methods.base_derivative import BASE_DERIVATIVE
from bdf_jax.models.heads import BNNeck, Pool
from bdf_jax.models.trunk import ResNet
from bdf_jax.parts import Named
from bdf_jax.views import Drawn, View

ALL = "V+I+Dv+Di+Vx"

BASE_DERIVATIVE_PLUS = dataclasses.replace(
    BASE_DERIVATIVE,
    paper="bdf_jax: The base-derivative framework with what later years taught, unpublished",
    year=2026,
    fidelity="ours",
    views=Named(BASE_DERIVATIVE.views, Vx=View("V", Drawn(channels=(1 / 3, 1 / 3, 1 / 3, 0.0)))),
    network=NetworkConfig(trunk=ResNet(50), split_at=1, pool=Pool("gem", stripes=4, join=False), neck=BNNeck()),
    losses=Named(
        did=Identity(smoothing=0.1),
        mml=Triplet("V>V I>I Dv>Dv Di>Di Vx>Vx", margin=0.3),
        mdl=Triplet("V<>I V<>Di Dv<>I Dv<>Di Vx<>I Vx<>Di", level="center", margin=0.5, weight=0.1),
        pooled=Triplet(f"{ALL}>{ALL}", margin=0.3),
    ),
    augment=AugmentConfig(erase=0.5),
    retrieve=RetrieveConfig(feature="embedding", flip_tta=True),
)

# What takes each piece away.
WITHOUT: dict[str, Mapping[str, Any]] = {
    "channels": {
        "views.Vx": None,
        "losses.mml.edges": "V>V I>I Dv>Dv Di>Di",
        "losses.mdl.edges": "V<>I V<>Di Dv<>I Dv<>Di",
        "losses.pooled.edges": "V+I+Dv+Di>V+I+Dv+Di",
    },
    "erasing": {"augment.erase": 0.0},
    "stem": {"network.split_at": 0},
    "stripes": {"network.pool.stripes": 1, "network.pool.join": True},
    "pooled": {"losses.pooled": None},
    "gem": {"network.pool.kind": "avg"},
    "neck": {"retrieve.feature": "pooled"},
    "flip": {"retrieve.flip_tta": False},
}
VARIATIONS = {
    f"base_derivative_plus_no_{piece}": varied(BASE_DERIVATIVE_PLUS, without) for piece, without in WITHOUT.items()
}
