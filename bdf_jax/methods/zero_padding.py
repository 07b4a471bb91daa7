"""Zero padding: one network, and a channel of its own for each base; its variations.

The visible image is grey in the first channel, the infrared one fills the last, and zeros stand in the others, so that
filters can serve one base or both. Written from a third party's code (frhf/cross-modal-distillation-reidentification),
no code of the authors is known: a ResNet-50 with an embedding of 512 that is classified, and compared, behind a ReLU.
The authors trained a network of their own with six residual blocks from scratch; here the trunk is that of the other
methods. The third party pads three channels before they are normalised (`zero_padding_3`); two channels are the
paper's. Their dropout is left out, their crops of random size are the crops that all methods here have. Pretrained
weights of a first convolution of three channels become one of two by our reading: each of both is the sum over colours,
halved. The paper trains on 296 identities (`--config.data.train_split=train`), the recipe on 395 as others do.
The authors' own SYSU-MM01 all-search result, not reproduced here: R1 14.80, mAP 15.95; RegDB visible to thermal R1
17.75, mAP 18.90. Unverified on the real data sets.
"""

import dataclasses

from bdf_jax.config import AugmentConfig, NetworkConfig, RetrieveConfig
from bdf_jax.losses.terms import Identity
from bdf_jax.method import Method
from bdf_jax.models.heads import BNNeck, Linear, Project
from bdf_jax.models.trunk import ResNet
from bdf_jax.parts import Named
from bdf_jax.training.optimiser import SGD
from bdf_jax.views import View, ZeroPadding


def padded(by: ZeroPadding) -> Named[View]:
    """The views that enter the trunk."""
    return Named(Zv=View(of="V", by=by), Zi=View(of="I", by=by))


ZERO_PADDING = Method(
    paper="Wu, Zheng, Yu, Gong, Lai: RGB-Infrared Cross-Modality Person Re-Identification, ICCV",
    year=2017,
    fidelity="third party",
    note="ResNet-50 in place of the authors' network of six residual blocks; dropout is left out",
    views=padded(ZeroPadding(channels=2)),
    network=NetworkConfig(
        trunk=ResNet(50),
        inputs=("Zv", "Zi"),
        neck=Project(512, slope=0.0),
        heads=Named(classifier=Linear(bias=True)),
    ),
    losses=Named(ce=Identity(reduce="mean")),
    optimiser=SGD(0.1, warmup_epochs=0, milestones=(40,), scales=Named(trunk=0.1)),
    retrieve=RetrieveConfig(similarity="euclidean"),
    augment=AugmentConfig(erase=0.0),
    epochs=50,
    on={  # an embedding behind a ReLU learns nothing in a run of minutes
        "demo": {"network.neck": BNNeck(), "retrieve.similarity": "cosine"}
    },
)

VARIATIONS = {
    "zero_padding_before": dataclasses.replace(ZERO_PADDING, views=padded(ZeroPadding(2, "before"))),
    "zero_padding_3": dataclasses.replace(ZERO_PADDING, views=padded(ZeroPadding(3, "before"))),
    "zero_padding_3_after": dataclasses.replace(ZERO_PADDING, views=padded(ZeroPadding(3, "after"))),
}
