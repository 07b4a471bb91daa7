"""AlignGAN: visible images are translated into infrared ones, in training and at the test.

Written from the authors' code (wangguanan/AlignGAN). Translators work on squares of 128x128 pixels, on purpose, and the
trunk sees what they make at 384x192. The code takes turns: a step of the encoder on 18 x 4 pairs, then one of
translators and critics on 4 x 4 others, whose identities are the same. Here one step of 18 x 4 pairs computes all
gradients at the same parameters, and each group takes its own; the equal protocol's length stands for the code's 25,100
iterations. Dropout (0.5) before the first classifier is left out. At the test the code mirrors the translated image,
here the mirror image is translated. The authors' own SYSU-MM01 all-search result, not reproduced here: R1 42.4,
mAP 40.7. Unverified on the real data sets.
"""

from bdf_jax.config import AugmentConfig, Group, NetworkConfig, RetrieveConfig, Stage
from bdf_jax.losses.codes import Alike, Fools, Tells
from bdf_jax.losses.conditional import FoolsBeside, TellsBeside
from bdf_jax.losses.terms import Identity, Triplet
from bdf_jax.losses.watching import Likeness, Verdicts
from bdf_jax.method import Method
from bdf_jax.models.auxiliary import Projected
from bdf_jax.models.critics import Patches, PatchesBeside
from bdf_jax.models.heads import Linear, Project
from bdf_jax.models.translators import Translator
from bdf_jax.models.trunk import ResNet
from bdf_jax.parts import Named
from bdf_jax.training.optimiser import SGD, Adam
from bdf_jax.views import View

SHARES = (50, 100, 101)  # of the stages; every rate falls in the middle of the last one
EPOCHS = 81
MADE = ("F", "B", "cyc_V", "cyc_I", "same_V", "same_I")
TRANSLATORS, MAIN = ("translators",), ("main",)
IMAGES = ("cycle", "same", "ce_F", "tri_F", "looks")


def _falls(before: int) -> tuple[float, ...]:
    return (round((before + 50) / sum(SHARES) * EPOCHS, 1),)


def _gan(before: int) -> Adam:
    return Adam(2e-4, weight_decay=0.0, warmup_epochs=0, b1=0.5, milestones=_falls(before))


ALIGNGAN = Method(
    paper="Wang, Zhang, Cheng, Liu, Yang, Hou: RGB-Infrared Cross-Modality Person Re-Identification via Joint Pixel "
    "and Feature Alignment, ICCV",
    year=2019,
    fidelity="author's code",
    note="one step of 18 x 4 pairs trains all parts, where the code takes turns and gives the translators 4 x 4",
    views=Named(
        F=View("V", Translator()),
        B=View("I", Translator()),
        cyc_V=View("F", Translator(), share="B"),
        cyc_I=View("B", Translator(), share="F"),
        same_V=View("V", Translator(), share="B"),
        same_I=View("I", Translator(), share="F"),
    ),
    network=NetworkConfig(
        trunk=ResNet(50),
        inputs=("F", "I"),
        enter_at=(384, 192),
        neck=Project(256, slope=0.1),
        heads=Named(classifier=Linear(bias=True)),
        auxiliary=Named(ranked=Projected(256)),
        critics=Named(
            visible_warm=Patches(),
            infrared_warm=Patches(),
            visible=Patches(),
            infrared=PatchesBeside(),
        ),
    ),
    losses=Named(
        ce_I=Identity(views=("I",), trains=MAIN),
        tri_I=Triplet("I>I", "ranked", margin=1.0, metric="cosine", trains=MAIN),
        ce=Identity(views=("F", "I"), trains=MAIN),
        tri=Triplet("F<>I", "ranked", margin=1.0, metric="cosine", trains=MAIN),
        align=FoolsBeside("infrared", "I", "F", moves="map", weight=0.1, trains=MAIN),
        fool_warm=Fools("visible_warm=B infrared_warm=F", weight=0.5, trains=TRANSLATORS),
        fool_V=Fools("visible=B", weight=0.5, trains=TRANSLATORS),
        fool_I=FoolsBeside("infrared", "F", "I", weight=0.5, trains=TRANSLATORS),
        cycle=Alike("cyc_V=V cyc_I=I", pixels="signed", weight=5.0, trains=TRANSLATORS),
        same=Alike("same_V=V same_I=I", pixels="signed", weight=2.5, trains=TRANSLATORS),
        ce_F=Identity(views=("F",), weight=0.1, trains=TRANSLATORS),
        tri_F=Triplet("F<>I", "ranked", margin=1.0, metric="cosine", weight=0.1, trains=TRANSLATORS),
        tell_warm=Tells("visible_warm=V:B infrared_warm=I:F", weight=0.5, trains=("warm_critics",)),
        tell_V=Tells("visible=V:B", weight=0.5, trains=("critics",)),
        tell_I=TellsBeside("infrared", "I", "F", weight=0.5, trains=("critics",)),
        looks=Likeness("F", "I", "V"),
        verdicts_warm=Verdicts("visible_warm=V:B infrared_warm=I:F"),
        verdicts=Verdicts("visible=V:B infrared=I/I:F/I"),
    ),
    optimiser=SGD(0.2, warmup_epochs=0, milestones=_falls(50), scales=Named(trunk=0.1)),
    groups=Named(
        translators=Group(("views",), _gan(100)),
        warm_critics=Group(("critic_visible_warm", "critic_infrared_warm"), _gan(100)),
        critics=Group(("critic_visible", "critic_infrared"), _gan(0)),
    ),
    stages=Named(
        features=Stage(SHARES[0], groups=("main",), losses=("ce_I", "tri_I"), inputs=("I",)),
        pixels=Stage(
            SHARES[1],
            groups=("translators", "warm_critics"),
            losses=("fool_warm", "tell_warm", "verdicts_warm", *IMAGES),
        ),
        joint=Stage(
            SHARES[2],
            groups=("main", "translators", "critics"),
            losses=("ce", "tri", "align", "fool_V", "fool_I", "tell_V", "tell_I", "verdicts", *IMAGES),
        ),
    ),
    retrieve=RetrieveConfig(feature="pooled", flip_tta=True),
    augment=AugmentConfig(pad=0, erase=0.0),
    image_size=(128, 128),
    identities=18,
    images=4,
    epochs=EPOCHS,
    on={
        "demo": {
            **{f"views.{name}.by": Translator(8, 1, kernel=3) for name in MADE},
            "network.enter_at": (),
            "network.critics.visible_warm": Patches((8, 16, 32)),
            "network.critics.infrared_warm": Patches((8, 16, 32)),
            "network.critics.visible": Patches((8, 16, 32)),
            "network.critics.infrared": PatchesBeside((8, 16), (32,), 8),
            **{
                f"groups.{name}.optimiser": Adam(1e-3, weight_decay=0.0, warmup_epochs=0, b1=0.5, milestones=())
                for name in ("translators", "warm_critics", "critics")
            },
            "optimiser": Adam(3e-3, warmup_epochs=0.5, milestones=(4.5, 5.5)),
        }
    },
)
