"""The evaluation protocols as data: who is query, who is gallery in each trial, who ignores whom, which CMC.

`DATASETS` is the one place to touch for another data set. `protocols_for` turns an entry and an index of test images
into `Protocol`s, one for each row of the table that a paper would print.

SYSU-MM01 (Wu et al., ICCV 2017): infrared queries; one or ten images of every identity and visible camera as gallery,
ten trials; a query of camera 3 ignores camera 2, which looks at the same place.
RegDB (Nguyen et al., Sensors 2017): all against all; ten fixed splits, each with a model of its own.
LLCM (Zhang and Wang, CVPR 2023): one image of every identity and camera of the other modality, ten trials drawn; a
query ignores images of its own identity from its own camera. Published visible-to-infrared numbers mix two
protocols; this is the straight one: the same rule in both directions.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import numpy as np

from bdf_jax.data.index import INFRARED, VISIBLE, ImageIndex
from bdf_jax.errors import BdfError
from bdf_jax.evaluation import gallery
from bdf_jax.evaluation.gallery import Picks


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


@dataclasses.dataclass(frozen=True)
class Request:
    """What a gallery family needs to know to pick the gallery of one trial."""

    index: ImageIndex
    modality: int
    cams: tuple[int, ...]
    shots: int | None
    trial: int
    picks: Picks | None


@dataclasses.dataclass(frozen=True)
class Published:
    """What is known of a published test set without its images.

    Attributes:
      identities: how many are tested.
      images: function that gives every image's name and identity; None where only numbers are known.
      images_of_identity: of each modality, where all have as many; 0: they have not.
    """

    identities: int
    images: Callable[[], tuple[np.ndarray, np.ndarray]] | None = None
    images_of_identity: int = 0


@dataclasses.dataclass(frozen=True)
class Rules:
    """The protocol of a data set, before its images are known.

    Attributes:
      directions: name -> (modality of the queries, modality of the gallery).
      modes: name -> gallery cameras; None: every camera of the modality.
      shots: gallery images of an identity and camera; None: all of them.
      galleries: name of the family -> function that picks the rows of one trial.
      trials: their numbers.
      one_split_per_trial: a trial is another test split (another index), not another gallery.
      published: the published test set, against which feature files are checked.
      name_pattern: what an image's name tells, as groups `pid`, `cam` and `modality`.
      camera_modalities: modality of every camera, where the tree fixes it.
    """

    directions: Mapping[str, tuple[int, int]]
    modes: Mapping[str, tuple[int, ...] | None]
    shots: tuple[int | None, ...]
    galleries: Mapping[str, Callable[[Request], np.ndarray]]
    trials: range
    cmc: Literal["unique", "raw"]
    published: Published
    name_pattern: re.Pattern[str]
    one_split_per_trial: bool = False
    ignored_cameras: tuple[tuple[int, int], ...] = ()
    ignores_own_camera: bool = False
    camera_modalities: Mapping[int, int] = dataclasses.field(default_factory=dict)


def _official(request: Request) -> np.ndarray:
    picks, shots = request.picks, request.shots or 1
    if picks is None:
        raise BdfError(
            "the official galleries need gallery picks: the tree's own exp/rand_perm_cam.mat or, for the real "
            "SYSU-MM01 test set, those shipped with the project. Found neither; use the other family: --gallery=agw"
        )
    misfit = picks.misfit(request.index.select(request.index.modalities == request.modality), request.cams)
    if misfit:
        raise BdfError(
            f"the official galleries do not fit these images: {picks.source} was tried, and {misfit}. "
            "Give the tree's own exp/rand_perm_cam.mat (--root=TREE), or use the other family: --gallery=agw"
        )
    return gallery.official_gallery(request.index, picks, cams=request.cams, shots=shots, trial=request.trial)


def _drawn(request: Request) -> np.ndarray:
    return gallery.drawn_gallery(
        request.index, modality=request.modality, cams=request.cams, shots=request.shots or 1, trial=request.trial
    )


def _whole(request: Request) -> np.ndarray:
    return gallery.whole_gallery(request.index, modality=request.modality)


DATASETS: dict[str, Rules] = {
    "sysu_mm01": Rules(
        directions={"infrared_to_visible": (INFRARED, VISIBLE)},
        modes={"all": (1, 2, 4, 5), "indoor": (1, 2)},
        shots=(1, 10),
        galleries={"official": _official, "agw": _drawn},
        trials=range(10),
        cmc="unique",
        published=Published(identities=96, images=gallery.published_images),
        name_pattern=re.compile(r"cam(?P<cam>\d+)/(?P<pid>\d+)/"),
        ignored_cameras=((3, 2),),
        camera_modalities={1: VISIBLE, 2: VISIBLE, 3: INFRARED, 4: VISIBLE, 5: VISIBLE, 6: INFRARED},
    ),
    "regdb": Rules(
        directions={"visible_to_thermal": (VISIBLE, INFRARED), "thermal_to_visible": (INFRARED, VISIBLE)},
        modes={"all": None},
        shots=(None,),
        galleries={"official": _whole},
        trials=range(1, 11),
        cmc="raw",
        published=Published(identities=206, images_of_identity=10),
        name_pattern=re.compile(r"(?P<modality>Visible|Thermal)/"),
        one_split_per_trial=True,
    ),
    "llcm": Rules(
        directions={"infrared_to_visible": (INFRARED, VISIBLE), "visible_to_infrared": (VISIBLE, INFRARED)},
        modes={"all": None},
        shots=(1,),
        galleries={"agw": _drawn},
        trials=range(10),
        cmc="unique",
        published=Published(identities=351),
        name_pattern=re.compile(r"test_(?P<modality>vis|nir)/cam(?P<cam>\d+)/(?P<pid>\d+)/"),
        ignores_own_camera=True,
    ),
}


def rules_for(dataset: str) -> Rules:
    """The entry of `DATASETS`.

    Raises:
      BdfError: unknown data set.
    """
    if dataset not in DATASETS:
        raise _not_one_of("dataset", dataset, DATASETS)
    return DATASETS[dataset]


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
