"""Ablation (a): the general losses: no derivatives, MML within and MDL between visible and infrared.

python train.py --config=configs/ablation_a.py --workdir=runs/ablation_a
python train.py --config=configs/ablation_a.py:sysu_mm01 ...   the same row on another base
"""

from configs import variation


def get_config(base: str = "demo"):
    return variation(
        base,
        {
            "model.generator.derivatives": "none",
            "loss.mml_modes": "base",
            "loss.mdl_pairs": "bi",
        },
    )
