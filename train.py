"""Trains and evaluates: python train.py --config=configs/demo.py --workdir=runs/demo [--config.SECTION.FIELD=VALUE]."""

import sys

from bdf_jax.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
