"""What the entry files share: flags are absl's, an error that the user can mend is printed without a traceback."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence

from absl import app

from bdf_jax.errors import BdfError


def main(function: Callable[[Sequence[str]], int | None]) -> None:
    """Parses the flags, calls `function` with what is left of the command line, and exits.

    Exit code: what `function` returns (None: 0); 1 after a BdfError or a wrong flag, 130 when interrupted.
    """

    def guarded(argv: Sequence[str]) -> int | None:
        # absl raises the level of every logger to INFO, and JAX then reports each platform it did not find.
        logging.getLogger("jax").setLevel(logging.WARNING)
        try:
            if len(argv) > 1:
                raise BdfError(f"expected flags only (--name=value), found {' '.join(argv[1:])!r}")
            return function(argv)
        except BdfError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130

    app.run(guarded)
