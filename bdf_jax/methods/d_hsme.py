"""D-HSME: people as directions, images ranked on the sphere, and an embedding that is decorrelated on the way.

What is known without code: a softmax of angles on a hypersphere, constraints on variation within and between the
bases there, and two stages of training for decorrelated features. Everything else is our reading: ResNet-50 with a
stem for each base and an embedding of 512 without offset, of normalised features, so that not all lie in one
direction; SphereReID's scale of 14; BDTR's rankings, which are on the sphere as well; the divergence between what is
said of the two images of a pair, both ways. The second stage begins with SVDNet's step, W = U S V' becomes U S, and
the embedding rests while the others learn; in a third it learns again. The authors' own SYSU-MM01 all-search result,
not reproduced here: R1 20.68, mAP 23.12; RegDB visible to thermal R1 50.85, mAP 47.00. Unverified on the real data
sets.
"""

from bdf_jax.config import Group, NetworkConfig, Stage
from bdf_jax.losses.agreement import Consistency
from bdf_jax.losses.terms import Identity, Triplet
from bdf_jax.losses.top_ranking import Apart
from bdf_jax.method import Method
from bdf_jax.models.heads import Project, Sphere
from bdf_jax.models.trunk import ResNet
from bdf_jax.parts import Named
from bdf_jax.training.decorrelation import Decorrelated
from bdf_jax.training.optimiser import Adam

LEARN = Adam(3.5e-4, warmup_epochs=10, milestones=(40, 70))

D_HSME = Method(
    paper="Hao, Wang, Li, Gao: HSME: Hypersphere Manifold Embedding for Visible Thermal Person Re-Identification, AAAI",
    year=2019,
    fidelity="our reading",
    network=NetworkConfig(
        trunk=ResNet(50),
        split_at=1,
        neck=Project(512, bias=False, before=True),
        heads=Named(classifier=Sphere(scale=14.0)),
    ),
    losses=Named(
        sphere=Identity(reduce="mean"),
        cross=Triplet("V<>I", on="embedding", margin=0.5, metric="sphere"),
        intra=Apart("V<>I", on="embedding", margin=0.1, weight=0.1),
        consistency=Consistency(),
    ),
    optimiser=LEARN,
    groups=Named(embedding=Group(("bnneck_project",), LEARN)),
    stages=Named(
        sphere=Stage(epochs=60),
        restraint=Stage(epochs=30, groups=("main",), enter=Decorrelated()),
        relaxation=Stage(epochs=30),
    ),
)
