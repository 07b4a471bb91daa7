"""JSIA: images of the other base with the same content, made of contents and styles, and features aligned between them.

Written from the authors' code (wangguanan/JSIA-ReID). The first two stages of the trunk say the content of an image,
an encoder for each base its style; a decoder for each base makes an image of a content and a style. The gradient of
the codes' reconstruction reaches the generators and not the content's stages, as in the code. The trunk sees the sum
.299 R + .587 G + .114 B of normalised channels in every call.

What differs: the code draws 3 x 3 pairs of 128x64 pixels of their own for the generators; here they have the whole
batch, whose images are made at half the size and enlarged, as the code enlarges them for the encoder, and pixels are
compared at the full size. Made images pass the shared stages with batch statistics of their own, which do not move the
running ones. A classifier behind the style encoder, which nothing uses, is left out. The authors' own results, not
reproduced here: SYSU-MM01 all-search R1 38.1, mAP 36.9; RegDB visible to thermal R1 48.5, mAP 49.3. Unverified on the
real data sets.
"""

from bdf_jax.config import AugmentConfig, Group, NetworkConfig, RetrieveConfig, Stage
from bdf_jax.losses.codes import Aligned, Alike, Fools, Tells
from bdf_jax.losses.terms import Identity, Triplet
from bdf_jax.method import Method
from bdf_jax.models.codes import Begun, Style
from bdf_jax.models.critics_scales import StridedScales
from bdf_jax.models.decoders import Styled
from bdf_jax.models.heads import BNNeck
from bdf_jax.models.trunk import ResNet
from bdf_jax.parts import Named
from bdf_jax.training.optimiser import Adam
from bdf_jax.views import Grey, View

GREY = Grey(channels_of="normalised")
# Epochs in which a group learns: the encoder does from the second stage on.
ENCODE = Adam(4.5e-4, warmup_epochs=0, milestones=(30,))
GENERATE = Adam(1e-4, b1=0.5, warmup_epochs=0, milestones=(630,))
MADE = ("fake_V", "fake_I", "rec_V", "rec_I", "cyc_V", "cyc_I")
NARROW = {"blocks": 1, "widths": (), "hidden": 32, "kernel": 3}
IMAGES = ("main", "shared")

JSIA = Method(
    paper="Wang, Zhang, Yang, Cheng, Chang, Liang, Hou: Cross-Modality Paired-Images Generation for RGB-Infrared "
    "Person Re-Identification, AAAI",
    year=2020,
    fidelity="author's code",
    note="the generators learn from the whole batch at the network's image size, not from 3 x 3 pairs of their own",
    views=Named(
        fake_V=View("V", Styled(("content Ig", "style V"))),
        fake_I=View("I", Styled(("content Vg", "style I"))),
        Vg=View("V", GREY),
        Ig=View("I", GREY),
        rec_V=View("V", Styled(("content Vg", "style V")), share="fake_V"),
        rec_I=View("I", Styled(("content Ig", "style I")), share="fake_I"),
        fake_Vg=View("fake_V", GREY),
        fake_Ig=View("fake_I", GREY),
        cyc_V=View("V", Styled(("content fake_Ig", "style V")), share="fake_V"),
        cyc_I=View("I", Styled(("content fake_Vg", "style I")), share="fake_I"),
        seen_V=View("fake_V", GREY, detach=True),
        seen_I=View("fake_I", GREY, detach=True),
    ),
    network=NetworkConfig(
        trunk=ResNet(50, stem_relu=False),
        neck=BNNeck(offset="frozen"),
        inputs=("Vg", "Ig", "seen_V", "seen_I"),
        codes=Named(content=Begun(stages=2), style=Style(smaller=1)),
        critics=Named(visible=StridedScales(smaller=1), infrared=StridedScales(smaller=1)),
    ),
    losses=Named(
        ce=Identity(smoothing=0.1, views=("Vg", "Ig"), reduce="mean", trains=IMAGES),
        tri=Triplet("Vg<>Ig", margin=0.3, reduce="mean", trains=IMAGES),
        align=Aligned("seen_I=Vg seen_V=Ig", weight=0.01, trains=IMAGES),
        fool=Fools("visible=fake_V infrared=fake_I", trains=("shared", "generators")),
        pixels=Alike("rec_V=V rec_I=I cyc_V=V cyc_I=I", pixels="signed", weight=10.0, trains=("shared", "generators")),
        content=Alike("fake_Vg=Ig fake_Ig=Vg", code="content", trains=("generators",)),
        style=Alike("fake_V=V fake_I=I", code="style", trains=("generators",)),
        tell=Tells("visible=V:fake_V infrared=I:fake_I", trains=("critics",)),
    ),
    optimiser=ENCODE,
    groups=Named(
        shared=Group(("stem", "layer1"), ENCODE),
        generators=Group(("views",), GENERATE),
        critics=Group(("critics",), GENERATE),
    ),
    stages=Named(
        warmup=Stage(
            epochs=600,
            groups=("generators", "critics"),
            losses=("fool", "pixels", "content", "style", "tell"),
        ),
        joint=Stage(epochs=50),
    ),
    retrieve=RetrieveConfig(feature="embedding"),
    augment=AugmentConfig(pad=0, erase=0.0),
    identities=16,
    images=4,
    epochs=650,
    on={
        "demo": {
            **{f"views.{name}.by.{field}": value for name in MADE for field, value in NARROW.items()},
            "network.codes.style.widths": (8, 16),
            "network.codes.style.features": 16,
            "network.critics.visible": StridedScales(scales=1, widths=(8, 16), smaller=1),
            "network.critics.infrared": StridedScales(scales=1, widths=(8, 16), smaller=1),
            "stages.warmup.epochs": 2.5,
            "stages.joint.epochs": 7.5,
        },
    },
)
