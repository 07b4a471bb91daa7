"""python -m bdf_jax compare --config=configs/demo.py --methods=all --seeds=0,1,2 --workdir=DIR: one table of all."""

from __future__ import annotations

import argparse
from pathlib import Path

from bdf_jax.commands.configuration import read_config, reject_set
from bdf_jax.errors import BdfError
from bdf_jax.paths import local_path

TAKES_CONFIG = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    add = parser.add_argument
    add("--config", metavar="FILE", help="the data set; change fields of all rows with --config.SECTION.FIELD=V")
    add(
        "--methods",
        default="all",
        metavar="NAME,...",
        help="rows: methods, or FILE.py of your own on the same data; default: all methods, without their variations",
    )
    add("--seeds", default="0,1,2", metavar="S,...", help="of training; the data stay the same")
    add("--workdir", metavar="DIR", help="a folder in it for each row and seed, and the comparison")
    add(
        "--reference",
        default="",
        metavar="ROW",
        help="of the differences; default: base_derivative, or the first",
    )
    add("--equal-time", action="store_true", help="every row once more, with the steps of the reference's time")
    add("--published", action="store_true", help="print the tables of published numbers, and nothing else")


def run(arguments: argparse.Namespace) -> None:
    """Trains what is missing, then writes and prints the comparison."""
    if arguments.published:
        from bdf_jax.comparison.published import print_tables

        given = [f"--{name}" for name in ("config", "workdir", "reference") if getattr(arguments, name)]
        if given or arguments.overrides or arguments.equal_time:
            raise BdfError(f"--published trains nothing; leave {', '.join(given) or 'the other flags'} out")
        print_tables()
        return
    for name in ("config", "workdir"):
        if not getattr(arguments, name):
            raise BdfError(f"compare: --{name} is missing; `compare --published` alone prints published numbers")
    reject_set(arguments.overrides, "training.seed", "the command sets it; choose with --seeds=0,1,2")
    if ":" in arguments.config:
        raise BdfError(f"--config={arguments.config}: name the file alone, and the methods with --methods=NAME,NAME")
    rows = _rows(arguments.config, arguments.methods)
    names = list(rows)
    reference = arguments.reference or ("base_derivative" if "base_derivative" in names else names[0])
    if reference not in names:
        raise BdfError(f"--reference={reference}: expected one of the rows, {', '.join(names)}")
    configs = {name: read_config(file, arguments.overrides) for name, file in rows.items()}
    folder = local_path(arguments.workdir, "--workdir", utf8=True).absolute()

    from bdf_jax.comparison.run import compare

    compare(configs, seeds(arguments.seeds), folder, reference=reference, equal_time=arguments.equal_time)


def seeds(text: str) -> list[int]:
    """The numbers of `0,1,2`; raises BdfError where they are none."""
    words = [word for word in text.split(",") if word]
    if not words or not all(word.isdecimal() for word in words):
        raise BdfError(f"--seeds: expected numbers with commas between them, found {text!r}")
    return list(dict.fromkeys(int(word) for word in words))


def _rows(config: str, text: str) -> dict[str, str]:
    """Name of a row -> configuration to read: the data set's with that method, or a file of the user's own."""
    from bdf_jax.method import find, registry

    names = list(registry(variations=False)) if text == "all" else list(filter(None, text.split(",")))
    if not names:
        raise BdfError("--methods: expected names of methods with commas between them, or all")
    rows = {}
    for name in names:
        own = name.partition(":")[0].endswith(".py")
        if not own:
            find(name)
        rows[row_name(name) if own else name] = name if own else f"{config}:{name}"
    if len(rows) < len(set(names)):
        raise BdfError(f"--methods: expected files of different names, found {text}")
    return rows


def row_name(file: str) -> str:
    """`configs/ablation_a.py:sysu_mm01` is row "ablation_a:sysu_mm01"."""
    path, colon, argument = file.partition(":")
    return Path(path).stem + colon + argument
