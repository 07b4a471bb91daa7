"""The numbers behind the report's pictures: whole CMC curves, similarities of pairs, ranked lists of a few queries."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax

from bdf_jax.data.index import INFRARED, VISIBLE, ImageIndex
from bdf_jax.evaluation import ranking
from bdf_jax.evaluation.protocols import Protocol
from bdf_jax.evaluation.ranking import Measured
from bdf_jax.evaluation.similarity import OF_TWO_VIEWS, as_products, compared, shown

DEPTH = 20  # ranks of a CMC curve
PAIRS = 50_000  # of each kind at most
BLOCK_ELEMENTS = 2**22  # feature values gathered at a time: 16 MiB a side
KINDS = {
    "visible - visible": (VISIBLE, VISIBLE),
    "infrared - infrared": (INFRARED, INFRARED),
    "visible - infrared": (VISIBLE, INFRARED),
}


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """One set of features and what was measured of it.

    Attributes:
      features_ND: of the first test split.
      index: its N images.
      similarity: one of `similarity.TITLES`.
      rerank: whether the rankings were re-ranked.
      protocols: those of the first test split.
      measured: for each protocol, for each test split (one, or RegDB's ten).
    """

    features_ND: np.ndarray
    index: ImageIndex
    similarity: str
    rerank: bool
    protocols: Sequence[Protocol]
    measured: Sequence[Sequence[Measured]]

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """(R, D) float32, as they are compared: of length 1 for cosines."""
        chosen_RD = self.features_ND[rows].astype(np.float32)
        if self.similarity in OF_TWO_VIEWS:
            return as_products(chosen_RD, self.similarity)[0]
        return (chosen_RD / self._norm_N1[rows]).astype(np.float32) if self.similarity == "cosine" else chosen_RD

    def products(self, query_rows: np.ndarray, gallery_rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Vectors of queries and of a gallery whose dot products rank as `measured` did."""
        queries, gallery = self.vectors(query_rows), self.vectors(gallery_rows)
        if self.similarity != "euclidean":
            return queries, gallery
        as_query, as_gallery = as_products(np.concatenate([queries, gallery]), self.similarity)
        return as_query[: len(queries)], as_gallery[len(queries) :]

    @functools.cached_property
    def _norm_N1(self) -> np.ndarray:
        block = max(1, BLOCK_ELEMENTS // self.features_ND.shape[1])
        parts = [
            np.linalg.norm(self.features_ND[i : i + block].astype(np.float64), axis=1, keepdims=True)
            for i in range(0, len(self.features_ND), block)
        ]
        return np.maximum(np.concatenate(parts), np.finfo(np.float32).tiny)


def cmc_curve(splits: Sequence[Measured], depth: int = DEPTH) -> np.ndarray:
    """(depth,) percent: CMC at 1, 2, ..., the mean over the valid queries, then over trials and splits."""
    ranks = np.arange(1, depth + 1)
    trials = [
        [(m.valid_TQ[t] & (m.rank_TQ[t] < r)).sum() / m.valid_TQ[t].sum() for r in ranks]
        for m in splits
        for t in range(len(m.valid_TQ))
    ]
    return 100 * np.mean(trials, axis=0)


@dataclasses.dataclass(frozen=True)
class PairSimilarities:
    """Similarities of true pairs (one identity) and false ones, and how many such pairs there are in all."""

    true_P: np.ndarray
    false_P: np.ndarray
    true_total: int
    false_total: int

    @property
    def separation(self) -> float:
        """P(a true pair is more similar than a false one), ties half: 1 is perfect, 0.5 is chance; NaN without both."""
        if not len(self.true_P) or not len(self.false_P):
            return float("nan")
        ordered = np.sort(self.false_P)
        below, up_to = (np.searchsorted(ordered, self.true_P, side) for side in ("left", "right"))
        return float((below + up_to).mean() / 2 / len(ordered))


def pair_similarities(evaluated: Evaluated, limit: int = PAIRS, seed: int = 0) -> dict[str, PairSimilarities]:
    """Similarities of pairs of test images within and across modalities.

    Memory is bounded by `limit` and a block of features, whatever the number of images: where there are more than
    `limit` pairs of a kind, that many are drawn with replacement, each pair as likely as every other.

    Args:
      evaluated: its features and index.
      limit: pairs of each kind.
      seed: of the draw.
    """
    index = evaluated.index
    found = {}
    for number, (kind, (a, b)) in enumerate(KINDS.items()):
        rows_A, rows_B = (np.flatnonzero(index.modalities == modality) for modality in (a, b))
        sides = []
        for same in (True, False):
            generator = np.random.default_rng((seed, number, same))
            left_P, right_P, total = draw_pairs(
                index.pids[rows_A], index.pids[rows_B], same=same, within=a == b, limit=limit, generator=generator
            )
            sides.append((_similarities(evaluated, rows_A[left_P], rows_B[right_P]), total))
        (true_P, true_total), (false_P, false_total) = sides
        found[kind] = PairSimilarities(true_P, false_P, true_total, false_total)
    return found


def draw_pairs(
    pids_A: np.ndarray, pids_B: np.ndarray, *, same: bool, within: bool, limit: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, int]:
    """All pairs of one kind, or `limit` of them drawn uniformly with replacement.

    With B sorted by identity, the partners of an image are one run of B (true pairs) or all but that run (false
    pairs), so the k-th partner of image i is arithmetic and no pair is ever listed that is not drawn.

    Args:
      pids_A, pids_B: identities of both sides.
      same: pairs of one identity; else of two.
      within: both sides are the same images: an image is no partner of itself, and (i, j) is (j, i).
      limit: how many to draw.
      generator: of the draw.

    Returns:
      positions in A, positions in B, and how many such pairs there are.
    """
    by_pid_B = np.argsort(pids_B, kind="stable")
    start_A, end_A = (np.searchsorted(pids_B[by_pid_B], pids_A, side).astype(np.int64) for side in ("left", "right"))
    run_A = end_A - start_A
    partners_A = (run_A - int(within) if same else len(pids_B) - run_A).astype(np.int64)
    last_A = np.cumsum(partners_A)
    total = int(last_A[-1]) if len(last_A) else 0
    pairs = total // 2 if within else total
    flat_P = np.arange(total) if pairs <= limit else generator.integers(total, size=limit)
    left_P = np.searchsorted(last_A, flat_P, "right")
    k_P = flat_P - (last_A - partners_A)[left_P]
    if same:
        place_B = np.empty(len(pids_B), np.int64)
        place_B[by_pid_B] = np.arange(len(pids_B))
        sorted_P = start_A[left_P] + k_P
        if within:
            sorted_P = sorted_P + (sorted_P >= place_B[left_P])
    else:
        sorted_P = k_P + np.where(k_P >= start_A[left_P], run_A[left_P], 0)
    right_P = by_pid_B[sorted_P]
    if within and pairs <= limit:
        once = left_P < right_P
        left_P, right_P = left_P[once], right_P[once]
    return left_P, right_P, pairs


def _similarities(evaluated: Evaluated, left_P: np.ndarray, right_P: np.ndarray) -> np.ndarray:
    block = max(1, BLOCK_ELEMENTS // evaluated.features_ND.shape[1])
    parts = []
    for i in range(0, len(left_P), block):
        left_BD, right_BD = (evaluated.vectors(side[i : i + block]) for side in (left_P, right_P))
        if evaluated.similarity == "euclidean":
            parts.append(-np.linalg.norm(left_BD - right_BD, axis=1))
        else:
            product = functools.partial(np.einsum, "pd,pd->p")
            parts.append(compared(left_BD, right_BD, evaluated.similarity, product))
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


@dataclasses.dataclass(frozen=True)
class RankedList:
    """A query and the first images of its ranked gallery, ignored ones left out.

    Attributes:
      kind: "best", "median" or "worst".
      query: row of the index.
      rows: of the gallery images shown, best first.
      scores: their similarities.
      hits: whether they show the query's identity.
      ap: of the query, 0..1.
      matches: images of its identity in its gallery.
      first: position of the first of them, from 1.
      gallery: images that are ranked.
      ignored: images that are not.
    """

    kind: str
    query: int
    rows: np.ndarray
    scores: np.ndarray
    hits: np.ndarray
    ap: float
    matches: int
    first: int
    gallery: int
    ignored: int


def ranked_lists(
    evaluated: Evaluated, *, each: int = 3, length: int = 10, chosen: Mapping[str, list[int]] | None = None
) -> list[RankedList]:
    """Best, median and worst queries by AP in the first trial of the first protocol, each of another identity.

    Args:
      evaluated: whose lists.
      each: how many of each kind.
      length: images of a list.
      chosen: these queries instead, as `choose_queries` gives them.
    """
    protocol, measured = evaluated.protocols[0], evaluated.measured[0][0]
    index, gallery = evaluated.index, protocol.gallery_rows[0]
    if chosen is None:
        chosen = choose_queries(measured.ap_TQ[0], measured.valid_TQ[0], index.pids[protocol.query_rows], each)
    places = np.asarray([q for queries in chosen.values() for q in queries])
    kinds = [kind for kind, queries in chosen.items() for _ in queries]
    queries = protocol.query_rows[places]
    if evaluated.rerank:
        from bdf_jax.evaluation.rerank import rerank  # looks at all queries; brings scipy.sparse

        scores_QG = rerank(evaluated.vectors(protocol.query_rows), evaluated.vectors(gallery))[places]
        shown_QG = scores_QG
    else:
        queries_QD, gallery_GD = evaluated.products(queries, gallery)
        product = functools.partial(jnp.einsum, "qd,gd->qg", precision=lax.Precision.HIGHEST)
        scores_QG = np.asarray(compared(queries_QD, gallery_GD, evaluated.similarity, product))
        shown_QG = shown(scores_QG, queries_QD, evaluated.similarity)
    identity_N = np.unique(index.pids, return_inverse=True)[1]  # those of a tree may not fit into 32 bits
    labels_N2 = np.stack([identity_N, index.cams], axis=1).astype(np.int32)
    keys_GQ = np.asarray(
        ranking.keys_of_scores(
            jnp.asarray(scores_QG.T),
            jnp.asarray(labels_N2[queries]),
            jnp.asarray(labels_N2[gallery]),
            ranking.Ignoring.of(protocol),
        )
    )[:-1]
    lists = []
    for i, (kind, place, query) in enumerate(zip(kinds, places, queries, strict=True)):
        order = np.argsort(-keys_GQ[:, i].astype(np.int64), kind="stable")
        order = order[keys_GQ[order, i] > ranking.HIDDEN]
        hits = index.pids[gallery[order]] == index.pids[query]
        lists.append(
            RankedList(
                kind=kind,
                query=int(query),
                rows=gallery[order[:length]],
                scores=shown_QG[i, order[:length]],
                hits=hits[:length],
                ap=float(measured.ap_TQ[0, place]),
                matches=int(hits.sum()),
                first=int(hits.argmax()) + 1,
                gallery=len(order),
                ignored=len(gallery) - len(order),
            )
        )
    return lists


def choose_queries(ap_Q: np.ndarray, valid_Q: np.ndarray, pid_Q: np.ndarray, each: int) -> Mapping[str, list[int]]:
    """Up to `each` best, median and worst queries, no identity twice: one easy person would fill a list otherwise.

    Returns:
      positions in `ap_Q` for "best", "median" and "worst", best AP first. Fewer where there are few identities.
    """
    order = np.flatnonzero(valid_Q)
    order = order[np.argsort(-ap_Q[order], kind="stable")]
    each = min(each, -(-len(np.unique(pid_Q[order])) // 3))
    from_middle = order[np.argsort(np.abs(np.arange(len(order)) - (len(order) - 1) / 2), kind="stable")]
    seen: set[int] = set()
    chosen: dict[str, list[int]] = {"best": [], "median": [], "worst": []}
    for kind, walk in (("best", order), ("worst", order[::-1]), ("median", from_middle)):
        for query in walk.tolist():
            if len(chosen[kind]) == each:
                break
            if int(pid_Q[query]) not in seen:
                seen.add(int(pid_Q[query]))
                chosen[kind].append(query)
    place = {query: i for i, query in enumerate(order.tolist())}
    return {kind: sorted(queries, key=place.__getitem__) for kind, queries in chosen.items()}
