"""What the entry files share: flags are absl's, an error that the user can mend is printed without a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

from bdf_jax import config as configs
from bdf_jax import streams
from bdf_jax.errors import BdfError
from bdf_jax.paths import local_path
from bdf_jax.process import run_command

WRONG_FLAG = 2
flags.disclaim_key_flags()  # a flag defined through here is the entry file's, and in its --help


def main(function: Callable[[Sequence[str]], int | None]) -> None:
    """Parses the flags, calls `function` with what is left of the command line, and exits.

    Exit code: what `function` returns (None: 0); 1 after a BdfError, 2 after a wrong flag, 75 when preempted with
    everything saved (the same command continues), 130 when interrupted.
    """

    def run(argv: Sequence[str]) -> int | None:
        if len(argv) > 1:
            raise BdfError(f"expected flags only (--name=value), found {' '.join(argv[1:])!r}")
        return function(argv)

    streams.settle()
    logging.set_verbosity(logging.WARNING)  # JAX and Orbax tell of every file and backend at INFO
    app.run(lambda argv: run_command(lambda: run(argv)), flags_parser=_parse)


def define_config(name: str = "config") -> flags.FlagHolder:
    """The flag --config=FILE with --config.SECTION.FIELD=VALUE for every field of the schema."""
    return config_flags.DEFINE_config_file(name, None, "Configuration file; override any field with --config.FIELD=V.")


def read_config(holder: flags.FlagHolder) -> configs.Config:
    """The validated configuration of the command line.

    Raises:
      BdfError: no --config, or one that does not fit the schema.
    """
    if holder.value is None:
        raise BdfError(f"--{holder.name}=FILE is missing, such as --{holder.name}=configs/demo.py")
    return configs.from_dict(holder.value)


def required(holder: flags.FlagHolder) -> Any:
    """The value of a flag that has no default; raises BdfError where it is missing."""
    if holder.value in (None, ""):
        raise BdfError(f"--{holder.name}=... is missing")
    return holder.value


def _parse(argv: Sequence[str]) -> list[str]:
    """absl's parser, with errors that name the field of the configuration."""
    try:
        argv = [_at_home(argument) for argument in argv]
        for argument in argv[1:]:
            name, _, value = argument.lstrip("-").partition("=")
            if name.startswith("config."):
                _check_field(name.removeprefix("config."))
            elif name == "config" and value and not os.path.isfile(value.split(":", 1)[0]):
                raise BdfError(f"--config={value}: no such file; the project's own are in configs/")
        return flags.FLAGS([argv[0], *map(_underscored, argv[1:])])
    except (BdfError, flags.Error) as error:
        print(f"error: {error}\nPass --helpshort to see the flags.", file=sys.stderr)
    except Exception as error:  # a configuration file is a program, and can fail like one
        print(f"error: the configuration file failed: {type(error).__name__}: {error}", file=sys.stderr)
    sys.exit(WRONG_FLAG)


def _check_field(path: str) -> None:
    if path not in configs.field_names():
        raise configs.unknown_field(path)


def _at_home(argument: str) -> str:
    """`--config=~/FILE` as the path of a file: a shell leaves a `~` behind a `=` as it is."""
    name, equals, value = argument.partition("=")
    if name.lstrip("-") != "config" or not value.startswith("~"):
        return argument
    file, colon, of_file = value.partition(":")
    return f"{name}{equals}{local_path(file, '--config')}{colon}{of_file}"


def _underscored(argument: str) -> str:
    """`--save-features=F` as `--save_features=F`: both spellings of a flag are right."""
    name, equals, value = argument.partition("=")
    return name[:2] + name[2:].replace("-", "_") + equals + value if name.startswith("--") else argument
