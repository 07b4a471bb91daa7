"""The losses of the base-derivative framework, all of them sums over directed edges between modalities.

A batch of P identities with K images in each of M modalities has features `features_PKMD`. Identity is an axis,
so "the same person" is "the same p": no label is compared. An edge (m, n) takes its anchors from modality m and
both its positives and its negatives from modality n.

    MML   edges (m, m), every image an anchor              intra-modality
    MDL   edges (m, n) and (n, m), identity centres        cross-modality
    DID   label-smoothed cross-entropy in each modality    identity

Source: Liu et al., "A Base-Derivative Framework for Cross-Modality RGB-Infrared Person Re-Identification",
ICPR 2020, names the three losses; their exact form here follows its closest relatives (README, Fidelity).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp

V, I, DV, DI = 0, 1, 2, 3  # noqa: E741  the modalities: visible, infrared and their derivatives
MODALITIES = ("V", "I", "Dv", "Di")

PAIRS: dict[str, tuple[tuple[int, int], ...]] = {
    "bridge": ((V, I), (V, DI), (DV, I), (DV, DI)),  # every pair crosses the modality gap
    "bi": ((V, I),),  # the general, two-modality loss
    "no_dd": ((V, I), (V, DI), (DV, I)),
    "base_derivative": ((V, I), (V, DV), (I, DI)),
    "all": ((V, I), (V, DV), (V, DI), (I, DV), (I, DI), (DV, DI)),
}

Edge = tuple[int, int]
Level = Literal["sample", "center"]
Reduce = Literal["sum", "mean"]


def ranking_terms(features_PKMD: jax.Array, edges: Iterable[Edge], *, level: Level, margin: float) -> jax.Array:
    """The hinge of every edge, each the mean over its anchors.

        sample   mean over anchors a in m of [margin + max_pos d(a, p) - min_neg d(a, q)]_+    p, q in n
        center   the same on the identity centres c_pm = mean_k f_pkm, one anchor an identity

    d is the Euclidean distance of features that are not normalised. Within one modality an image is its own
    positive only where K = 1.

    Args:
      features_PKMD: (P, K, M, D) float, features of P >= 2 identities. Computed in float32.
      edges: (anchor modality, other modality) pairs of positions on the M axis.
      level: "sample" mines the hardest images, "center" compares identity centres.
      margin: in units of the distance.

    Returns:
      (E,) float32, one term an edge, in their order.

    Raises:
      ValueError: fewer than two identities, an edge outside the M axis, an unknown level, no edge.
    """
    edges = _checked_edges(edges, features_PKMD)
    if features_PKMD.shape[0] < 2:
        raise ValueError(f"a ranking needs at least 2 identities in the batch, found {features_PKMD.shape[0]}")
    if level not in ("sample", "center"):
        raise ValueError(f"level: expected 'sample' or 'center', found {level!r}")
    features_PKMD = features_PKMD.astype(jnp.float32)
    if level == "center":
        features_PKMD = features_PKMD.mean(axis=1, keepdims=True)
    return jnp.stack([_hinge(features_PKMD[:, :, m], features_PKMD[:, :, n], margin, m == n) for m, n in edges])


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


def did_terms(
    logits_PKMC: jax.Array, labels_P: jax.Array, *, modes: Sequence[int] = (0, 1, 2, 3), label_smoothing: float = 0.1
) -> jax.Array:
    """The label-smoothed cross-entropy of each mode, a mean over its images.

    Args:
      logits_PKMC: (P, K, M, C) float. Computed in float32.
      labels_P: (P,) int, class of each identity.
      modes: positions on the M axis.
      label_smoothing: the share of the target that is spread evenly over all C classes.

    Returns:
      (len(modes),) float32.

    Raises:
      ValueError: a mode outside the M axis, no mode.
    """
    _checked_edges([(m, m) for m in modes], logits_PKMC)
    log_probability_PKMC = jax.nn.log_softmax(logits_PKMC[:, :, jnp.asarray(modes)].astype(jnp.float32))
    target_PC = jax.nn.one_hot(labels_P, logits_PKMC.shape[-1])
    target_PC = (1 - label_smoothing) * target_PC + label_smoothing / logits_PKMC.shape[-1]
    return -jnp.einsum("pkmc,pc->pkm", log_probability_PKMC, target_PC, precision="highest").mean(axis=(0, 1))


def did_loss(
    logits_PKMC: jax.Array,
    labels_P: jax.Array,
    *,
    modes: Sequence[int] = (0, 1, 2, 3),
    label_smoothing: float = 0.1,
    reduce: Reduce = "sum",
) -> jax.Array:
    """DID, identity: one classifier shared by all modalities, label-smoothed cross-entropy in each of them.

    Args:
      logits_PKMC: (P, K, M, C) float.
      labels_P: (P,) int, class of each identity.
      modes: positions on the M axis that take part.
      label_smoothing: in [0, 1].
      reduce: over the modes.

    Returns:
      () float32.

    References:
      Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016, section 7.
    """
    return _reduce(did_terms(logits_PKMC, labels_P, modes=modes, label_smoothing=label_smoothing), reduce)


def _hinge(anchors_PAD: jax.Array, others_PBD: jax.Array, margin: float, same_modality: bool) -> jax.Array:
    """Mean over all anchors of the margin violated by the hardest positive and the hardest negative."""
    P, A, D = anchors_PAD.shape
    B = others_PBD.shape[1]
    anchors_ND, others_MD = anchors_PAD.reshape(P * A, D), others_PBD.reshape(P * B, D)

    # Mine with the Gram form, which is one matrix product, but measure with the difference: |a|^2 - 2ab + |b|^2
    # loses the digits of close features, and would make the distance of two equal ones anything but 0. Around their
    # mean the features are small, and mining keeps all the digits that it can.
    origin_D = others_MD.mean(axis=0)
    squared_NM = _squared_distances(*jax.lax.stop_gradient((anchors_ND - origin_D, others_MD - origin_D)))
    positive_NM = jnp.repeat(jnp.repeat(jnp.eye(P, dtype=bool), A, axis=0), B, axis=1)
    candidate_NM = positive_NM
    if same_modality and B > 1:
        candidate_NM = positive_NM & ~jnp.eye(P * A, dtype=bool)
    hardest_positive_N = jnp.argmax(jnp.where(candidate_NM, squared_NM, -jnp.inf), axis=1)
    hardest_negative_N = jnp.argmin(jnp.where(positive_NM, jnp.inf, squared_NM), axis=1)

    violation_N = _distance(anchors_ND, _rows(others_MD, hardest_positive_N)) - _distance(
        anchors_ND, _rows(others_MD, hardest_negative_N)
    )
    return jax.nn.relu(margin + violation_N).mean()


def _rows(features_MD: jax.Array, positions_N: jax.Array) -> jax.Array:
    # A product with one-hot rows rather than an index: its gradient is again a product, where the gradient of an
    # index is a scatter whose sums come in no fixed order on a GPU, and two runs would differ in the last bits.
    return jnp.dot(jax.nn.one_hot(positions_N, features_MD.shape[0]), features_MD, precision="highest")


def _squared_distances(a_ND: jax.Array, b_MD: jax.Array) -> jax.Array:
    product_NM = jnp.dot(a_ND, b_MD.T, precision="highest")
    return jnp.square(a_ND).sum(1)[:, None] - 2 * product_NM + jnp.square(b_MD).sum(1)[None]


def _distance(a_ND: jax.Array, b_ND: jax.Array) -> jax.Array:
    # The floor keeps sqrt(0), whose gradient is infinite, out of the graph.
    return jnp.sqrt(jnp.maximum(jnp.square(a_ND - b_ND).sum(-1), 1e-12))


def _reduce(terms: jax.Array, reduce: Reduce) -> jax.Array:
    if reduce not in ("sum", "mean"):
        raise ValueError(f"reduce: expected 'sum' or 'mean', found {reduce!r}")
    return terms.sum() if reduce == "sum" else terms.mean()


def _checked_edges(edges: Iterable[Edge], tensor_PKMD: jax.Array) -> list[Edge]:
    edges = [(int(m), int(n)) for m, n in edges]
    if tensor_PKMD.ndim != 4:
        raise ValueError(f"expected a tensor with the axes P, K, M, D, found the shape {tensor_PKMD.shape}")
    M = tensor_PKMD.shape[2]
    if not edges:
        raise ValueError("expected at least one edge or mode, found none")
    for m, n in edges:
        if not (0 <= m < M and 0 <= n < M):
            raise ValueError(f"edge {m} -> {n}: the tensor {tensor_PKMD.shape} has the modalities 0 to {M - 1}")
    return edges
