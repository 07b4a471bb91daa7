"""HCML: two networks trained with pairs, and a metric that is learned on their features afterwards.

Written from the authors' code (mangye16/Visible-Thermal-Person-Re-Identification, TONE and HCML), in which the two
networks are AlexNets up to fc6; here each is a whole ResNet-50 and its pooled feature stands for fc6. The embedding
of 2048, its ReLU before the classifier, cross-entropy, the contrastive loss and its weight, the rate and the batch of
64 identities are the code's; half of the pairs are of one person, the others of two that follow one another in the
batch. Dropout is left out; the embedding has batch normalisation instead of none, as in the authors' later networks.
Three faults are not repeated: features are brought to length 1 image by image and not along the batch, the gradients
by the matrices of the bases are those of the objective, and the infrared one's is taken where it is. Features are
scaled to a mean squared length of 1 before the metric is solved, as the code's remark on normalisation has it. The
authors' own SYSU-MM01 all-search result, not reproduced here: R1 14.32, mAP 16.16; RegDB visible to thermal R1 24.44,
mAP 20.08. Unverified on the real data sets.
"""

from bdf_jax.config import AugmentConfig, NetworkConfig, RetrieveConfig
from bdf_jax.losses.contrastive import Contrastive
from bdf_jax.losses.terms import Identity
from bdf_jax.method import Method
from bdf_jax.models.heads import BNNeck, Linear, Project
from bdf_jax.models.metrics_hcml import HCML as Fitted
from bdf_jax.models.trunk import ResNet
from bdf_jax.parts import Named
from bdf_jax.training.optimiser import SGD

HCML = Method(
    paper="Ye, Lan, Li, Yuen: Hierarchical Discriminative Learning for Visible Thermal Person Re-Identification, AAAI",
    year=2018,
    fidelity="author's code",
    note="ResNet-50 in place of AlexNet; dropout is left out",
    network=NetworkConfig(
        trunk=ResNet(50),
        split_at=5,
        neck=Project(2048),
        heads=Named(classifier=Linear(bias=True, slope=0.0)),
        metric=Fitted(features=600),
    ),
    losses=Named(
        ce=Identity(reduce="mean"),
        pairs=Contrastive("V>I", on="embedding", margin=0.5, weight=0.2),
    ),
    optimiser=SGD(1e-3, weight_decay=0.0, warmup_epochs=0, milestones=(), nesterov=False),
    retrieve=RetrieveConfig(feature="fitted", similarity="euclidean"),
    augment=AugmentConfig(flip=0.0, erase=0.0),
    identities=64,
    images=1,
    epochs=15,
    on={  # in minutes from scratch, two whole networks do not meet, and a classifier behind a ReLU does not learn
        "demo": {
            "network.split_at": 1,
            "network.neck": BNNeck(),
            "network.heads.classifier.slope": 1.0,
            "network.metric.features": 128,
            "network.metric.iterations": 5,  # more of them fit the features of people that were trained on alone
        }
    },
)
