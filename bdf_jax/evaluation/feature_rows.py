"""From feature files to rows: what `evaluate.py --features` does."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bdf_jax.data.index import ImageIndex
from bdf_jax.errors import BdfError
from bdf_jax.evaluation import baselines, harness, statistics
from bdf_jax.evaluation.feature_file import load_features
from bdf_jax.evaluation.protocols import Protocol, check_choices, protocols_for, rules_for
from bdf_jax.evaluation.rankable import check_scores, concerns
from bdf_jax.evaluation.ranking import Measured
from bdf_jax.evaluation.similarity import check_similarity
from bdf_jax.evaluation.test_sets import check_test_set, not_the_published
from bdf_jax.names import some
from bdf_jax.paths import local_path


def evaluate_files(
    dataset: str,
    features: str,
    *,
    compare: str = "",
    root: str | Path = "",
    trial: int | None = None,
    similarity: str | None = None,
    rerank: bool = False,
    own: bool = False,
    **chosen: Any,
) -> list[dict[str, Any]]:
    """The rows of one feature file, or of one for each test split (RegDB's ten trials).

    Args:
      dataset: "sysu_mm01", "regdb" or "llcm".
      features: a path; several, separated by commas, or one with "{trial}", give RegDB's trials 1, 2, ...
      compare: as `features`; its rows follow, and the first rows get the key `compare`.
      root: the tree of the images; empty: what is known of the published data set.
      trial: only this trial.
      similarity: None: what the file says, or cosine.
      rerank: k-reciprocal re-ranking.
      own: evaluate what is not wholly the published test set all the same, as a test set of its own.
      **chosen: `modes`, `shots`, `galleries`, `directions` of `protocols_for`.

    Raises:
      BdfError: what `load_features`, `check_test_set` and `protocols_for` raise; features that cannot be ranked
        (`rankable`); files that do not go together.
    """
    check_choices(dataset, **chosen)  # a mistyped mode is not the fault of a file
    measured_side = functools.partial(
        _measured_side, dataset, root=root, similarity=similarity, rerank=rerank, own=own, chosen=chosen
    )
    numbers, paths = _paths(dataset, features, trial)
    first = measured_side(numbers, paths)
    rows = _rows(first)
    if not compare:
        return rows
    other_numbers, other_paths = _paths(dataset, compare, trial)
    if other_numbers != numbers:
        raise BdfError(f"--compare: expected as many files as --features, {len(numbers)}; found {len(other_numbers)}")
    second = measured_side(numbers, other_paths)
    for a, b in zip(first.indices, second.indices, strict=True):
        _check_same_images(a, b)
    for row, splits, other_splits in zip(rows, first.measured, second.measured, strict=True):
        row["compare"] = {"model": second.model, "metrics": statistics.compare(splits, other_splits)}
    return rows + _rows(second)


def parse_shots(words: Iterable[str]) -> list[int]:
    """The numbers of `--shots`.

    Raises:
      BdfError: not a number.
    """
    wrong = [word for word in words if not word.isdecimal()]
    if wrong:
        raise BdfError(f"--shots: expected 1 or 10, found {wrong[0]!r}")
    return [int(word) for word in words]


def notes(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What a reader of the table must know beside the numbers."""
    said = [f"{row['model']}: {note}" for row in rows for note in row.get("notes", ())]
    said = list(dict.fromkeys(said)) + baselines.near_chance_notes(rows)
    if any(row.get("test_set") == "own" for row in rows):
        said.append(
            "these are not the images of the published test set: the numbers do not compare with published ones. "
            "Give --root=TREE to check the file against the tree it comes from"
        )
    lost = sorted({row["queries_without_match"] for row in rows if row.get("queries_without_match")})
    if lost:
        said.append(
            f"{' or '.join(map(str, lost))} queries have no match in their gallery and take no part in the means"
        )
    return said


@dataclasses.dataclass(frozen=True)
class _Side:
    """One side of a comparison: a feature file for each split, and what was measured of every row's protocol."""

    model: str
    numbers: list[int]
    indices: list[ImageIndex]
    protocols: list[Protocol]
    measured: list[list[Measured]]  # for each protocol, for each split
    flags: dict[str, Any]
    notes: list[str]


def _measured_side(
    dataset: str,
    numbers: Sequence[int | None],
    paths: Sequence[Path],
    *,
    root: str | Path,
    similarity: str | None,
    rerank: bool,
    own: bool,
    chosen: Mapping[str, Any],
) -> _Side:
    rules = rules_for(dataset)
    indices, by_split = [], []
    protocols: list[Protocol] = []
    flags: dict[str, Any] = {}
    said_of: list[str] = []
    for number, path in zip(numbers, paths, strict=True):
        file = load_features(path)
        test_set, picks, differs = check_test_set(
            dataset, file.index, root=root, trial=number, own=own, source=str(path)
        )
        official = "official" in (chosen.get("galleries") or rules.galleries)
        if test_set == "own" and official and not root and rules.published.images is not None:
            raise not_the_published(dataset, file.index)
        protocols = protocols_for(dataset, file.index, trial=number, picks=picks, **chosen)
        compared_by = similarity or file.similarity or "cosine"
        check_similarity(compared_by)
        said = {**file.flags, "similarity": compared_by, "rerank": rerank, "test_set": test_set}
        if flags not in ({}, said):
            raise BdfError(f"{path}: the files of several trials must agree in their flags, {flags}; found {said}")
        flags = said
        check_scores(file.features_ND, file.index.names, compared_by, f"{path}: ")
        refused, noted = concerns(file.features_ND, file.index, compared_by)
        if refused:
            raise BdfError(f"{path}: {refused[0]}")
        of_split = f"trial {number}: " if len(paths) > 1 else ""
        said_of += [of_split + note for note in ([differs] if differs else []) + noted]
        by_split.append(harness.measure(file.features_ND, file.index, protocols, similarity=compared_by, rerank=rerank))
        indices.append(file.index)
    measured = [list(splits) for splits in zip(*by_split, strict=True)]
    return _Side(paths[0].stem, [n for n in numbers if n is not None], indices, protocols, measured, flags, said_of)


def _rows(side: _Side) -> list[dict[str, Any]]:
    trials = side.numbers if len(side.indices) > 1 else None
    rows = [
        harness.row(protocol, splits, model=side.model, flags={**side.flags, "notes": side.notes}, trials=trials)
        for protocol, splits in zip(side.protocols, side.measured, strict=True)
    ]
    baselines.add_chance(rows, side.indices[-1], side.protocols)
    return rows


def _paths(dataset: str, pattern: str, trial: int | None) -> tuple[list[int | None], list[Path]]:
    rules = rules_for(dataset)
    if "{trial}" in pattern:
        numbers = list(rules.trials) if trial is None else [trial]
        paths = [local_path(pattern.replace("{trial}", str(number)), "--features") for number in numbers]
    else:
        paths = [local_path(word, "--features") for word in pattern.split(",") if word]
        numbers = list(rules.trials)[: len(paths)] if len(paths) > 1 else [trial]  # type: ignore[list-item]
    if len(paths) == 1:
        return list(numbers), paths
    if not rules.one_split_per_trial:
        raise BdfError(f"--features: {dataset} has one test split and takes one file, found {len(paths)}")
    if len(paths) > len(rules.trials) or trial is not None:
        raise BdfError(f"--features: expected a file for each of the trials {rules.trials[0]}..{rules.trials[-1]}")
    return list(numbers), paths


def _check_same_images(a: ImageIndex, b: ImageIndex) -> None:
    only_a = np.setdiff1d(a.names, b.names)
    only_b = np.setdiff1d(b.names, a.names)
    if len(only_a) or len(only_b):
        raise BdfError(
            "--compare: both files must hold the same images; "
            f"only the first has {len(only_a)} ({some(only_a)}), only the second has {len(only_b)} ({some(only_b)})"
        )
    first, second = (index.select(np.argsort(index.names)) for index in (a, b))
    for column, word in (("pids", "identity"), ("cams", "camera"), ("modalities", "modality")):
        ours, theirs = getattr(first, column), getattr(second, column)
        wrong = np.flatnonzero(ours != theirs)
        if wrong.size:
            listed = some(f"{first.names[row]} has {ours[row]} and {theirs[row]}" for row in wrong)
            raise BdfError(f"--compare: {wrong.size} of {len(a)} images have another {word} in each file: {listed}")
