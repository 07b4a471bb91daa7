"""Command line: `python -m bdf_jax.data.world --layout=sysu_mm01 --out=DIR --train-ids=256 --test-ids=64 --seed=0`."""

from __future__ import annotations

import argparse
import sys
from typing import get_args

from bdf_jax import streams
from bdf_jax.data.world.plan import Geometry, Layout, Sensor
from bdf_jax.data.world.write import write_world
from bdf_jax.errors import BdfError


def main(arguments: list[str] | None = None) -> int:
    """Writes a world; returns the exit code."""
    streams.settle()
    parser = argparse.ArgumentParser(
        prog="python -m bdf_jax.data.world",
        description="Writes a synthetic visible-infrared world in the layout of a published data set.",
        allow_abbrev=False,
    )
    parser.add_argument("--layout", required=True, choices=get_args(Layout))
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to make")
    parser.add_argument("--train-ids", type=int, metavar="N", help="identities to train on")
    parser.add_argument("--test-ids", type=int, metavar="N", help="identities to evaluate on")
    parser.add_argument(
        "--val-ids", type=int, metavar="N", help="SYSU-MM01: how many of the training identities validate"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="another seed, another world")
    parser.add_argument("--images", type=int, metavar="N", help="images of an identity in each camera (4; RegDB: 10)")
    parser.add_argument("--height", type=int, default=128, metavar="PIXELS")
    parser.add_argument("--width", type=int, default=64, metavar="PIXELS")
    parser.add_argument("--correlation", type=float, default=0.4, help="share of luma in near-infrared reflectance")
    parser.add_argument("--sensor", choices=get_args(Sensor), help="near infrared, or thermal (RegDB's default)")
    parser.add_argument("--geometry", choices=get_args(Geometry), default="small", help="full: the real numbers")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (one a core)")
    options = parser.parse_args(arguments)
    try:
        root = write_world(
            options.out,
            layout=options.layout,
            train_ids=options.train_ids,
            test_ids=options.test_ids,
            val_ids=options.val_ids,
            seed=options.seed,
            images=options.images,
            size=(options.height, options.width),
            correlation=options.correlation,
            geometry=options.geometry,
            sensor=options.sensor,
            workers=options.workers,
        )
    except BdfError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return 130
    print(root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
