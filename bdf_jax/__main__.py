"""`python -m bdf_jax COMMAND ...`: what can be done with a trained network and with data, from the shell."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from bdf_jax import streams
from bdf_jax.process import run_command

# Command -> module in bdf_jax/commands and a line of help. Only the module that is asked for is imported.
COMMANDS: dict[str, tuple[str, str]] = {
    "check-data": ("check_data", "is a data set's tree whole? counts, and what is missing or corrupt"),
    "export": ("export", "a trained embedder as StableHLO or safetensors, for programs without this project"),
    "ablation": ("ablation", "train configurations over seeds and print the table of the ablation"),
    "trials": ("trials", "train and evaluate RegDB's ten trials; mean and deviation"),
    "plot": ("plot", "curves of runs side by side, as PNG"),
    "rescue": ("rescue", "checkpoints of a run that cannot be found in its folder: can they be opened again?"),
    "embed": ("embed", "feature vectors of any images, in a file"),
    "search": ("search", "which images of a gallery show the person of a query?"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
      argv: the command line after the program's name; None: `sys.argv`.

    Returns:
      The exit code: 0; 1 after a BdfError, 130 when interrupted. A wrong flag exits with 2.
    """
    streams.settle()
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="python -m bdf_jax", description=__doc__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    chosen = next((word for word in argv if word in COMMANDS), None)
    for name, (module, line) in COMMANDS.items():
        described = commands.add_parser(name, help=line, description=line)
        if name == chosen:
            importlib.import_module(f"bdf_jax.commands.{module}").add_arguments(described)
    if not argv:
        parser.print_help()
        return 2
    arguments, overrides = parser.parse_known_args(argv)
    command = importlib.import_module(f"bdf_jax.commands.{COMMANDS[arguments.command][0]}")
    # Only a command that trains takes --config.SECTION.FIELD=VALUE, which has as many names as the schema has fields.
    unknown = [word for word in overrides if not (hasattr(command, "TAKES_CONFIG") and "config." in word)]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    arguments.overrides = overrides
    return run_command(lambda: command.run(arguments))


if __name__ == "__main__":
    sys.exit(main())
