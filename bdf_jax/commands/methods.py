"""`python -m bdf_jax methods`: every method, with its paper, what it was written from, and what it needs."""

from __future__ import annotations

import argparse

from bdf_jax import output

CLASSES = 395  # SYSU-MM01's training identities: the parameters of a method include a classifier of them


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="all of these; default: a table of every method")
    parser.add_argument("--json", default="", metavar="FILE", help="write the list here, too")


def run(arguments: argparse.Namespace) -> None:
    """Prints the table."""
    from bdf_jax.method import find, registry

    if arguments.json:
        output.check_output(arguments.json, "--json")
    names = arguments.names or list(registry())
    rows = [describe(name, find(name), whole=bool(arguments.names)) for name in names]
    if arguments.json:
        output.write_json(arguments.json, rows)
    if arguments.names:
        for row in rows:
            print_whole(row)
    else:
        print_table(rows)


def describe(name: str, method: object, *, whole: bool = False) -> dict[str, object]:
    """Name, year, fidelity, parameters at 395 identities, what it needs, paper, note; the whole has GFLOP an image."""
    from bdf_jax.comparison import cost
    from bdf_jax.method import Method

    assert isinstance(method, Method)
    of = method.views, method.network
    if whole:
        found = cost.of_network(*of, method.retrieve, method.image_size, CLASSES)
    else:
        found = {"parameters": cost.count(cost.shapes(*of, method.image_size, CLASSES))}
    return {
        "method": name,
        "year": method.year,
        "written from": method.fidelity,
        "parameters": found["parameters"],
        "needs": ", ".join(method.needs()),
        "paper": method.paper,
        "note": method.note,
        **({"GFLOP": round(found["gflop"], 2)} if whole else {}),
    }


def print_table(rows: list[dict[str, object]]) -> None:
    """One row a method."""
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for key in [key for key in rows[0] if key != "note"]:
        table.add_column(key, no_wrap=True)
    for row in rows:
        shown = {k: v for k, v in row.items() if k != "note"} | {
            "parameters": f"{row['parameters']:,}",
            "paper": cited(str(row["paper"])),
        }
        table.add_row(*(Text(str(value)) for value in shown.values()))
    output.print_whole(table)
    print(f"parameters: with a classifier of {CLASSES} identities, critics included; `methods NAME` says more of one")


def print_whole(row: dict[str, object]) -> None:
    """All that is known of one method."""
    for key, value in row.items():
        if value != "":
            print(f"{key + ':':<13} {f'{value:,}' if key == 'parameters' else value}")


def cited(paper: str) -> str:
    """`Li et al., AAAI` of "Li, Wei: An X, AAAI"."""
    authors, _, rest = paper.partition(":")
    first, *others = authors.split(", ")
    return f"{first}{' et al.' if others else ''}, {rest.rpartition(', ')[2]}"
