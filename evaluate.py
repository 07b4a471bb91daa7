"""Evaluates: python evaluate.py --workdir=runs/demo, or --features=FILE.npz --dataset=sysu_mm01."""

import sys

from bdf_jax.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
