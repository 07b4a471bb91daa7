"""What the benchmarks share: flags are absl's; a configuration is read as the project's own commands read it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import app, flags, logging

from bdf_jax import streams
from bdf_jax.commands.configuration import PREFIX, read_config
from bdf_jax.config import Config
from bdf_jax.errors import BdfError
from bdf_jax.process import run_command

flags.disclaim_key_flags()  # a flag defined through here is the benchmark's, and in its --help


def main(function: Callable[[Sequence[str]], int | None]) -> None:
    """Parses the flags, calls `function` and exits with what it returns; 1 after a BdfError, 2 after a wrong flag."""

    def run(argv: Sequence[str]) -> int | None:
        if len(argv) > 1:
            raise BdfError(f"expected flags only (--name=value), found {' '.join(argv[1:])!r}")
        return function(argv)

    streams.settle()
    logging.set_verbosity(logging.WARNING)  # JAX and Orbax tell of every file and backend at INFO
    argv = [word for word in sys.argv if not word.startswith(PREFIX)]
    app.run(lambda argv: run_command(lambda: run(argv)), argv=argv)


def define_config() -> flags.FlagHolder:
    """The flag --config=FILE[:METHOD]; --config.SECTION.FIELD=VALUE changes its fields."""
    return flags.DEFINE_string("config", "", "Configuration, such as configs/demo.py:xiv; --config.FIELD=V changes it.")


def configuration(holder: flags.FlagHolder, default: str) -> Config:
    """That of the command line, or of `default`."""
    return read_config(holder.value or default, [word for word in sys.argv if word.startswith(PREFIX)])


def required(holder: flags.FlagHolder) -> Any:
    """The value of a flag that has no default; raises BdfError where it is missing."""
    if holder.value in (None, ""):
        raise BdfError(f"--{holder.name}=... is missing")
    return holder.value
