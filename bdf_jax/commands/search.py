"""`python -m bdf_jax search`: which images of a gallery show the person of a query?"""

from __future__ import annotations

import argparse
import os
import warnings
from typing import TYPE_CHECKING

from bdf_jax.commands.embed import add_model_arguments, embed_named, load_model, tell
from bdf_jax.errors import BdfError

if TYPE_CHECKING:
    from bdf_jax.api.gallery import Ranked

PICTURED = 200  # queries on the page of --html


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    add_model_arguments(parser)
    parser.add_argument(
        "--gallery", required=True, metavar="PATH", help="folder of images, or what --save-gallery wrote"
    )
    parser.add_argument("--gallery-modality", default="visible", help="of a folder: visible (default) or infrared")
    parser.add_argument("--ids", default="", metavar="FILE.csv", help="columns name and id; default: names of folders")
    parser.add_argument("--query", required=True, nargs="+", metavar="PATH", help="images, or folders of them")
    parser.add_argument("--modality", default="infrared", help="of the queries: visible or infrared (default)")
    parser.add_argument("--k", type=int, default=None, help="results of each query; default: 10, or all of fewer")
    parser.add_argument("--json", default="", metavar="FILE", help="write the results here, too")
    parser.add_argument("--html", default="", metavar="FILE", help="write a page with pictures")
    parser.add_argument("--save-gallery", default="", metavar="FILE", help="keep the embedded gallery")


def run(arguments: argparse.Namespace) -> None:
    """Prints a table of the results; every file that is asked for is checked before the work."""
    from bdf_jax.api.model import modality_number
    from bdf_jax.api.warned import SkippedImages
    from bdf_jax.data.levels import NarrowRange
    from bdf_jax.output import check_output, write_json, write_text
    from bdf_jax.paths import check_local, check_place

    check_place("--model", arguments.model)
    check_local("--gallery", [arguments.gallery])
    check_local("--query", arguments.query)
    check_local("--ids", [arguments.ids])
    outputs = {flag: getattr(arguments, flag) for flag in ("json", "html", "save_gallery")}
    for flag, path in outputs.items():
        if path:
            check_output(path, "--" + flag.replace("_", "-"))
    modality_number(arguments.modality)
    if arguments.k is not None and arguments.k < 1:
        raise BdfError(f"--k: expected at least 1, found {arguments.k}")
    saved = os.path.isfile(arguments.gallery)
    if saved and arguments.ids:
        raise BdfError("--ids: a saved gallery has its ids; give the folder of its images to change them")
    model = load_model(arguments)
    if saved:
        gallery = model.open_gallery(arguments.gallery)
    else:
        given = argparse.Namespace(**{**vars(arguments), "modality": arguments.gallery_modality})
        gallery = embed_named(model, [arguments.gallery], given)
    if arguments.save_gallery:
        gallery.save(arguments.save_gallery)
    query = arguments.query[0] if len(arguments.query) == 1 else arguments.query
    with warnings.catch_warnings():
        for kind in (SkippedImages, NarrowRange):  # told below, a line each
            warnings.simplefilter("ignore", kind)
        found = gallery.search(
            query,
            arguments.k,
            arguments.modality,
            white=arguments.white,
            black=arguments.black,
            on_error=arguments.on_error,
        )
    tell(found.skipped, found.note)
    if arguments.json:
        write_json(arguments.json, found.lists())
    if arguments.html:
        from bdf_jax.api.show import page

        queries = f"{len(found.rows):,} {'query' if len(found.rows) == 1 else 'queries'} ({arguments.modality})"
        note = (
            f"{queries} among {len(gallery):,} images ({gallery.modality}); network of {model.source}, step "
            f"{model.step}; the number beside a rank is the cosine of the features"
        )
        write_text(arguments.html, page(f"Search in {arguments.gallery}", note, found.html(PICTURED)))
    print_table(found)


def print_table(found: Ranked) -> None:
    """One row a result."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from bdf_jax.names import printable

    table = Table("query", "rank", "score", "id", "name")
    for each in found.lists():
        for result in each["results"]:
            query = printable(each["query"]) if result["rank"] == 1 else ""
            cells = (query, str(result["rank"]), f"{result['score']:.4f}", printable(result["id"]))
            # As Text: a name with square brackets is no markup.
            table.add_row(*(Text(cell, overflow="fold") for cell in (*cells, printable(result["name"]))))
    console = Console()
    if not console.is_terminal:  # in a pipe or a file no line is broken
        console = Console(width=max(console.measure(table, options=console.options.update_width(100_000)).maximum, 20))
    console.print(table)
