"""D2RL: images are translated both ways through a shared latent, and the trunk sees four channels, real and generated.

No code of the authors is known. Known are the two levels: variational autoencoders of both bases with a shared latent,
critics and cycles at the level of images, a ResNet-50 whose first layer sees the colours and the infrared channel of
an image, one of them generated, and both trained together. Our reading is everything else: the networks and weights of
UNIT (Liu et al., NeurIPS 2017), whose latent has a fixed variance, so that the divergence is the mean square; least
squares against critics at three scales; cross-entropy and the hardest triplet; the optimisers. The authors' own
SYSU-MM01 all-search result, not reproduced here: R1 28.9, mAP 29.2. Unverified on the real data sets.
"""

from bdf_jax.config import AugmentConfig, Group, NetworkConfig
from bdf_jax.losses.codes import Alike, Fools, Small, Tells
from bdf_jax.losses.terms import Identity, Triplet
from bdf_jax.losses.watching import Likeness, Verdicts
from bdf_jax.method import Method
from bdf_jax.models.critics_scales import StridedScales
from bdf_jax.models.latents import Decoded, Latent, Noisy, Spectra
from bdf_jax.models.trunk import ResNet
from bdf_jax.parts import Named
from bdf_jax.training.optimiser import Adam
from bdf_jax.views import View

TRANSLATORS = ("translators",)
GAN = Adam(1e-4, weight_decay=1e-4, warmup_epochs=0, milestones=(), b1=0.5)
CRITIC = StridedScales(scales=3, widths=(64, 128, 256, 512))
MADE = ("F", "B", "rec_V", "rec_I", "cyc_V", "cyc_I")
LATENTS = ("mean_v", "mean_i")
TINY = {"width": 8, "blocks": 1, "kernel": 3}

D2RL = Method(
    paper="Wang, Wang, Zheng, Chuang, Satoh: Learning to Reduce Dual-Level Discrepancy for Infrared-Visible Person "
    "Re-Identification, CVPR",
    year=2019,
    fidelity="our reading",
    note="the structure is the paper's; the networks and weights of its translation are UNIT's",
    views=Named(
        F=View("V", Decoded("latent_v")),
        B=View("I", Decoded("latent_i")),
        rec_V=View("V", Decoded("latent_v"), share="B"),
        rec_I=View("I", Decoded("latent_i"), share="F"),
        cyc_V=View("F", Decoded("latent_i"), share="B"),
        cyc_I=View("B", Decoded("latent_v"), share="F"),
        MV=View("V", Spectra("V", "F")),
        MI=View("I", Spectra("B", "I")),
    ),
    network=NetworkConfig(
        trunk=ResNet(50),
        inputs=("MV", "MI"),
        codes=Named(mean_v=Latent(), mean_i=Latent(), latent_v=Noisy("mean_v"), latent_i=Noisy("mean_i")),
        critics=Named(visible=CRITIC, infrared=CRITIC),
    ),
    losses=Named(
        ce=Identity(reduce="mean", trains=("main", "translators")),
        tri=Triplet("MV+MI>MV+MI", margin=0.3, trains=("main", "translators")),
        fool=Fools("visible=B infrared=F", weight=10.0, trains=TRANSLATORS),
        rebuilt=Alike("rec_V=V rec_I=I", pixels="signed", weight=100.0, trains=TRANSLATORS),
        cycle=Alike("cyc_V=V cyc_I=I", pixels="signed", weight=100.0, trains=TRANSLATORS),
        kl_v=Small("mean_v", ("V", "B"), weight=0.1, trains=TRANSLATORS),
        kl_i=Small("mean_i", ("I", "F"), weight=0.1, trains=TRANSLATORS),
        tell=Tells("visible=V:B infrared=I:F", weight=10.0, trains=("critics",)),
        looks=Likeness("F", "I", "V"),
        verdicts=Verdicts("visible=V:B infrared=I:F"),
    ),
    groups=Named(translators=Group(("views",), GAN), critics=Group(("critics",), GAN)),
    augment=AugmentConfig(erase=0.0),
    on={
        "demo": {
            **{f"views.{name}.by.{field}": value for name in MADE for field, value in TINY.items()},
            **{f"network.codes.{name}.{field}": value for name in LATENTS for field, value in TINY.items()},
            "network.critics.visible": StridedScales(1, (8, 16)),
            "network.critics.infrared": StridedScales(1, (8, 16)),
            **{
                f"groups.{name}.optimiser": Adam(1e-3, weight_decay=1e-4, warmup_epochs=0, milestones=(), b1=0.5)
                for name in ("translators", "critics")
            },
        }
    },
)
