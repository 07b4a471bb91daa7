"""CAJ: AGW's network; the visible image once more with one colour in all three channels, and an adaptive triplet.

Written from the authors' code (mangye16/Cross-Modal-Re-ID-baseline, ICCV21_CAJ), with the triplet that its published
runs ask for. As in `agw`, the weights of the triplet are a softmax over the negatives alone;
`--config.losses.adp.legacy=true` has the code's, which lose every negative that lies far away, and with it the
gradient. The code has a loss between scores as a setting that is off; so it is here: `--config.losses.kl.weight=1`. An
erased box that would not fit is cut instead of drawn again. The rate warms up linearly within an epoch where the code
keeps it. The authors' own results, not reproduced here: SYSU-MM01 all-search R1 69.88, mAP 66.89; RegDB visible to
thermal R1 85.03, mAP 79.14. Unverified on the real data sets.
"""

from bdf_jax.config import AugmentConfig, NetworkConfig
from bdf_jax.losses.agreement import Follow
from bdf_jax.losses.terms import Identity, WeightedTriplet
from bdf_jax.method import Method
from bdf_jax.models.heads import BNNeck, Pool
from bdf_jax.models.trunk import ResNet
from bdf_jax.parts import Named
from bdf_jax.training.optimiser import SGD
from bdf_jax.views import Drawn, View

CAJ = Method(
    paper="Ye, Ruan, Du, Shou: Channel Augmented Joint Learning for Visible-Infrared Recognition, ICCV",
    year=2021,
    fidelity="author's code",
    views=Named(Va=View("V", Drawn(channels=(1 / 3, 1 / 3, 1 / 3, 0.0)))),
    network=NetworkConfig(
        trunk=ResNet(50, non_local=(0, 2, 3, 0)), split_at=1, pool=Pool("gem"), neck=BNNeck(offset="frozen")
    ),
    losses=Named(
        ce=Identity(reduce="mean"),
        adp=WeightedTriplet("V+Va+I>V+Va+I", form="squared"),
        kl=Follow("V", "I", weight=0.0),
    ),
    optimiser=SGD(0.1, warmup_epochs=10, warmup_factor=0.1, milestones=(20, 50), scales=Named(trunk=0.1)),
    augment=AugmentConfig(
        erase_with=(0.4914, 0.4822, 0.4465),
        infrared_channels=(0.25, 0.25, 0.25, 0.125),
    ),
    image_size=(288, 144),
    identities=8,
    images=4,
    epochs=100,
)
