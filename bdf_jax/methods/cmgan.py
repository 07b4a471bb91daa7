"""cmGAN: a critic tells visible from infrared features, and the features learn not to let it.

No code of the authors is known. Layers, margins and rates are those of a third party (sshkhr/cmGAN), but not its
optimisation, in which each player climbs its own loss for a part of the time: here one backward pass trains the critic
by its cross-entropy and the features by its negative, times 0.05. The authors' own SYSU-MM01 all-search result, not
reproduced here: R1 26.97, mAP 27.80. Unverified on the real data sets.
"""

from bdf_jax.config import AugmentConfig, Group, NetworkConfig, RetrieveConfig
from bdf_jax.losses.terms import Identity, Modality, Triplet
from bdf_jax.method import Method
from bdf_jax.models.heads import BNNeck, Layers, Linear, NoNeck
from bdf_jax.models.trunk import ResNet
from bdf_jax.parts import Named
from bdf_jax.training.optimiser import SGD

CMGAN = Method(
    paper="Dai, Ji, Wang, Wu, Huang: Cross-Modality Person Re-Identification with Generative Adversarial Training, "
    "IJCAI",
    year=2018,
    fidelity="third party",
    network=NetworkConfig(
        trunk=ResNet(50),
        neck=NoNeck(),
        heads=Named(classifier=Linear(hidden=512, bias=True)),
        critics=Named(modality=Layers((1000, 500, 2))),
    ),
    losses=Named(
        ce=Identity(reduce="mean"),
        tri=Triplet("V<>I", margin=1.4),
        gan=Modality("modality", reverse=0.05),
    ),
    optimiser=SGD(1e-4, warmup_epochs=0, milestones=(), nesterov=False),
    groups=Named(critics=Group(("critics",), SGD(1e-3, warmup_epochs=0, milestones=(), nesterov=False))),
    retrieve=RetrieveConfig(feature="pooled", similarity="euclidean"),
    augment=AugmentConfig(erase=0.0),
    images=4,
    identities=12,
    on={  # in a run of minutes hard triplets of features without a neck pull all images to one point
        "demo": {
            "network.neck": BNNeck(),
            "network.heads.classifier": Linear(),
            "losses.tri.margin": 0.3,
            "retrieve.feature": "embedding",
            "retrieve.similarity": "cosine",
        }
    },
)
