"""Draws a share of a world's pictures; run as a process of its own by `write`.

Reads one JSON object from standard input and prints the number of pictures written after every block.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from bdf_jax.data.world.plan import Plan, WorldSpec, make_plan
from bdf_jax.data.world.render import camera_at, render

BLOCK = 32  # pictures between two reports; people are kept together, since drawing one costs as much as a picture


def write_share(spec: WorldSpec, plan: Plan, root: Path, share: int, shares: int) -> Iterator[int]:
    """Writes every `shares`-th block of pictures into existing folders; yields how many after each block.

    Raises:
      OSError: the disk is full or the folder is gone.
    """
    for start in range(share * BLOCK, len(plan.shots), shares * BLOCK):
        block = plan.shots[start : start + BLOCK]
        for shot in block:
            pixels = render(
                spec.seed,
                shot.pid,
                shot.place,
                shot.number,
                size=spec.size,
                correlation=spec.correlation,
                heading=shot.heading,
            )
            path = root / shot.path
            if path.suffix == ".jpg":
                Image.fromarray(pixels).save(path, quality=camera_at(spec.seed, shot.place).quality)
            else:
                Image.fromarray(pixels).save(path)
        yield len(block)


def main() -> int:
    """Entry point; returns the exit code."""
    task = json.load(sys.stdin)
    spec = WorldSpec(**{**task["spec"], "size": tuple(task["spec"]["size"])})
    say = functools.partial(print, flush=True)
    try:
        for written in write_share(spec, make_plan(spec), Path(task["root"]), task["share"], task["shares"]):
            say(written)
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
