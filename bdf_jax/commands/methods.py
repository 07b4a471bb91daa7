"""`python -m bdf_jax methods`: every method, with its paper, what it was written from, and what it needs."""

from __future__ import annotations

import argparse
import json

from bdf_jax.output import check_output, write_text

CLASSES = 395  # SYSU-MM01's training identities: the parameters of a method include a classifier of them


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these; default: all")
    parser.add_argument("--json", default="", metavar="FILE", help="write the list here, too")


def run(arguments: argparse.Namespace) -> None:
    """Prints the table."""
    from bdf_jax.method import find, registry

    if arguments.json:
        check_output(arguments.json, "--json")
    names = arguments.names or list(registry())
    rows = [describe(name, find(name)) for name in names]
    if arguments.json:
        write_text(arguments.json, json.dumps(rows, indent=2) + "\n")
    print_table(rows)


def describe(name: str, method: object) -> dict[str, object]:
    """A row: name, year, fidelity, parameters at 395 identities, what it needs, paper."""
    import jax

    from bdf_jax.method import Method
    from bdf_jax.models import Network

    assert isinstance(method, Method)
    network = Network(method.views, method.network, CLASSES)
    image = jax.ShapeDtypeStruct((1, *method.image_size, 3), "float32")
    variables = jax.eval_shape(lambda x: network.init(jax.random.key(0), {"V": x, "I": x}, train=True), image)
    return {
        "method": name,
        "year": method.year,
        "written from": method.fidelity,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
        "needs": ", ".join(method.needs()),
        "paper": method.paper,
    }


def print_table(rows: list[dict[str, object]]) -> None:
    """One row a method."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*rows[0])
    for row in rows:
        cells = (f"{value:,}" if key == "parameters" else str(value) for key, value in row.items())
        table.add_row(*(Text(cell, overflow="fold") for cell in cells))
    Console().print(table)
    print(f"parameters: with a classifier of {CLASSES} identities; critics included")
