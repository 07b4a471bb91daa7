"""XIV: a third modality, X, made of the visible image by a small generator.

Written from the authors' code (Alexadlu/XIVReID). X takes part in training only; the feature before the BNNeck is
compared by Euclidean distance. CMG takes the nearest negative of rows and columns. The code calls it in both
directions at 0.1 each; it is symmetric, so a pair weighs 0.2. The authors' own SYSU-MM01 all-search result, not
reproduced here: R1 49.92, mAP 50.73. Unverified on the real data sets.
"""

from bdf_jax.config import NetworkConfig, RetrieveConfig
from bdf_jax.losses.terms import Identity, Triplet
from bdf_jax.method import Method
from bdf_jax.models.trunk import ResNet
from bdf_jax.parts import Named
from bdf_jax.training.optimiser import Adam
from bdf_jax.views import Pixelwise, View

XIV = Method(
    paper="Li, Wei, Hong, Gong: Infrared-Visible Cross-Modal Person Re-Identification with an X Modality, AAAI",
    year=2020,
    fidelity="author's code",
    views=Named(X=View(of="V", by=Pixelwise(init="third"))),
    network=NetworkConfig(trunk=ResNet(50)),
    losses=Named(
        ce=Identity(smoothing=0.1),
        mrg=Triplet("V>V I>I X>X", margin=0.3),
        cmg=Triplet("I>V I>X", level="center", negatives="both", margin=0.5, weight=0.2),
    ),
    optimiser=Adam(3.5e-4, warmup_epochs=10, milestones=(40, 70)),
    retrieve=RetrieveConfig(feature="pooled", similarity="euclidean"),
)
