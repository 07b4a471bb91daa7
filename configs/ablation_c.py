"""Ablation (c): + DID: four modalities are classified; MML and MDL only between the bases.

python train.py --config=configs/ablation_c.py --workdir=runs/ablation_c
python train.py --config=configs/ablation_c.py:sysu_mm01 ...   the same row on another base
"""

from configs import variation


def get_config(base: str = "demo"):
    return variation(
        base,
        {
            "loss.mml_modes": "base",
            "loss.mdl_pairs": "bi",
        },
    )
