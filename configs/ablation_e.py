"""Ablation (e): + MDL: triplets within the bases; MDL along all pairs that bridge the modality gap.

python train.py --config=configs/ablation_e.py --workdir=runs/ablation_e
python train.py --config=configs/ablation_e.py:sysu_mm01 ...   the same row on another base
"""

from configs import variation


def get_config(base: str = "demo"):
    return variation(
        base,
        {
            "loss.mml_modes": "base",
            "loss.mdl_pairs": "bridge",
        },
    )
