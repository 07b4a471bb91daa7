"""A published tree looked over before any hour is spent: everything that is missing or corrupt, in one report.

Training reads a tree with `read_tree`, which stops at the first thing that is wrong. Here nothing stops the walk.
"""

from __future__ import annotations

import collections
import concurrent.futures
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from bdf_jax.data.findings import Problem, Report
from bdf_jax.data.images import cores, verify
from bdf_jax.data.index import INFRARED, VISIBLE
from bdf_jax.data.levels import AS_STORED, Levels, Notes
from bdf_jax.data.trees.lists import Line, read_ids, read_lines, require_labels
from bdf_jax.data.trees.tree import (
    ImageFile,
    NotATree,
    entries,
    require_both_modalities,
    require_disjoint,
    strangers,
    walk_identities,
)
from bdf_jax.datasets import BENCHMARKS, find, llcm, read_tree, regdb, sysu_mm01, tree_root
from bdf_jax.datasets.benchmark import RECORD
from bdf_jax.errors import BdfError
from bdf_jax.names import printable
from bdf_jax.paths import local_path
from bdf_jax.progress import bar

ARCHIVES = (".zip", ".rar", ".7z", ".tar", ".gz", ".tgz", ".xz", ".bz2")
MOST_GAPS = 1000  # in the numbers of a folder: beyond, they were not given from 1 on
WORDS = {VISIBLE: "visible", INFRARED: "infrared"}


def check_tree(
    dataset: str,
    root: str | os.PathLike[str],
    *,
    decode: bool = True,
    levels: Levels = AS_STORED,
    progress: bool = True,
) -> Report:
    """Walks a tree and looks at everything in it.

    Args:
      dataset: "sysu_mm01", "regdb" or "llcm".
      root: its folder.
      decode: whether every image is decoded; otherwise only empty files are found.
      levels: what is white in images of more than 8 bits.
      progress: whether to draw a bar.

    Raises:
      BdfError: there is no tree of this data set at `root`; says where one seems to be.
    """
    folder = locate(dataset, root)
    dataset = find(dataset, "--dataset").layout.dataset
    report = Report(dataset, str(folder), synthetic=(folder / RECORD).is_file())
    absent = [name for name in find(dataset).layout.folders if not (folder / name).is_dir()]
    if absent:
        report.missing.append(Problem(f"{len(absent)} folders of the tree are missing", absent))
    look = {"sysu_mm01": _sysu, "regdb": _regdb, "llcm": _llcm}.get(dataset, _by_its_reader)
    files = look(folder, report)
    _compare(report)
    _look_at_images(folder, files, report, decode, levels, progress)
    if report.usable:
        _attempt(report, "", read_tree, dataset, folder)  # what training asks, in case it asks for more
    return report


def locate(dataset: str, root: str | os.PathLike[str]) -> Path:
    """The folder of the tree, whole or not.

    Raises:
      BdfError: it is somewhere else, is another data set's, is not unpacked yet, or is not there at all.
    """
    layout, folder = find(dataset, "--dataset").layout, Path(os.path.abspath(local_path(root, "--root")))
    try:
        return tree_root(dataset, folder)
    except BdfError as error:
        told, another_folder = (
            isinstance(error, NotATree) and error.elsewhere == where for where in ("another data set", "another folder")
        )
        if folder.is_dir() and layout.fits(folder) and not told:
            return folder
        hint = _elsewhere(dataset, folder) if folder.is_dir() and not told else ""
        some_of_it = folder.is_dir() and any((folder / name).is_dir() for name in layout.folders)
        if some_of_it and not hint and not another_folder and not told:
            return folder
        raise BdfError((str(error) + hint).replace("--config.data.", "--")) from None


def _elsewhere(dataset: str, folder: Path) -> str:
    """Another data set's tree near the folder, or an archive in it."""
    below = [folder, *(Path(entry.path) for entry in entries(folder)[:100] if entry.is_dir())]
    for name, layout in ((name, known.layout) for name, known in BENCHMARKS.items()):
        for place in (*below, *list(folder.parents)[:2]):
            if name != dataset and all((place / part).is_dir() for part in layout.folders):
                return f" There is a tree of {layout.title}: --dataset={name} --root={place}."
    packed = [entry.name for entry in entries(folder) if entry.name.lower().endswith(ARCHIVES)]
    return f" It holds {', '.join(packed[:3])}: unpack that first." if packed else ""


def _by_its_reader(root: Path, report: Report) -> list[ImageFile]:
    """What the reader of a data set finds, where nobody wrote down what else can be missing."""
    tree = _attempt(report, "", read_tree, report.dataset, root)
    files = [] if tree is None else [file for part in tree.files.values() for file in part]
    for modality in (VISIBLE, INFRARED):
        _count(report, "all", [file for file in files if file.modality == modality], None, modality)
    return files


# The three layouts.


def _sysu(root: Path, report: Report) -> list[ImageFile]:
    layout, known = sysu_mm01.LAYOUT, sysu_mm01.numbers()
    lists = {split: f"exp/{split}_id.txt" for split in ("train", "val", "test")}
    pids: dict[str, set[int]] = {}
    for split, name in lists.items():
        found = _attempt(report, name, read_ids, layout, root, name)
        # Without its list a split is counted by the published one, so that the report still says what is there.
        pids[split] = set(known.splits[split] if found is None and not report.synthetic else found or ())
    _attempt(report, "", require_disjoint, root, {lists[split]: pids[split] for split in lists})
    everything = [file for cam, mod in sysu_mm01.CAMERAS.items() for file in _walk(report, root, f"cam{cam}", cam, mod)]
    listed = set().union(*pids.values())
    files = [file for file in everything if file.pid in listed]
    if len(files) < len(everything):
        report.warnings.append(f"{len(everything) - len(files)} images are of identities on no list, and are not used")
    for split, members in pids.items():
        chosen = [file for file in files if file.pid in members]
        for cam, modality in sysu_mm01.CAMERAS.items():
            _count(report, split, [file for file in chosen if file.cam == cam], cam, modality)
        for modality in WORDS:
            _count(report, split, [file for file in chosen if file.modality == modality], None, modality)
        absent = sorted(members - {file.pid for file in chosen})
        if absent:
            names = [f"{pid:04d}" for pid in absent]
            report.missing.append(Problem(f"{len(absent)} identities of {lists[split]} have no image", names))
        if split != "test":
            _attempt(report, "", require_both_modalities, layout, root, chosen, lists[split])
    official = all(pids[split] == known.splits[split] for split in lists)
    _sysu_gaps(report, files, known.folders if official else {})
    return files


def _sysu_gaps(report: Report, files: Sequence[ImageFile], expected: dict[tuple[int, int], int]) -> None:
    """Images that must be there: those of the published tree, or those that a gap in the numbers betrays."""
    numbers: dict[tuple[int, int], set[int]] = collections.defaultdict(set)
    for file in files:
        stem = file.name.rsplit("/", 1)[-1].split(".", 1)[0]
        if stem.isdecimal():
            numbers[file.cam, file.pid].add(int(stem))
        else:
            report.warnings.append(
                f"{printable(file.name)}: the name is not a number, as the official galleries need it"
            )
    counts = dict(expected) or {key: max(found) for key, found in numbers.items()}
    for (cam, pid), count in sorted(counts.items()):
        if count > len(numbers[cam, pid]) + MOST_GAPS:  # frames of a film, or moments of a day
            report.warnings.append(f"cam{cam}/{pid:04d}: the numbers go to {count}, not from 1 on without gaps")
            del counts[cam, pid]
    absent = [
        f"cam{cam}/{pid:04d}/{k:04d}.jpg"
        for (cam, pid), count in sorted(counts.items())
        for k in sorted(set(range(1, count + 1)) - numbers.get((cam, pid), set()))
    ]
    if absent:
        source = "of the published data set" if expected else "within the numbers of their folders"
        report.missing.append(Problem(f"{len(absent)} images {source} are missing", absent))


def _regdb(root: Path, report: Report) -> list[ImageFile]:
    layout = regdb.LAYOUT
    files = [file for part in regdb.FOLDERS.values() for file in _walk(report, root, *part)]
    by_name = {file.name: file for file in files}
    for _, cam, modality in regdb.FOLDERS.values():
        _count(report, "all", [file for file in files if file.cam == cam], cam, modality)
    unlisted, absent = set(by_name), set()
    for trial in regdb.TRIALS:
        chosen: dict[str, list[ImageFile]] = {}
        for role in ("train", "test"):
            chosen[role] = []
            lines: list[Line] = []
            for part, (folder, _, _) in regdb.FOLDERS.items():
                name = f"idx/{role}_{part}_{trial}.txt"
                rows = _attempt(report, name, read_lines, layout, root, name, folder) or []
                absent |= {row.name for row in rows} - by_name.keys()
                chosen[role] += [by_name[row.name] for row in rows if row.name in by_name]
                lines += rows
            _attempt(report, "", require_labels, layout, root, lines)
            unlisted -= {file.name for file in chosen[role]}
            _count(report, f"{role}, trial {trial}", chosen[role], None, None)
        where = {f"idx/{role}_*_{trial}.txt": {file.pid for file in found} for role, found in chosen.items()}
        _attempt(report, "", require_disjoint, root, where)
        _attempt(report, "", require_both_modalities, layout, root, chosen["train"], f"idx/train_*_{trial}.txt")
    if absent:
        report.missing.append(Problem(f"{len(absent)} images listed in idx/ are missing", sorted(absent)))
    if unlisted and len(unlisted) < len(by_name):
        report.warnings.append(f"{len(unlisted)} images are on no list of idx/, and are not used")
    return files


def _llcm(root: Path, report: Report) -> list[ImageFile]:
    layout = llcm.LAYOUT
    train: list[ImageFile] = []
    lines: list[Line] = []
    for folder, modality in llcm.MODALITIES.items():
        here = {file.name: file for file in _walk(report, root, folder, llcm.UNKNOWN_CAMERA, modality)}
        name = f"idx/train_{folder}.txt"
        rows = _attempt(report, name, read_lines, layout, root, name, folder)
        # Without its list the folder is counted as it is.
        names = sorted(here) if rows is None else list(dict.fromkeys(row.name for row in rows))
        absent = [image for image in names if image not in here]
        if absent:
            report.missing.append(Problem(f"{len(absent)} images listed in {name} are missing", absent))
        found = [here[image] for image in names if image in here]
        _count(report, "train", found, None, modality)
        train += found
        lines += rows or []
    _attempt(report, "", require_labels, layout, root, lines)
    _count(report, "train", train, None, None)
    _attempt(report, "", require_both_modalities, layout, root, train, "idx/train_*.txt")
    ids = _attempt(report, "idx/test_id.txt", read_ids, layout, root, "idx/test_id.txt")
    test: list[ImageFile] = []
    for folder, modality in llcm.MODALITIES.items():
        found = []
        for cam in llcm.CAMERAS:
            place = f"test_{folder}/cam{cam}"
            if place == llcm.EMPTY_AS_PUBLISHED and not (root / place).is_dir():
                continue
            taken = _walk(report, root, place, cam, modality, None if ids is None else set(ids))
            _count(report, "test", taken, cam, modality)
            found += taken
        _count(report, "test", found, None, modality)
        test += found
    _count(report, "test", test, None, None)
    lost = sorted(set(ids or ()) - {file.pid for file in test})
    if lost:
        names = [f"{pid:04d}" for pid in lost]
        report.missing.append(Problem(f"{len(lost)} identities of idx/test_id.txt have no image", names))
    return train + test


# What they share.


def _walk(report: Report, root: Path, folder: str, cam: int, modality: int, pids: Any = None) -> list[ImageFile]:
    found: list[ImageFile] = []
    if not (root / folder).is_dir():
        if "/" in folder and (root / folder).parent.is_dir():  # of the top ones the report knows already
            report.missing.append(Problem("a folder is missing", [folder]))
        return found
    try:
        for file in walk_identities(root, folder, cam, modality, pids):
            found.append(file)
    except OSError as error:
        report.corrupt.append(Problem(f"{folder}/ cannot be read: {error}", [folder]))
    except BdfError as error:
        report.corrupt.append(Problem(str(error), [folder]))
    if not found and folder != llcm.EMPTY_AS_PUBLISHED:
        why = f". {hint}" if (hint := strangers(root / folder)) else ""
        report.missing.append(Problem(f"{folder}/ has no image of an identity{why}", [folder]))
    return found


def _attempt(report: Report, name: str, action: Callable[..., Any], *arguments: Any) -> Any:
    """What `action` returns; None where it fails, which the report then tells, of the file `name` if there is one."""
    try:
        return action(*arguments)
    except BdfError as error:
        text = str(error)
    except OSError as error:
        text = f"{name or 'the tree'}: cannot be read: {error}"
    report.missing.append(Problem(text.replace("--config.data.", "--"), [name] if name else []))
    return None


def _count(report: Report, split: str, files: Iterable[ImageFile], cam: int | None, modality: int | None) -> None:
    known, key = find(report.dataset).numbers(), (split, cam, modality)
    pids = [file.pid for file in files]
    report.counts.append(
        {
            "split": split,
            "camera": cam,
            "modality": "both" if modality is None else WORDS[modality],
            "images": len(pids),
            "images_published": known.images.get(key),
            "identities": len(set(pids)),
            "identities_published": known.identities.get(key),
        }
    )


def _compare(report: Report) -> None:
    """Says in a warning whether the counts are the published ones."""
    differing = [
        row
        for row in report.counts
        for what in ("images", "identities")
        if row[f"{what}_published"] not in (None, row[what])
    ]
    if differing:
        kind = " (synthetic)" if report.synthetic else ""
        report.warnings.append(
            f"not the published counts{kind}: {len(differing)} of the rows differ; numbers of such a tree cannot be "
            "compared with published ones"
        )


def _look_at_images(
    root: Path, files: Sequence[ImageFile], report: Report, decode: bool, levels: Levels, progress: bool
) -> None:
    """Decodes every image, several at once; without `decode` only sizes are looked at."""
    empty = [file.name for file in files if not file.size]
    if not decode:
        if empty:
            report.corrupt.append(Problem(f"{len(empty)} files are empty", empty))
        return

    notes = Notes()

    def fault(file: ImageFile) -> Problem | None:
        try:
            verify((root / file.name).read_bytes(), printable(file.name), levels, notes)
        except BdfError as error:
            return Problem(str(error), [file.name])
        except OSError as error:
            return Problem(f"{printable(file.name)}: cannot be read: {error.strerror or error}", [file.name])
        return None

    pool = concurrent.futures.ThreadPoolExecutor(cores())
    try:
        with bar(total=len(files), desc=f"decoding {report.dataset}", unit="image", disable=not progress) as shown:
            for found in pool.map(fault, files):
                shown.update(1)
                report.decoded += 1
                report.corrupt += [found] if found else []
    finally:
        report.warnings += [str(notes)] if str(notes) else []
        pool.shutdown(cancel_futures=True)  # Ctrl-C waits for the images in work, not for all that were asked for
