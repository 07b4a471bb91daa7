"""Ablation (f): the full method.

python train.py --config=configs/ablation_f.py --workdir=runs/ablation_f
python train.py --config=configs/ablation_f.py:sysu_mm01 ...   the same row on another base
"""

from configs import variation


def get_config(base: str = "demo"):
    return variation(
        base,
        {
            "loss.mml_modes": "all",
            "loss.mdl_pairs": "bridge",
        },
    )
