"""`python -m bdf_jax COMMAND ...`: everything that can be done from the shell."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence

from bdf_jax.process import run_command

# Command -> module in bdf_jax/commands and a line of help. Only the module that is asked for is imported.
COMMANDS: dict[str, tuple[str, str]] = {
    "train": ("train", "train a method on a data set, and evaluate it"),
    "evaluate": ("evaluate", "the table of a trained network, or of a feature file"),
    "methods": ("methods", "every method: paper, year, fidelity, parameters, what it needs"),
    "check-data": ("check_data", "is a data set's tree whole? counts, and what is missing or corrupt"),
    "convert": ("convert", "a published PyTorch checkpoint of a method as a work folder"),
    "export": ("export", "a trained embedder as StableHLO or safetensors, for programs without this project"),
    "compare": ("compare", "train methods over seeds, and compare them in one table and one page"),
    "ablation": ("ablation", "train configurations over seeds and print the table of the ablation"),
    "trials": ("trials", "train and evaluate RegDB's ten trials; mean and deviation"),
    "plot": ("plot", "curves of runs side by side, as PNG"),
    "rescue": ("rescue", "checkpoints of a run that cannot be found in its folder: can they be opened again?"),
    "embed": ("embed", "feature vectors of any images, in a file"),
    "search": ("search", "which images of a gallery show the person of a query?"),
}
CONFIG = "--config."


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
      argv: the command line after the program's name; None: `sys.argv`.

    Returns:
      The exit code: 0; 1 after a BdfError, 75 when preempted with everything saved (the same command continues), 130
      when interrupted. A wrong flag exits with 2.
    """
    if os.getcwd() not in sys.path:  # methods, losses and data sets of a user's own lie there
        sys.path.append(os.getcwd())
    argv = [_dashed(word) for word in (sys.argv[1:] if argv is None else argv)]
    # Fields of the configuration are not flags: there are as many as a method has parts.
    overrides = [word for word in argv if word.startswith(CONFIG)]
    argv = [word for word in argv if not word.startswith(CONFIG)]
    parser = argparse.ArgumentParser(prog="python -m bdf_jax", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    chosen = next((word for word in argv if word in COMMANDS), None)
    for name, (module, line) in COMMANDS.items():
        described = commands.add_parser(name, help=line, description=line, allow_abbrev=False)
        if name == chosen:
            importlib.import_module(f"bdf_jax.commands.{module}").add_arguments(described)
    if not argv:
        parser.print_help()
        return 2
    command = importlib.import_module(f"bdf_jax.commands.{COMMANDS[chosen][0]}") if chosen else None
    takes_config = hasattr(command, "TAKES_CONFIG")
    if {"-h", "--help"} & set(argv) and takes_config:
        overrides_help(argv, overrides)
    arguments = parser.parse_args(argv)
    if overrides and not takes_config:
        parser.error(f"unrecognized arguments: {' '.join(overrides)}")
    arguments.overrides = overrides
    logging.getLogger("absl").setLevel(logging.WARNING)  # JAX and Orbax tell of every file and backend at INFO
    assert command is not None
    return run_command(lambda: command.run(arguments))


def overrides_help(argv: Sequence[str], overrides: Sequence[str]) -> None:
    """Prints the fields of the configuration, and its values where a file is given."""
    from bdf_jax.commands.configuration import read_config
    from bdf_jax.config import Config
    from bdf_jax.parts import leaves

    files = [word.removeprefix("--config=") for word in argv if word.startswith("--config=")]

    def run() -> None:
        config = read_config(files[0], overrides) if files else Config()
        of = f"of {files[0]}" if files else "that every configuration has; --config=FILE --help lists a method's own"
        print(f"fields {of}:")
        for name, value in leaves(config).items():
            print(f"  {CONFIG}{name}={','.join(map(str, value)) if isinstance(value, tuple) else value}")
        print()

    if code := run_command(run):
        sys.exit(code)


def _dashed(word: str) -> str:
    """`--save_features=F` as `--save-features=F`: both spellings of a flag are right."""
    name, equals, value = word.partition("=")
    if not name.startswith("--") or name.startswith(CONFIG):
        return word
    return name.replace("_", "-") + equals + value


if __name__ == "__main__":
    sys.exit(main())
