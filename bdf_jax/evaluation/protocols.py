"""The evaluation protocols: who is query, who is gallery in each trial, who ignores whom, which CMC.

`protocols_for` turns the rules of a data set (bdf_jax/datasets) and an index of test images into `Protocol`s, one for
each row of the table that a paper would print.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np

from bdf_jax.data.index import INFRARED, VISIBLE, ImageIndex
from bdf_jax.datasets import find
from bdf_jax.datasets.benchmark import Request, Rules
from bdf_jax.datasets.gallery import Picks
from bdf_jax.errors import BdfError


@dataclasses.dataclass(frozen=True)
class Protocol:
    """One row of the table: everything that turns features into its numbers.

    Attributes:
      dataset, mode, gallery, direction, shots: how the row is called; `shots` is None where the gallery is every image.
      trials: number of each trial, as `--trial` and the JSON name it.
      query_rows: (Q,) rows of the index.
      gallery_rows: for each trial (G_t,) rows of the index, in the order that decides ties.
      cmc: "unique" counts other identities before the first match, "raw" counts images.
      ignored_cameras: pairs (query camera, gallery camera): ignored whatever the identity.
      ignores_own_camera: gallery images of the query's own identity and own camera are ignored.
    """

    dataset: str
    mode: str
    gallery: str
    direction: str
    shots: int | None
    trials: tuple[int, ...]
    query_rows: np.ndarray
    gallery_rows: tuple[np.ndarray, ...]
    cmc: Literal["unique", "raw"]
    ignored_cameras: tuple[tuple[int, int], ...] = ()
    ignores_own_camera: bool = False

    @property
    def name(self) -> str:
        """What distinguishes the row from the data set's others."""
        shots = "" if self.shots is None else f", {self.shots} shot{'s' * (self.shots > 1)}"
        return f"{self.dataset}, {self.direction}, {self.mode}{shots}, {self.gallery} gallery"


def rules_for(dataset: str) -> Rules:
    """The protocol of a data set; raises BdfError where it is not known."""
    return find(dataset).rules


def protocols_for(
    dataset: str,
    index: ImageIndex,
    *,
    modes: Iterable[str] | None = None,
    shots: Iterable[int | None] | None = None,
    galleries: Iterable[str] | None = None,
    directions: Iterable[str] | None = None,
    trial: int | None = None,
    picks: Picks | None = None,
) -> list[Protocol]:
    """The rows of a data set's table for these test images; by default all of them.

    Args:
      dataset: "sysu_mm01", "regdb" or "llcm".
      index: the test images; their order does not matter.
      modes, shots, galleries, directions: which rows; None: all that the data set has.
      trial: only this trial (SYSU-MM01 and LLCM: 0..9; RegDB: the split 1..10 that `index` belongs to).
      picks: the official gallery picks (`gallery.tree_picks`, `gallery.shipped_picks`).

    Raises:
      BdfError: unknown data set, mode, gallery, direction or trial; no query or no gallery image; official galleries
        without picks that fit.
    """
    rules = rules_for(dataset)
    if trial is not None and trial not in rules.trials:
        raise BdfError(f"trial: expected {rules.trials[0]} to {rules.trials[-1]} for {dataset}, found {trial}")
    trials = tuple(rules.trials) if trial is None else (trial,)
    if rules.one_split_per_trial:
        trials = trials[:1]  # one index is one split; without a number it counts as the first
    _check_cameras(dataset, rules, index)
    rows = []
    for direction in _chosen("direction", directions, rules.directions):
        query_modality, gallery_modality = rules.directions[direction]
        query_rows = np.flatnonzero(index.modalities == query_modality).astype(np.int32)
        query_rows = query_rows[np.argsort(index.names[query_rows], kind="stable")]
        for family in _chosen("gallery", galleries, rules.galleries):
            for mode in _chosen("mode", modes, rules.modes):
                cams = rules.modes[mode] or tuple(np.unique(index.cams[index.modalities == gallery_modality]).tolist())
                for shot in _chosen_shots(shots, rules):
                    picked = tuple(
                        rules.galleries[family](Request(index, gallery_modality, cams, shot, number, picks))
                        for number in trials
                    )
                    rows.append(
                        Protocol(
                            dataset, mode, family, direction, shot, trials, query_rows, picked,
                            rules.cmc, rules.ignored_cameras, rules.ignores_own_camera,
                        )
                    )  # fmt: skip
                    _check_not_empty(rows[-1])
    return rows


def _check_cameras(dataset: str, rules: Rules, index: ImageIndex) -> None:
    if not rules.camera_modalities:
        return
    expected = np.asarray([rules.camera_modalities.get(cam, -1) for cam in index.cams.tolist()])
    wrong = np.flatnonzero(expected != index.modalities)
    if wrong.size:
        row = wrong[0]
        visible, infrared = (
            [c for c, m in rules.camera_modalities.items() if m == kind] for kind in (VISIBLE, INFRARED)
        )
        raise BdfError(
            f"{dataset}: {wrong.size} of {len(index)} images have a camera that does not go with their modality "
            f"(visible cameras are {visible}, infrared {infrared}); the first: {str(index.names[row])!r}, camera "
            f"{index.cams[row]}, modality {index.modalities[row]}"
        )


def _check_not_empty(protocol: Protocol) -> None:
    if not len(protocol.query_rows):
        raise BdfError(f"{protocol.name}: there is no query image of this modality")
    for number, rows in zip(protocol.trials, protocol.gallery_rows, strict=True):
        if not len(rows):
            raise BdfError(f"{protocol.name}: the gallery of trial {number} is empty: no image in its cameras")


def check_choices(
    dataset: str,
    *,
    directions: Iterable[str] | None = None,
    modes: Iterable[str] | None = None,
    shots: Iterable[int | None] | None = None,
    galleries: Iterable[str] | None = None,
) -> None:
    """What `protocols_for` would refuse of these whatever the test images are; None: all that the data set has."""
    rules = rules_for(dataset)
    _chosen("direction", directions, rules.directions)
    _chosen("gallery", galleries, rules.galleries)
    _chosen("mode", modes, rules.modes)
    _chosen_shots(shots, rules)


def _chosen(what: str, chosen: Iterable[str] | None, known: Mapping[str, object]) -> list[str]:
    names = list(known) if chosen is None else list(chosen)
    for name in names:
        if name not in known:
            raise _not_one_of(what, name, known)
    return names


def _chosen_shots(chosen: Iterable[int | None] | None, rules: Rules) -> Sequence[int | None]:
    shots = rules.shots if chosen is None else tuple(chosen)
    for shot in shots:
        if shot not in rules.shots:
            known = ", ".join("all images" if s is None else str(s) for s in rules.shots)
            raise BdfError(f"shots: this data set's protocol has {known}; found {shot}")
    return shots


def _not_one_of(what: str, found: str, known: Iterable[str]) -> BdfError:
    names = list(known)
    near = difflib.get_close_matches(found, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return BdfError(f"{what}: expected one of {', '.join(names)}; found {found!r}{hint}")
