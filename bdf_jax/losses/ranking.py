"""Ranking losses: sums over directed edges between modalities.

A batch of P identities with K images in each of M modalities has features `features_PKMD`. Identity is an axis,
so "the same person" is "the same p": no label is compared. An edge (m, n) takes its anchors from modality m and
both its positives and its negatives from modality n; either side may be a pool of several modalities.

    MML   edges (m, m), every image an anchor              intra-modality
    MDL   edges (m, n) and (n, m), identity centres        cross-modality

Source: Liu et al., "A Base-Derivative Framework for Cross-Modality RGB-Infrared Person Re-Identification",
ICPR 2020, names MML and MDL; their exact form here follows its closest relatives (README, Fidelity).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

V, I, DV, DI = 0, 1, 2, 3  # noqa: E741  the modalities: visible, infrared and their derivatives
MODALITIES = ("V", "I", "Dv", "Di")

PAIRS: dict[str, tuple[tuple[int, int], ...]] = {
    "bridge": ((V, I), (V, DI), (DV, I), (DV, DI)),  # every pair crosses the modality gap
    "bi": ((V, I),),  # the general, two-modality loss
    "no_dd": ((V, I), (V, DI), (DV, I)),
    "base_derivative": ((V, I), (V, DV), (I, DI)),
    "all": ((V, I), (V, DV), (V, DI), (I, DV), (I, DI), (DV, DI)),
}

Positions = tuple[int, ...]
Pool = int | Positions
Edge = tuple[Pool, Pool]
Level = Literal["sample", "center"]
Metric = Literal["euclidean", "sphere", "cosine"]
Negatives = Literal["candidates", "both"]
Reduce = Literal["sum", "mean"]


def ranking_terms(
    features_PKMD: jax.Array,
    edges: Iterable[Edge],
    *,
    level: Level,
    margin: float,
    metric: Metric = "euclidean",
    negatives: Negatives = "candidates",
) -> jax.Array:
    """The hinge of every edge, each the mean over its anchors.

        sample   mean over anchors a in m of [margin + max_pos d(a, p) - min_neg d(a, q)]_+    p, q in n
        center   the same on the identity centres c_pm = mean_k f_pkm, one anchor an identity and modality

    Within a pool an image is its own positive only where it is the only one.

    Args:
      features_PKMD: (P, K, M, D) float, features of P >= 2 identities. Computed in float32.
      edges: (anchors, candidates) positions on the M axis; a tuple of positions is a pool of modalities.
      level: "sample" mines the hardest images, "center" compares identity centres.
      margin: in units of the distance.
      metric: "euclidean": of the features as they are; "sphere": of their unit vectors; "cosine": 1 - cosine.
      negatives: "candidates": of the anchor. "both": at centre level between two single modalities, also those of
        the positive among the anchors: the smaller of the row's and the column's least distance (XIV, AAAI 2020).

    Returns:
      (E,) float32, one term an edge, in their order.

    Raises:
      ValueError: fewer than two identities, an edge outside the M axis, an unknown level, no edge.
    """
    pools = _checked_edges(edges, features_PKMD)
    if features_PKMD.shape[0] < 2:
        raise ValueError(f"a ranking needs at least 2 identities in the batch, found {features_PKMD.shape[0]}")
    if level not in ("sample", "center"):
        raise ValueError(f"level: expected 'sample' or 'center', found {level!r}")
    if negatives == "both" and (level != "center" or any(len(m) > 1 or len(n) > 1 for m, n in pools)):
        raise ValueError("negatives 'both' are those between two single modalities at centre level")
    features_PKMD = measured_in(features_PKMD.astype(jnp.float32), metric)
    if level == "center":
        features_PKMD = features_PKMD.mean(axis=1, keepdims=True)
    hinge = functools.partial(_hinge, margin=margin, squared=metric == "cosine", both=negatives == "both")
    return jnp.stack([hinge(features_PKMD, m, n) for m, n in pools])


def weighted_terms(
    features_PKMD: jax.Array,
    edges: Iterable[Edge],
    *,
    form: Literal["softplus", "squared"] = "softplus",
    legacy: bool = False,
) -> jax.Array:
    """The weighted triplet of every edge: no margin, every positive and negative by its difficulty.

        d+ = sum softmax(+d) d over positives    d- = sum softmax(-d) d over negatives
        softplus   mean over anchors of log(1 + exp(d+ - d-))
        squared    mean of log(1 + exp(s min((d+ - d-)^2, 88))), s the sign of d+ - d-

    d is the Euclidean distance of features that are not normalised; an anchor in the pool is its own positive.

    Args:
      features_PKMD: (P, K, M, D) float. Computed in float32.
      edges: as for `ranking_terms`.
      form: of AGW (softplus) or of CAJ (squared).
      legacy: divide by sum exp(-d) + 1e-6 as the authors' code does, which loses all negatives at d of 15 and more.

    Returns:
      (E,) float32.

    References:
      Ye et al., "Deep Learning for Person Re-identification: A Survey and Outlook", TPAMI 2021, equation 9.
      Ye et al., "Channel Augmented Joint Learning for Visible-Infrared Recognition", ICCV 2021.
    """
    features_PKMD = features_PKMD.astype(jnp.float32)
    terms = []
    for m, n in _checked_edges(edges, features_PKMD):
        anchors_PAD, others_PBD = _pooled(features_PKMD, m), _pooled(features_PKMD, n)
        distance_NM, positive_NM = _all_distances(anchors_PAD, others_PBD)
        hard = _mean_distance(distance_NM, positive_NM, +1, legacy)
        gap_N = hard - _mean_distance(distance_NM, ~positive_NM, -1, legacy)
        if form == "squared":
            gap_N = jnp.where(gap_N > 0, 1.0, -1.0) * jnp.minimum(jnp.square(gap_N), 88.0)
        terms.append(jax.nn.softplus(gap_N).mean())
    return jnp.stack(terms)


def ranking_loss(
    features_PKMD: jax.Array, edges: Iterable[Edge], *, level: Level, margin: float, reduce: Reduce = "sum"
) -> jax.Array:
    """The one ranking loss: `ranking_terms` summed or averaged over the edges.

    Args:
      features_PKMD: (P, K, M, D) float.
      edges: (anchor modality, other modality) pairs; a loss of one's own is a list of one's own.
      level: "sample" or "center".
      margin: in units of the distance.
      reduce: "sum" grows with the number of edges, "mean" does not.

    Returns:
      () float32.
    """
    return _reduce(ranking_terms(features_PKMD, edges, level=level, margin=margin), reduce)


def mml_loss(
    features_PKMD: jax.Array, *, modes: Sequence[int] = (0, 1, 2, 3), margin: float = 0.3, reduce: Reduce = "sum"
) -> jax.Array:
    """MML, intra-modality: a batch-hard triplet loss inside each modality.

    Args:
      features_PKMD: (P, K, M, D) float.
      modes: positions on the M axis that take part. (0, 1) is the general two-modality loss.
      margin: in units of the distance.
      reduce: over the modes.

    Returns:
      () float32.

    References:
      Hermans et al., "In Defense of the Triplet Loss for Person Re-Identification", 2017, equation 5.
    """
    return ranking_loss(features_PKMD, [(m, m) for m in modes], level="sample", margin=margin, reduce=reduce)


def mdl_edges(pairs: str | Iterable[Edge]) -> list[Edge]:
    """Both directions of every pair; `pairs` is a key of `PAIRS` or pairs of one's own.

    Raises:
      ValueError: unknown name.
    """
    if isinstance(pairs, str):
        if pairs not in PAIRS:
            raise ValueError(f"pairs: expected one of {', '.join(PAIRS)} or a list of pairs, found {pairs!r}")
        pairs = PAIRS[pairs]
    return [edge for m, n in pairs for edge in ((m, n), (n, m))]


def mdl_loss(
    features_PKMD: jax.Array,
    *,
    pairs: str | Iterable[Edge] = "bridge",
    level: Level = "center",
    margin: float = 0.5,
    reduce: Reduce = "sum",
) -> jax.Array:
    """MDL, cross-modality: the ranking loss along both directions of every pair of modalities.

    Args:
      features_PKMD: (P, K, M, D) float, modalities in the order V, I, D_v, D_i.
      pairs: "bridge" (8 edges), "bi" (2), "no_dd" (6), "base_derivative" (6), "all" (12), or pairs of one's own.
      level: "center" compares identity centres, "sample" is the batch-hard form.
      margin: in units of the distance.
      reduce: over the edges.

    Returns:
      () float32.

    References:
      Ye et al., "Bi-Directional Center-Constrained Top-Ranking for Visible Thermal Person Re-Identification",
      TIFS 2020, for the two directions and the centres.
    """
    return ranking_loss(features_PKMD, mdl_edges(pairs), level=level, margin=margin, reduce=reduce)


def measured_in(features: jax.Array, metric: Metric) -> jax.Array:
    """Features whose Euclidean distance is that of the metric, or for "cosine" the root of twice it.

    Raises:
      ValueError: unknown metric.
    """
    if metric not in ("euclidean", "sphere", "cosine"):
        raise ValueError(f"metric: expected 'euclidean', 'sphere' or 'cosine', found {metric!r}")
    return features if metric == "euclidean" else unit(features)


def unit(features: jax.Array) -> jax.Array:
    """Features of length 1; the gradient at 0 is finite."""
    return features * jax.lax.rsqrt(jnp.maximum(jnp.square(features).sum(-1, keepdims=True), 1e-24))


def _pooled(features_PKMD: jax.Array, pool: Positions) -> jax.Array:
    """(P, A, D): the images of the modalities of a pool, one modality after the other."""
    # Slices: the gradient of an index with a list is a scatter.
    parts = [features_PKMD[:, :, m] for m in pool]
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=1)


def _hinge(
    features_PKMD: jax.Array, m: Positions, n: Positions, *, margin: float, squared: bool, both: bool
) -> jax.Array:
    """Mean over all anchors of the margin violated by the hardest positive and the hardest negative."""
    anchors_PAD, others_PBD = _pooled(features_PKMD, m), _pooled(features_PKMD, n)
    (P, A, D), B, K = anchors_PAD.shape, others_PBD.shape[1], features_PKMD.shape[1]
    anchors_ND, others_MD = anchors_PAD.reshape(P * A, D), others_PBD.reshape(P * B, D)

    # Mine with the Gram form, which is one matrix product, but measure with the difference: |a|^2 - 2ab + |b|^2
    # loses the digits of close features, and would make the distance of two equal ones anything but 0. Around their
    # mean the features are small, and mining keeps all the digits that it can.
    origin_D = others_MD.mean(axis=0)
    squared_NM = _squared_distances(*jax.lax.stop_gradient((anchors_ND - origin_D, others_MD - origin_D)))
    positive_NM = _same_identity(P, A, B)
    candidate_NM = positive_NM
    if set(m) & set(n) and B > 1:
        candidate_NM = positive_NM & ~_same_image(P, K, m, n)
    hardest_positive_N = jnp.argmax(jnp.where(candidate_NM, squared_NM, -jnp.inf), axis=1)
    hardest_negative_N = jnp.argmin(jnp.where(positive_NM, jnp.inf, squared_NM), axis=1)

    distance = _half_square if squared else _distance
    farthest_N = distance(anchors_ND, _rows(others_MD, hardest_positive_N))
    nearest_N = distance(anchors_ND, _rows(others_MD, hardest_negative_N))
    if both:  # one anchor and one candidate an identity: a square matrix
        column_N = jnp.argmin(jnp.where(positive_NM, jnp.inf, squared_NM), axis=0)
        nearest_N = jnp.minimum(nearest_N, distance(_rows(anchors_ND, column_N), others_MD))
    return jax.nn.relu(margin + (farthest_N - nearest_N)).mean()


def _same_identity(P: int, A: int, B: int) -> jax.Array:
    """(P A, P B) bool."""
    return jnp.repeat(jnp.repeat(jnp.eye(P, dtype=bool), A, axis=0), B, axis=1)


def _same_image(P: int, K: int, anchors: Positions, candidates: Positions) -> np.ndarray:
    """(P A, P B) bool: where an anchor meets itself."""
    same_AB = np.kron(np.equal.outer(anchors, candidates), np.eye(K, dtype=bool))
    return np.kron(np.eye(P, dtype=bool), same_AB)


def _rows(features_MD: jax.Array, positions_N: jax.Array) -> jax.Array:
    # A product with one-hot rows rather than an index: its gradient is again a product, where the gradient of an
    # index is a scatter whose sums come in no fixed order on a GPU, and two runs would differ in the last bits.
    return jnp.dot(jax.nn.one_hot(positions_N, features_MD.shape[0]), features_MD, precision="highest")


def _squared_distances(a_ND: jax.Array, b_MD: jax.Array) -> jax.Array:
    product_NM = jnp.dot(a_ND, b_MD.T, precision="highest")
    return jnp.square(a_ND).sum(1)[:, None] - 2 * product_NM + jnp.square(b_MD).sum(1)[None]


def _all_distances(anchors_PAD: jax.Array, others_PBD: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(N, M) distances of all anchors to all candidates, and whether they are of one identity."""
    (P, A, D), B = anchors_PAD.shape, others_PBD.shape[1]
    anchors_ND, others_MD = anchors_PAD.reshape(P * A, D), others_PBD.reshape(P * B, D)
    origin_D = jax.lax.stop_gradient(others_MD.mean(axis=0))  # around it the Gram form keeps the most digits
    squared_NM = _squared_distances(anchors_ND - origin_D, others_MD - origin_D)
    return jnp.sqrt(jnp.maximum(squared_NM, 1e-12)), _same_identity(P, A, B)


def _mean_distance(distance_NM: jax.Array, chosen_NM: jax.Array, sign: int, legacy: bool) -> jax.Array:
    """(N,) mean of the chosen distances, weighted by the softmax of sign * distance."""
    if legacy:
        power_NM = jnp.exp(jnp.where(chosen_NM, sign * distance_NM, 0) - jnp.where(
            chosen_NM, sign * distance_NM, 0).max(1, keepdims=True)) * chosen_NM  # fmt: skip
        weight_NM = power_NM / (power_NM.sum(1, keepdims=True) + 1e-6)
    else:
        weight_NM = jax.nn.softmax(jnp.where(chosen_NM, sign * distance_NM, -jnp.inf), axis=1)
    return (weight_NM * jnp.where(chosen_NM, distance_NM, 0)).sum(1)


def _distance(a_ND: jax.Array, b_ND: jax.Array) -> jax.Array:
    # The floor keeps sqrt(0), whose gradient is infinite, out of the graph.
    return jnp.sqrt(jnp.maximum(jnp.square(a_ND - b_ND).sum(-1), 1e-12))


def _half_square(a_ND: jax.Array, b_ND: jax.Array) -> jax.Array:
    """Of unit vectors: 1 - cosine."""
    return jnp.square(a_ND - b_ND).sum(-1) / 2


def _reduce(terms: jax.Array, reduce: Reduce) -> jax.Array:
    if reduce not in ("sum", "mean"):
        raise ValueError(f"reduce: expected 'sum' or 'mean', found {reduce!r}")
    return terms.sum() if reduce == "sum" else terms.mean()


def _checked_edges(edges: Iterable[Edge], tensor_PKMD: jax.Array) -> list[tuple[Positions, Positions]]:
    if tensor_PKMD.ndim != 4:
        raise ValueError(f"expected a tensor with the axes P, K, M, D, found the shape {tensor_PKMD.shape}")

    def positions(pool: Pool) -> Positions:
        return tuple(map(int, pool)) if isinstance(pool, tuple) else (int(pool),)

    pools = [(positions(m), positions(n)) for m, n in edges]
    M = tensor_PKMD.shape[2]
    if not pools:
        raise ValueError("expected at least one edge or mode, found none")
    for m, n in pools:
        if not all(0 <= position < M for position in (*m, *n)):
            words = ["+".join(map(str, pool)) for pool in (m, n)]
            raise ValueError(
                f"edge {words[0]} -> {words[1]}: the tensor {tensor_PKMD.shape} has the modalities 0 to {M - 1}"
            )
    return pools
