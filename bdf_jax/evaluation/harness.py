"""Features, an index and protocols in; the rows of the table out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bdf_jax.data.index import ImageIndex
from bdf_jax.errors import BdfError
from bdf_jax.evaluation import statistics
from bdf_jax.evaluation.protocols import Protocol
from bdf_jax.evaluation.rankable import as_float32, check_scores, concerns
from bdf_jax.evaluation.ranking import Measured, rank_all
from bdf_jax.evaluation.similarity import as_products, check_similarity
from bdf_jax.trouble import check_platform


def evaluate(
    features_ND: np.ndarray,
    index: ImageIndex,
    protocols: Sequence[Protocol],
    *,
    model: str = "features",
    similarity: str = "cosine",
    rerank: bool = False,
    flags: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """One row for each protocol.

    Args:
      features_ND: N feature vectors.
      index: N images.
      protocols: from `protocols_for` on the same index.
      model: what the row calls these features.
      similarity: "cosine", "max4" and "min4" normalise the features first, "dot" and "euclidean" take them as they are.
      rerank: k-reciprocal re-ranking of every trial.
      flags: further keys for every row, such as `feature`, `use`, `flip_tta`.

    Raises:
      BdfError: features that do not match the index or have no finite scores; no query with a match.
    """
    measured = measure(features_ND, index, protocols, similarity=similarity, rerank=rerank)
    refused, noted = concerns(np.asarray(features_ND, np.float32), index, similarity)
    shown = {"similarity": similarity, "rerank": rerank, **(flags or {}), "notes": refused + noted}
    return [row(p, [m], model=model, flags=shown) for p, m in zip(protocols, measured, strict=True)]


def measure(
    features_ND: np.ndarray,
    index: ImageIndex,
    protocols: Sequence[Protocol],
    *,
    similarity: str = "cosine",
    rerank: bool = False,
) -> list[Measured]:
    """What `evaluate` summarises: AP, INP and rank of every query in every trial of every protocol."""
    check_platform()
    features_ND = _checked(features_ND, index)
    check_similarity(similarity)
    check_scores(features_ND, index.names, similarity)
    queries_ND, gallery_ND = as_products(features_ND, similarity)
    if rerank:
        from bdf_jax.evaluation.rerank import rank_all_reranked  # brings scipy.sparse

        if similarity not in ("cosine", "dot"):
            raise BdfError(
                f"--rerank: re-ranking compares by cosine or dot product, found {similarity}; choose otherwise"
            )
        return rank_all_reranked(gallery_ND, index, protocols)
    return rank_all(gallery_ND, index, protocols, queries_ND=queries_ND, similarity=similarity)


def row(
    protocol: Protocol,
    splits: Sequence[Measured],
    *,
    model: str,
    flags: Mapping[str, Any],
    trials: Sequence[int] | None = None,
) -> dict[str, Any]:
    """The row of one protocol: the mean over trials in percent, its spread and its confidence interval.

    Args:
      protocol: gives the row its name; for several splits, that of any of them.
      splits: one entry where all trials share the queries; one for each test split otherwise.
      model, flags: as in `evaluate`.
      trials: the numbers of the trials where `splits` has several entries.

    Returns:
      a JSON-ready dictionary. `R1_std` and so on: standard deviation over trials (n - 1; None for one trial).
      `R1_ci` and so on: 95 % bootstrap interval over queries. `queries` counts those with a match.
    """
    queries = round(np.mean([m.valid_TQ.any(axis=0).sum() for m in splits]))
    intervals = statistics.interval(statistics.bootstrap(splits)).tolist()
    return labelled_row(
        protocol,
        model=model,
        trials=protocol.trials if trials is None else trials,
        queries=queries,
        lost=round(np.mean([m.valid_TQ.shape[1] for m in splits])) - queries,
        trial_T6=statistics.per_trial(splits),
        intervals=intervals,
        flags=flags,
    )


def labelled_row(
    protocol: Protocol,
    *,
    model: str,
    trials: Sequence[int],
    queries: int,
    lost: int,
    trial_T6: np.ndarray,
    intervals: Sequence[Sequence[float] | None] = (None,) * 6,
    flags: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The keys that every row has, from percentages (trials, 6) in the order of `statistics.METRICS`."""
    names = statistics.METRICS
    spread_6 = trial_T6.std(axis=0, ddof=1).tolist() if len(trial_T6) > 1 else [None] * 6
    return {
        "dataset": protocol.dataset,
        "model": model,
        "mode": protocol.mode,
        "shots": protocol.shots,
        "gallery": protocol.gallery,
        "direction": protocol.direction,
        "trials": len(trial_T6),
        "queries": queries,
        "queries_without_match": lost,
        "gallery_size": round(np.mean([len(rows) for rows in protocol.gallery_rows])),
        **dict(zip(names, trial_T6.mean(axis=0).tolist(), strict=True)),
        **dict(zip((f"{name}_std" for name in names), spread_6, strict=True)),
        **dict(zip((f"{name}_ci" for name in names), intervals, strict=True)),
        **(flags or {}),
        "per_trial": [
            {"trial": number, **dict(zip(names, values, strict=True))}
            for number, values in zip(trials, trial_T6.tolist(), strict=True)
        ],
    }


def _checked(features_ND: np.ndarray, index: ImageIndex) -> np.ndarray:
    features_ND = np.asarray(features_ND)
    if features_ND.dtype.name == "bfloat16":  # of JAX's arrays
        features_ND = features_ND.astype(np.float32)
    if features_ND.dtype.kind != "f":
        raise BdfError(f"features: expected floating point, found {features_ND.dtype}")
    if features_ND.ndim != 2 or len(features_ND) != len(index):
        raise BdfError(f"features: expected ({len(index)}, D), a row for each image; found {features_ND.shape}")
    return as_float32(features_ND, index.names)
