"""The base-derivative framework.

The poster fixes one learned derivative for each base, four modalities in one network, and the names of the three
losses. Their form, weights and the schedule are those of the closest relatives; README says which (Fidelity).
The paper's own results, not reproduced here: SYSU-MM01 all-search R1 51.05, mAP 49.63; RegDB visible to thermal R1
80.67, mAP 78.83. Unverified on the real data sets.
"""

from bdf_jax.config import NetworkConfig, RetrieveConfig
from bdf_jax.losses.terms import Identity, Triplet
from bdf_jax.method import Method
from bdf_jax.models.heads import BNNeck
from bdf_jax.models.trunk import ResNet
from bdf_jax.parts import Named
from bdf_jax.training.optimiser import Adam
from bdf_jax.views import Pixelwise, View

BASE_DERIVATIVE = Method(
    paper="Liu, Miao, Yang, Ding: A Base-Derivative Framework for Cross-Modality RGB-Infrared Person "
    "Re-Identification, ICPR",
    year=2020,
    fidelity="our reading",
    views=Named(Dv=View(of="V", by=Pixelwise()), Di=View(of="I", by=Pixelwise())),
    network=NetworkConfig(trunk=ResNet(50), neck=BNNeck()),
    losses=Named(
        did=Identity(smoothing=0.1),
        mml=Triplet("V>V I>I Dv>Dv Di>Di", margin=0.3),
        mdl=Triplet("V<>I V<>Di Dv<>I Dv<>Di", level="center", margin=0.5, weight=0.1),
    ),
    optimiser=Adam(3.5e-4, warmup_epochs=10, milestones=(40, 70)),
    retrieve=RetrieveConfig(feature="embedding"),
    on={"demo": {"losses.mdl.weight": 1.0}},  # 300 steps did better with 0.1 (docs/ablation.md); README's table has 1.0
)
