"""python -m bdf_jax check-data --dataset=sysu_mm01 --root=TREE [--quick] [--json]: is the tree whole?"""

from __future__ import annotations

import argparse
import dataclasses
import json

import numpy as np
from rich.table import Table

from bdf_jax import output
from bdf_jax.commands.embed import add_level_arguments
from bdf_jax.data.check import check_tree
from bdf_jax.data.findings import Problem, Report
from bdf_jax.data.index import VISIBLE
from bdf_jax.data.levels import Levels
from bdf_jax.datasets import find, read_tree
from bdf_jax.datasets import sysu_mm01 as sysu_tree
from bdf_jax.datasets.gallery import shipped_picks, tree_picks
from bdf_jax.errors import BdfError
from bdf_jax.names import legible

SHOWN = 10  # names and problems of a kind on the screen; the JSON has all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("--dataset", required=True, help="sysu_mm01, regdb, llcm, or MODULE:NAME of your own")
    parser.add_argument("--root", required=True, metavar="TREE", help="folder of the published tree")
    parser.add_argument("--quick", action="store_true", help="do not decode the images, only look at their names")
    add_level_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(arguments: argparse.Namespace) -> None:
    """Prints the report; raises BdfError, exit code 1, where something is missing or corrupt."""
    levels = Levels.of(arguments.white, arguments.black, "--")
    report = check_tree(arguments.dataset, arguments.root, decode=not arguments.quick, levels=levels)
    galleries = _galleries(report) if report.dataset == "sysu_mm01" else ""
    source = find(report.dataset).layout.source
    if arguments.json:
        values = dataclasses.asdict(report) | {"usable": report.usable, "source": source, "galleries": galleries}
        print(json.dumps(legible(values), indent=2))
    else:
        _print(report, source, galleries)
    if not report.usable:
        raise BdfError(
            f"{report.root}: not ready for training: {len(report.missing)} things missing, "
            f"{len(report.corrupt)} corrupt"
        )


def _galleries(report: Report) -> str:
    """Which official galleries evaluation will use; a file of permutations that does not fit is a problem."""
    try:
        own = tree_picks(report.root)
        if own is None:
            theirs = "The official gallery permutations, rand_perm_cam.mat, are not in SYSU-MM01's archive"
            if not report.usable:
                return f"{theirs}; those of the published test set are shipped with this project."
            test = read_tree(report.dataset, report.root).splits["test"]
            if np.array_equal(np.unique(test.pids), np.sort(shipped_picks().test_ids)):
                return f"{theirs}; nothing to fetch: what evaluation needs of them is shipped with this project."
            return f"{theirs}, and those shipped with this project are of other test identities: use --gallery=agw."
        cams = [cam for cam, modality in sysu_tree.CAMERAS.items() if modality == VISIBLE]
        misfit = own.misfit(read_tree(report.dataset, report.root).splits["test"], cams) if report.usable else ""
    except BdfError as error:
        report.corrupt.append(Problem(str(error), ["exp/rand_perm_cam.mat"]))
        return "The tree's own exp/rand_perm_cam.mat cannot be used."
    if misfit:
        what = f"exp/rand_perm_cam.mat does not fit the images: {misfit}; remove it, or put the right one there"
        report.corrupt.append(Problem(what, ["exp/rand_perm_cam.mat"]))
    return "The official galleries are those of the tree's own exp/rand_perm_cam.mat."


def _print(report: Report, source: str, galleries: str) -> None:
    title = f"{find(report.dataset).layout.title} in {report.root}" + " (a synthetic world)" * report.synthetic
    table = Table(title=title, caption="" if report.synthetic else "* differs from the published data set")
    for name in ("split", "camera", "modality", "images", "published", "identities", "published"):
        table.add_column(name, justify="left" if name in ("split", "modality") else "right")
    for row in report.counts:
        cells = [row["split"], "all" if row["camera"] is None else str(row["camera"]), row["modality"]]
        for what in ("images", "identities"):
            published = row[f"{what}_published"]
            star = " *" if row[what] != published and not report.synthetic else ""  # a world is meant to differ
            cells += [f"{row[what]:,}", "" if published is None else f"{published:,}{star}"]
        table.add_row(*cells)
    output.print_whole(table)
    looked = f"{report.decoded:,} images decoded" if report.decoded else "images not decoded (--quick)"
    for word, problems in (("missing", report.missing), ("corrupt", report.corrupt)):
        for problem in problems[:SHOWN]:
            print(f"{word}: {problem.what}" + _listed(problem))
        if len(problems) > SHOWN:
            print(f"{word}: and {len(problems) - SHOWN} more; --json lists all")
    for warning in report.warnings:
        print(f"warning: {warning}")
    if galleries:
        print(galleries)
    if not report.usable:
        print(f"Where to get it: {source}", flush=True)
    else:
        print(f"nothing missing, nothing corrupt; {looked}")


def _listed(problem: Problem) -> str:
    names = [name for name in problem.names if name not in problem.what]
    more = f", ... ({len(names)} in all)" if len(names) > SHOWN else ""
    return f": {', '.join(names[:SHOWN])}{more}" if names else ""
