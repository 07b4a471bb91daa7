"""Ablation (b): XIV-like: only the visible image has a derivative; MDL along V-I and D_v-I.

python train.py --config=configs/ablation_b.py --workdir=runs/ablation_b
python train.py --config=configs/ablation_b.py:sysu_mm01 ...   the same row on another base
"""

from configs import variation


def get_config(base: str = "demo"):
    return variation(
        base,
        {
            "model.generator.derivatives": "visible",
            "loss.mml_modes": "base",
            "loss.mdl_pairs": "bridge",
        },
    )
