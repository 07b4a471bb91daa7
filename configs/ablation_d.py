"""Ablation (d): + MML: triplets within all four modalities; MDL only between the bases.

python train.py --config=configs/ablation_d.py --workdir=runs/ablation_d
python train.py --config=configs/ablation_d.py:sysu_mm01 ...   the same row on another base
"""

from configs import variation


def get_config(base: str = "demo"):
    return variation(
        base,
        {
            "loss.mml_modes": "all",
            "loss.mdl_pairs": "bi",
        },
    )
