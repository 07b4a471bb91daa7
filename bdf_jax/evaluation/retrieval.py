"""Exact search in large galleries: the k nearest of every query, without the matrix of all similarities.

The gallery passes by in blocks; after each, the k best so far and the block's scores are reduced to the k best again.
Memory grows with the block and with k, not with queries x gallery; the gallery itself may stay on disk (`numpy.memmap`)
in float16 or float32. With several devices every block is shared out among them, and each keeps its own k best until a
last merge.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from bdf_jax.errors import BdfError
from bdf_jax.names import some
from bdf_jax.trouble import check_platform

QUERY_BLOCK = 1024  # queries that are on the device at a time


def top_k(
    queries_QD: np.ndarray,
    gallery_GD: np.ndarray,
    k: int,
    *,
    block: int = 8192,
    normalise: bool = False,
    euclidean: bool = False,
    devices: Sequence[jax.Device] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The k gallery rows of greatest dot product with every query, in descending order; ties by lower row.

    Args:
      queries_QD: (Q, D) floating point.
      gallery_GD: (G, D) float32 or float16, in memory or a `numpy.memmap`. float16 halves disk, memory and transfers;
        products and sums are float32 all the same, so the result is exact for the features as stored.
      k: how many, at most G.
      block: gallery rows of a device at a time.
      normalise: cosine similarity: both sides are divided by their length on the way.
      euclidean: those of the least distance instead; scores are minus the distance.
      devices: default: all local ones.

    Returns:
      scores (Q, k) float32 and rows (Q, k) int32.

    Raises:
      BdfError: arrays that do not fit each other, a k outside 1..G, a gallery of another type, products that are not
        finite.
    """
    _check(queries_QD, gallery_GD, k, block)
    check_platform()
    devices = tuple(devices or jax.local_devices())
    block = min(block, -(-len(gallery_GD) // len(devices)))
    parts = [
        _search(
            _as_float32(queries_QD[start : start + QUERY_BLOCK]),
            gallery_GD,
            k,
            block,
            (normalise, euclidean),
            devices,
        )
        for start in range(0, len(queries_QD), QUERY_BLOCK)
    ]
    scores_QK, rows_QK = (np.concatenate(part) for part in zip(*parts, strict=True))
    broken_QK = ~np.isfinite(scores_QK)
    if broken_QK.any():
        queries = np.flatnonzero(broken_QK.any(axis=1))
        faulty = np.unique(rows_QK[broken_QK])
        raise BdfError(
            f"top_k: {len(queries)} of {len(scores_QK)} queries have products that are not finite, with gallery rows "
            f"such as {some(faulty)}; the first such query is {queries[0]}. Look there for NaN, infinite or very large "
            "values" + (" and for rows of zeros, which have no cosine" if normalise else "")
        )
    return scores_QK, rows_QK


def _search(
    queries_QD: np.ndarray,
    gallery_GD: np.ndarray,
    k: int,
    block: int,
    form: tuple[bool, bool],
    devices: tuple[jax.Device, ...],
) -> tuple[np.ndarray, np.ndarray]:
    merge, shared_out, everywhere = _compiled(devices, *form)
    stride = block * len(devices)
    rounds = range(0, len(gallery_GD), stride)
    shape = len(devices), len(queries_QD), min(k, block * len(rounds))
    best = jax.device_put((np.full(shape, -np.inf, np.float32), np.full(shape, -1, np.int32)), shared_out)
    queries = jax.device_put(queries_QD, everywhere)
    previous = best[0]
    for start in rounds:
        part_BD = np.asarray(gallery_GD[start : start + stride])  # what a memmap reads from disk
        if len(part_BD) < stride:
            padding = np.zeros((stride - len(part_BD), part_BD.shape[1]), part_BD.dtype)
            part_BD = np.concatenate([part_BD, padding])
        waited, previous = previous, best[0]
        waited.block_until_ready()  # the host may be one block ahead of the devices, no more: memory stays bounded
        best = merge(*best, queries, jax.device_put(part_BD, shared_out), np.int32(start), np.int32(len(gallery_GD)))
    scores, rows = (np.concatenate(np.asarray(side), axis=1) for side in best)
    # By descending score and, where equal, ascending row; the rows -1 of a device that saw fewer than k come last.
    order = np.lexsort((rows, -scores, rows < 0), axis=1)[:, :k]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)


@functools.lru_cache(maxsize=16)
def _compiled(
    devices: tuple[jax.Device, ...], normalise: bool, euclidean: bool
) -> tuple[Any, NamedSharding, NamedSharding]:
    """`_merge` on all devices, the layout of what is shared out among them and of what each has whole."""
    mesh = jax.sharding.Mesh(np.asarray(devices), ("gallery",))
    shared_out, whole = PartitionSpec("gallery"), PartitionSpec()
    merge = jax.shard_map(
        functools.partial(_merge, normalise=normalise, euclidean=euclidean),
        mesh=mesh,
        in_specs=(shared_out, shared_out, whole, shared_out, whole, whole),
        out_specs=(shared_out, shared_out),
    )
    return jax.jit(merge), NamedSharding(mesh, shared_out), NamedSharding(mesh, whole)


def _merge(
    scores_1QK: jax.Array,
    rows_1QK: jax.Array,
    queries_QD: jax.Array,
    gallery_BD: jax.Array,
    start: jax.Array,
    end: jax.Array,
    *,
    normalise: bool,
    euclidean: bool,
) -> tuple[jax.Array, jax.Array]:
    """One device's best so far, merged with its block of the rows from `start` on; rows from `end` on are padding."""
    scores_QK, rows_QK = scores_1QK[0], rows_1QK[0]
    gallery_BD = gallery_BD.astype(jnp.float32)
    if normalise:
        queries_QD, gallery_BD = _unit(queries_QD), _unit(gallery_BD)
    scores_QB = jnp.matmul(queries_QD, gallery_BD.T, precision=lax.Precision.HIGHEST)
    if euclidean:
        squares_QB = jnp.square(queries_QD).sum(1)[:, None] - 2 * scores_QB + jnp.square(gallery_BD).sum(1)[None]
        scores_QB = -jnp.sqrt(jnp.maximum(squares_QB, 0))
    row_B = start + lax.axis_index("gallery") * len(gallery_BD) + jnp.arange(len(gallery_BD), dtype=jnp.int32)
    # A product that is not finite takes a place among the best, where it is seen, wherever it would have stood.
    scores_QB = jnp.where(jnp.isfinite(scores_QB), scores_QB, jnp.inf)
    scores_QB = jnp.where(row_B < end, scores_QB, -jnp.inf)
    # top_k prefers the lower position among equals, and what was kept earlier has lower rows: ties fall as promised.
    best_QK, position_QK = lax.top_k(scores_QB, min(scores_QK.shape[1], scores_QB.shape[1]))
    row_QK = jnp.where(row_B < end, row_B, -1)[position_QK]
    merged_QK, chosen_QK = lax.top_k(jnp.concatenate([scores_QK, best_QK], axis=1), scores_QK.shape[1])
    kept_QK = jnp.take_along_axis(jnp.concatenate([rows_QK, row_QK], axis=1), chosen_QK, axis=1)
    return merged_QK[None], kept_QK[None]


def _unit(features_ND: jax.Array) -> jax.Array:
    """Rows of length 1; of NaN where a row has no direction. Divided by the largest value first, for its square."""
    features_ND = features_ND / jnp.abs(features_ND).max(axis=1, keepdims=True)
    return features_ND / jnp.linalg.norm(features_ND, axis=1, keepdims=True)


def _as_float32(queries_QD: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # infinite values are told of later
        return np.asarray(queries_QD, np.float32)


def _check(queries_QD: np.ndarray, gallery_GD: np.ndarray, k: int, block: int) -> None:
    if queries_QD.ndim != 2 or gallery_GD.ndim != 2 or queries_QD.shape[1] != gallery_GD.shape[1]:
        raise BdfError(
            f"top_k: expected queries (Q, D) and a gallery (G, D) of one D, found {queries_QD.shape} and "
            f"{gallery_GD.shape}"
        )
    if not jnp.issubdtype(queries_QD.dtype, jnp.floating):
        raise BdfError(f"top_k: expected queries in floating point, found {queries_QD.dtype}")
    if not len(queries_QD):
        raise BdfError("top_k: expected at least one query, found none")
    if not 1 <= k <= len(gallery_GD):
        raise BdfError(f"top_k: expected k from 1 to the gallery's {len(gallery_GD)} rows, found {k}")
    if gallery_GD.dtype not in (np.float32, np.float16):
        raise BdfError(f"top_k: expected a gallery in float32 or float16, found {gallery_GD.dtype}; convert it once")
    if block < 1:
        raise BdfError(f"top_k: expected a block of at least 1 row, found {block}")
