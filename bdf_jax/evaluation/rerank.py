"""k-reciprocal re-ranking (Zhong et al., CVPR 2017): always off unless asked, and said in every row.

It looks at all queries and the whole gallery of a trial at once, so its numbers do not compare with those of a ranking
that sees one query at a time. With d the distance of two images, N(p, k) the k nearest of p (p among them):

    R(p, k)  = images that are in N(p, k) and have p in theirs
    R*(p)    = R(p, k1), joined with R(q, k1 / 2) of every q in it that shares more than two thirds of R(q, k1 / 2)
    V(p, g)  = exp(-d(p, g)) on R*(p), else 0; scaled to sum 1, then averaged over N(p, k2)
    Jaccard  = 1 - sum min(V(p), V(g)) / sum max(V(p), V(g))
    result   = (1 - lambda) Jaccard + lambda d

The scaling of V, the strict "more than" and d as a share of each image's largest distance follow the authors' code,
from which the field's numbers come. Nothing is held for all pairs of images but queries x gallery: neighbours come from
`retrieval.top_k`, V is sparse.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
import scipy.sparse

from bdf_jax.data.index import ImageIndex
from bdf_jax.errors import BdfError
from bdf_jax.evaluation.protocols import Protocol
from bdf_jax.evaluation.ranking import Measured, rank_scores
from bdf_jax.evaluation.retrieval import top_k

LARGEST = 2**30  # scores of a trial: 4 GiB


def rank_all_reranked(features_ND: np.ndarray, index: ImageIndex, protocols: Sequence[Protocol]) -> list[Measured]:
    """As `ranking.rank_all`, with every trial re-ranked.

    Raises:
      BdfError: a trial whose queries x gallery do not fit in memory.
    """
    measured = []
    for protocol in protocols:
        trials = []
        for number, rows in zip(protocol.trials, protocol.gallery_rows, strict=True):
            if len(protocol.query_rows) * len(rows) > LARGEST:
                raise BdfError(
                    f"re-ranking of {protocol.name}: {len(protocol.query_rows):,} queries x {len(rows):,} images "
                    f"are more than the {LARGEST:,} scores it holds at once; evaluate without --rerank"
                )
            scores_QG = rerank(features_ND[protocol.query_rows], features_ND[rows])
            trials.append(
                rank_scores(scores_QG, index, dataclasses.replace(protocol, trials=(number,), gallery_rows=(rows,)))
            )
        fields = (np.concatenate([getattr(t, f.name) for t in trials]) for f in dataclasses.fields(Measured))
        measured.append(Measured(*fields))
    return measured


def rerank(
    queries_QD: np.ndarray, gallery_GD: np.ndarray, *, k1: int = 20, k2: int = 6, weight: float = 0.3
) -> np.ndarray:
    """(Q, G) float32 similarities after re-ranking: 1 - the result above.

    Args:
      queries_QD, gallery_GD: float32 features, compared by dot product.
      k1, k2: numbers of neighbours.
      weight: lambda, the share of the original distance.
    """
    all_ND = np.concatenate([queries_QD, gallery_GD])
    count = len(all_ND)
    greatest_NK, nearest_NK = top_k(all_ND, all_ND, min(k1 + 1, count))
    farthest_N1 = -top_k(-all_ND, all_ND, 1)[0]
    range_N1 = np.maximum(greatest_NK[:, :1] - farthest_N1, np.finfo(np.float32).tiny)
    expanded = _expanded_sets(_reciprocal(nearest_NK), _reciprocal(nearest_NK[:, : round(k1 / 2) + 1]))

    lengths = [len(members) for members in expanded]
    owner_E, member_E = np.repeat(np.arange(count), lengths), np.concatenate(expanded)
    score_E = np.concatenate(
        [np.einsum("ed,ed->e", all_ND[a], all_ND[b]) for a, b in _pieces(owner_E, member_E, 2**24 // all_ND.shape[1])]
    )
    distance_E = np.clip((greatest_NK[owner_E, 0] - score_E) / range_N1[owner_E, 0], 0, 1)
    v_NN = scipy.sparse.csr_matrix((np.exp(-distance_E), (owner_E, member_E)), shape=(count, count))
    v_NN = scipy.sparse.diags(1 / v_NN.sum(axis=1).A1) @ v_NN
    if k2 > 1:
        near = nearest_NK[:, :k2]
        average = np.full(near.size, 1 / near.shape[1])
        rows = np.repeat(np.arange(count), near.shape[1])
        v_NN = scipy.sparse.csr_matrix((average, (rows, near.ravel())), shape=(count, count)) @ v_NN

    queries = len(queries_QD)
    shared_QG = _shared(v_NN[:queries], v_NN[queries:])
    scores_QG = np.asarray(jnp.matmul(queries_QD, gallery_GD.T, precision="highest"))
    distance_QG = np.clip((greatest_NK[:queries, :1] - scores_QG) / range_N1[:queries], 0, 1)
    jaccard_QG = 1 - shared_QG / (2 - shared_QG)  # both sum to 1: sum max = 2 - sum min
    return (1 - (1 - weight) * jaccard_QG - weight * distance_QG).astype(np.float32)


def _reciprocal(nearest_NK: np.ndarray) -> list[np.ndarray]:
    """For every image those of its neighbours that have it among theirs, sorted."""
    count = len(nearest_NK)
    ones = np.ones(nearest_NK.size, bool)
    owner = np.repeat(np.arange(count), nearest_NK.shape[1])
    near_NN = scipy.sparse.csr_matrix((ones, (owner, nearest_NK.ravel())), shape=(count, count))
    mutual_NN = near_NN.multiply(near_NN.T).tocsr()
    mutual_NN.sort_indices()
    return np.split(mutual_NN.indices, mutual_NN.indptr[1:-1])


def _expanded_sets(sets: list[np.ndarray], half_sets: list[np.ndarray]) -> list[np.ndarray]:
    expanded = []
    for image, own in enumerate(sets):
        members = set(own.tolist())
        joined = members | {image}  # an image is its own neighbour even where the dot product prefers a longer one
        for candidate in own:
            half = half_sets[candidate].tolist()
            if 3 * len(members.intersection(half)) > 2 * len(half):
                joined.update(half)
        expanded.append(np.asarray(sorted(joined)))
    return expanded


def _pieces(a: np.ndarray, b: np.ndarray, size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(a[i : i + size], b[i : i + size]) for i in range(0, len(a), max(1, size))]


def _shared(query: scipy.sparse.csr_matrix, gallery: scipy.sparse.csr_matrix) -> np.ndarray:
    """(Q, G): sum of the smaller of both weights, over the columns that both have."""
    columns = gallery.tocsc()
    shared_QG = np.zeros((query.shape[0], gallery.shape[0]), np.float32)
    for q in range(query.shape[0]):
        own = slice(query.indptr[q], query.indptr[q + 1])
        starts, ends = columns.indptr[query.indices[own]], columns.indptr[query.indices[own] + 1]
        lengths = ends - starts
        entries = np.repeat(starts - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())
        smaller = np.minimum(np.repeat(query.data[own], lengths), columns.data[entries])
        shared_QG[q] = np.bincount(columns.indices[entries], weights=smaller, minlength=gallery.shape[0])
    return shared_QG
