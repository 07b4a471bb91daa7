"""Can these features be ranked honestly? Where they cannot, a number would say how the rows of a file are ordered.

Refused are values that are not finite or that float32 does not hold, vectors of length 0 where directions are compared,
vectors so long that scores overflow, features that are all the same, and features so close together that the rounding
of float32 decides their order. Noted are images whose features are exactly those of another person's image.
"""

from __future__ import annotations

import collections

import numpy as np

from bdf_jax.data.index import ImageIndex
from bdf_jax.errors import BdfError
from bdf_jax.evaluation.similarity import OF_TWO_VIEWS, TITLES, as_products, compared, views_in
from bdf_jax.names import some

SMALLEST = 2.0**-102  # of a vector's largest value: float32 holds 24 digits of it, and fewer below
SHORTEST = 2.0**-40  # of the longest vector: the products of its parts are numbers of full precision
LONGEST = 2.0**63  # of a vector whose dot products are finite: its square is half of what float32 holds
SAMPLE = 512  # images whose scores are computed in both precisions
ROUNDING = 0.02  # share of rounding in the spread of a query's scores, above which it decides the order
TIED = 0.05  # share of matches with the score of another person's image, above which it is noted
MANY = 0.01  # share of images that are copies, above which those of one person are noted, too


def as_float32(features_ND: np.ndarray, names_N: np.ndarray, what: str = "") -> np.ndarray:
    """Features as float32 that says the same.

    Args:
      features_ND: (N, D) floating point.
      names_N: of the images, for messages.
      what: begins a message.

    Raises:
      BdfError: values that are not finite or beyond float32, vectors or differences too small for it.
    """
    with np.errstate(over="ignore", under="ignore"):
        converted_ND = np.ascontiguousarray(features_ND, dtype=np.float32)
    broken = np.flatnonzero(~np.isfinite(converted_ND).all(axis=1))
    if broken.size:
        ends = " (float16 ends at 65,504)" if features_ND.dtype == np.float16 else ""
        raise BdfError(
            f"{what}features of {broken.size} of {len(names_N)} images are NaN, infinite or beyond float32{ends}: "
            f"{some(names_N[broken])}"
        )
    largest_N = np.abs(features_ND).max(axis=1)
    faint = np.flatnonzero((largest_N > 0) & (largest_N < SMALLEST))
    if faint.size:
        raise BdfError(
            f"{what}features of {faint.size} of {len(names_N)} images are too small for float32, the largest value "
            f"{float(largest_N[faint].max()):.1e}: {some(names_N[faint])}. Multiply all features by one number"
        )
    if features_ND.dtype.itemsize > 4:
        _check_conversion(features_ND, converted_ND, what)
    return converted_ND


def check_scores(features_ND: np.ndarray, names_N: np.ndarray, similarity: str, what: str = "") -> None:
    """Raises BdfError where a score would be undefined or infinite; features as from `as_float32`."""
    length_N = np.min([lengths(view_ND, similarity) for view_ND in views_in(features_ND, similarity)], axis=0)
    empty = np.flatnonzero(length_N == 0)
    if empty.size and similarity != "euclidean":
        raise _no_direction(names_N, empty, similarity, what)
    endless = np.flatnonzero(length_N >= LONGEST)
    if endless.size and similarity in ("dot", "euclidean"):
        raise BdfError(
            f"{what}features of {endless.size} of {len(names_N)} images are so long (up to {length_N.max():.1e}) that "
            f"the {similarity} scores are beyond float32: {some(names_N[endless])}. Divide all features by one number, "
            "or compare by cosine"
        )
    if similarity in ("dot", "euclidean") and 0 < length_N.max() < SHORTEST:
        raise BdfError(
            f"{what}features are so short (at most {length_N.max():.1e}) that {similarity} scores are too small for "
            "float32. Multiply all features by one number, or compare by cosine"
        )


def check_vectors(
    features_ND: np.ndarray, names_N: np.ndarray, similarity: str, what: str = "", block: int = 4096
) -> None:
    """Raises BdfError where vectors have no similarity to any other; reads a block at a time of what is on a disk."""
    parts = [features_ND[start : start + block] for start in range(0, len(features_ND), block)]
    broken = np.flatnonzero(np.concatenate([~np.isfinite(part_BD).all(axis=1) for part_BD in parts]))
    if broken.size:
        raise BdfError(
            f"{what}features of {broken.size} of {len(names_N)} images are NaN or infinite: {some(names_N[broken])}"
        )
    empty = np.flatnonzero(np.concatenate([~part_BD.any(axis=1) for part_BD in parts]))
    if empty.size and similarity != "euclidean":
        raise _no_direction(names_N, empty, similarity, what)


def _no_direction(names_N: np.ndarray, empty: np.ndarray, similarity: str, what: str) -> BdfError:
    return BdfError(
        f"{what}features of {empty.size} of {len(names_N)} images are all zero, and have no {TITLES[similarity]} to "
        f"rank by: {some(names_N[empty])}. Rows of an array that were never written look like this: embed these images "
        "again"
    )


def lengths(features_ND: np.ndarray, similarity: str) -> np.ndarray:
    """(N,) float64: of the vectors; for "euclidean" of those around their mean, where a vector of zeros counts as any.

    Squares are summed in float64: those of float32 values have a place there.
    """
    if similarity == "euclidean":
        features_ND = features_ND - features_ND.mean(axis=0, dtype=np.float64)
    return np.sqrt(np.einsum("nd,nd->n", features_ND, features_ND, dtype=np.float64))


def concerns(features_ND: np.ndarray, index: ImageIndex, similarity: str) -> tuple[list[str], list[str]]:
    """Of features that `check_scores` let pass: why they cannot be ranked all the same, and what is to be noted."""
    groups: dict[int, list[int]] = collections.defaultdict(list)
    for row, vector_D in enumerate(features_ND + np.float32(0)):  # -0.0 becomes 0.0
        groups[hash(vector_D.tobytes())].append(row)
    if len(groups) == 1 and len(index) > 1:
        return [f"the features of all {len(index):,} images are the same: the order of the file decides"], []
    chosen = np.random.default_rng(0).permutation(len(index))[:SAMPLE]
    scores_SS, exact_SS = _scores(features_ND, chosen, similarity)
    if unresolved := _unresolved(scores_SS, exact_SS, similarity):
        return [unresolved], []
    said = _copies([rows for rows in groups.values() if len(rows) > 1], index) + _ties(scores_SS, index.pids[chosen])
    zero = np.flatnonzero(~features_ND.any(axis=1))
    if zero.size:  # only a distance can be told of them
        said.append(
            f"features of {zero.size} of {len(index)} images are all zero ({some(index.names[zero])}): rows of an "
            "array that were never written look like this"
        )
    return [], said


def _copies(groups: list[list[int]], index: ImageIndex) -> list[str]:
    rows = [row for group in groups for row in group]
    strangers = [row for group in groups if len(np.unique(index.pids[group])) > 1 for row in group]
    if not strangers and len(rows) <= MANY * len(index):
        return []
    first = max(groups, key=len)
    of_others = f", {len(strangers):,} of them in common with another person's" if strangers else ""
    return [
        f"features of {len(rows):,} of {len(index):,} images are exactly those of another image{of_others}; most often "
        f"those of {some(index.names[first])}. Equal scores rank by the order of the gallery. A constant, or a batch "
        "written twice, looks like this"
    ]


def _ties(scores_SS: np.ndarray, pids_S: np.ndarray) -> list[str]:
    """Scores of matches that other people's images have, too: their order is that of the gallery."""
    same_SS = pids_S[:, None] == pids_S
    np.fill_diagonal(same_SS, False)  # an image is not its own query
    matches = tied = 0
    for scores_S, same_S in zip(scores_SS, same_SS, strict=True):
        others = scores_S[pids_S != pids_S[same_S][0]] if same_S.any() else scores_S[:0]
        matches += same_S.sum()
        tied += np.isin(scores_S[same_S], others).sum()
    if tied <= TIED * matches:
        return []
    return [
        f"{100 * tied / matches:.0f} % of the matches among {len(pids_S)} images have exactly the score of another "
        "person's image, and rank by the order of the gallery"
    ]


def _scores(features_ND: np.ndarray, chosen: np.ndarray, similarity: str) -> tuple[np.ndarray, np.ndarray]:
    """(S, S) scores among some images, as they are ranked and in float64."""
    exact_SD = features_ND[chosen].astype(np.float64)
    mean_D = features_ND.mean(axis=0, dtype=np.float64) if similarity == "euclidean" else None
    queries_SD, gallery_SD = as_products(features_ND[chosen], similarity, mean_D=mean_D)
    if similarity in ("cosine", *OF_TWO_VIEWS):
        parts = views_in(exact_SD, similarity)
        exact_SD = np.concatenate([part / np.linalg.norm(part, axis=1, keepdims=True) for part in parts], axis=1)
    exact_SD = exact_SD if mean_D is None else exact_SD - mean_D
    half_1S = np.square(exact_SD).sum(axis=1)[None] / 2 if similarity == "euclidean" else 0
    as_ranked, exact = (
        compared(queries, gallery, similarity, lambda a, b: a @ b.T)
        for queries, gallery in ((queries_SD, gallery_SD), (exact_SD, exact_SD))
    )
    return as_ranked, exact - half_1S


def _unresolved(scores_SS: np.ndarray, exact_SS: np.ndarray, similarity: str) -> str:
    """Whether rounding decides the order: its size beside the spread of a query's scores."""
    if len(scores_SS) < 3:
        return ""
    others = ~np.eye(len(scores_SS), dtype=bool)
    # Between quantiles: one image far from all others must not hide that the others cannot be told apart.
    error_S, spread_S = (
        np.subtract(*np.quantile(side_SS[others].reshape(len(others), -1), (0.84, 0.16), axis=1)) / 2
        for side_SS in (scores_SS - exact_SS, exact_SS)
    )
    if (error_S > ROUNDING * spread_S).mean() <= 0.5:
        return ""
    return (
        f"the features are so close together that float32 cannot order them: among {len(others)} of them rounding "
        f"moves the {similarity} scores by {np.median(error_S):.1e}, and they differ by {np.median(spread_S):.1e}. "
        "Subtract the mean of all features first, or compare them otherwise"
    )


def _check_conversion(features_ND: np.ndarray, converted_ND: np.ndarray, what: str) -> None:
    """Whether float32 keeps how features of a wider type differ; a sample tells."""
    chosen = np.random.default_rng(0).permutation(len(features_ND))[:SAMPLE]
    exact_SD = features_ND[chosen].astype(np.float64)
    if (exact_SD == exact_SD[0]).all():  # told elsewhere
        return
    scale = np.abs(exact_SD).max()  # squares stay finite
    lost = np.linalg.norm((exact_SD - converted_ND[chosen]) / scale)
    spread = np.linalg.norm((exact_SD - exact_SD.mean(axis=0)) / scale)
    if lost > ROUNDING * spread:
        raise BdfError(
            f"{what}features differ by less than float32 tells apart: of their differences it loses "
            f"{min(100, 100 * lost / spread):.0f} %. Subtract the mean of all features before they are written"
        )
