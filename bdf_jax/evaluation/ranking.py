"""Ranking metrics without a sort, compiled by JAX.

The metrics need only where the matches stand. Under a stable descending sort the position of a gallery image m is

    1 + #(images with a greater score) + #(images with an equal score, earlier in gallery order)

and a query has few matches, so counting them is cheaper than sorting (on a CPU by a factor of six: XLA sorts one
scalar at a time, while the counts are vector instructions) and as exact. Scores become integer keys of the same
order; then `m` loses against `g` if key_g > key_m - (g < m), one comparison that holds the rule for ties.

Everything is laid out gallery first, (G, Q): the columns of a trial are then whole rows to gather, and counts reduce
over the outer axis, query by query in vector lanes. Memory is bounded by one block of queries.

Metrics per query (sections of the field's common definitions):
  AP  = sum_k m_k (m_1 + .. + m_k) / k / n_rel        INP = n_rel / position of the last match
  rank = identities ("unique") or images ("raw") before the first match; CMC at r counts rank < r
A query without a match left is invalid.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from bdf_jax.data.index import ImageIndex
from bdf_jax.evaluation.protocols import Protocol
from bdf_jax.evaluation.similarity import compared

HIDDEN = np.int32(np.iinfo(np.int32).min)  # key of what is ignored or padding: below that of every score
# Scores and queries of a block. On a CPU a trial's share of the block should stay near its caches (256 queries of
# SYSU-MM01's ten-shot galleries are 3 MiB); other devices want large steps and have the memory.
CPU_BLOCK = 2**21, 256
BLOCK = 2**25, 4096


@dataclasses.dataclass(frozen=True)
class Measured:
    """What was measured of every query in every trial.

    Attributes:
      ap_TQ, inp_TQ: float64, 0 where invalid.
      rank_TQ: int32, other identities or images before the first match.
      valid_TQ: bool, whether the query has a match left.
    """

    ap_TQ: np.ndarray
    inp_TQ: np.ndarray
    rank_TQ: np.ndarray
    valid_TQ: np.ndarray


@dataclasses.dataclass(frozen=True)
class Ignoring:
    """Who ignores whom, as in `Protocol`."""

    ignored_cameras: tuple[tuple[int, int], ...]
    ignores_own_camera: bool

    @classmethod
    def of(cls, protocol: Protocol) -> Ignoring:
        """The rules of a protocol."""
        return cls(protocol.ignored_cameras, protocol.ignores_own_camera)


@functools.partial(jax.tree_util.register_dataclass, data_fields=["columns_TG", "members_TPS"], meta_fields=["unique"])
@dataclasses.dataclass(frozen=True)
class Galleries:
    """The galleries of all trials of one protocol, padded to one shape so that one compilation serves them all.

    Attributes:
      columns_TG: rows of the score block, in gallery order; every trial ends with at least one padding entry, which
        points to the block's last row, hidden from every query.
      members_TPS: for every identity the positions in `columns_TG[t]` that show it, padded with the last position.
      unique: which CMC.
    """

    columns_TG: jax.Array
    members_TPS: jax.Array
    unique: bool


def score_keys(
    queries_QD: jax.Array,
    gallery_UD: jax.Array,
    query_Q2: jax.Array,
    gallery_U2: jax.Array,
    rules: Ignoring,
    similarity: str = "dot",
) -> jax.Array:
    """(U + 1, Q) int32 keys in the order of the float32 scores, HIDDEN where ignored and in the padding row.

    `query_Q2` and `gallery_U2` are identities and cameras.
    """

    def product_UQ(gallery_UD: jax.Array, queries_QD: jax.Array) -> jax.Array:
        return jnp.matmul(gallery_UD, queries_QD.T, precision=lax.Precision.HIGHEST)

    scores_UQ = compared(gallery_UD, queries_QD, similarity, product_UQ)
    return keys_of_scores(scores_UQ, query_Q2, gallery_U2, rules)


def keys_of_scores(scores_UQ: jax.Array, query_Q2: jax.Array, gallery_U2: jax.Array, rules: Ignoring) -> jax.Array:
    """As `score_keys`, from float32 scores that came from elsewhere (re-ranking)."""
    scores_UQ = jnp.where(scores_UQ == 0, 0.0, scores_UQ)  # -0.0 and 0.0 are one score but two bit patterns
    bits_UQ = lax.bitcast_convert_type(scores_UQ, jnp.int32)
    keys_UQ = jnp.where(bits_UQ < 0, bits_UQ ^ np.int32(np.iinfo(np.int32).max), bits_UQ)
    keys_UQ = jnp.where(ignored(query_Q2, gallery_U2, rules), HIDDEN, keys_UQ)
    return jnp.pad(keys_UQ, ((0, 1), (0, 0)), constant_values=HIDDEN)


def ignored(query_Q2: jax.Array, gallery_U2: jax.Array, rules: Ignoring) -> jax.Array:
    """(U, Q) bool: which gallery image which query ignores."""
    pid_1Q, cam_1Q = query_Q2.T[:, None]
    pid_U1, cam_U1 = gallery_U2.T[:, :, None]
    hidden_UQ = jnp.zeros((len(gallery_U2), len(query_Q2)), bool)
    for query_cam, gallery_cam in rules.ignored_cameras:
        hidden_UQ |= (cam_1Q == query_cam) & (cam_U1 == gallery_cam)
    if rules.ignores_own_camera:
        hidden_UQ |= (cam_1Q == cam_U1) & (pid_1Q == pid_U1)
    return hidden_UQ


def measure(keys_UQ: jax.Array, identity_Q: jax.Array, galleries: Galleries) -> dict[str, jax.Array]:
    """AP, INP, rank and validity, each (T, Q), of a block of queries; `identity_Q` indexes axis P of the members."""

    def trial(args: tuple[jax.Array, jax.Array]) -> dict[str, jax.Array]:
        columns_G, members_PS = args
        keys_GQ = keys_UQ[columns_G]
        place_G1 = jnp.arange(len(columns_G), dtype=jnp.int32)[:, None]

        def ahead_GQ(key_Q: jax.Array, place_Q: jax.Array) -> jax.Array:
            return keys_GQ > key_Q - (place_G1 < place_Q).astype(jnp.int32)

        places_SQ = members_PS[identity_Q].T
        match_keys_SQ = jnp.take_along_axis(keys_GQ, places_SQ, axis=0)
        match_SQ = match_keys_SQ > HIDDEN
        # A loop over the matches keeps the counts in cache; all at once is 20 times slower on CPU.
        ahead_SQ = lax.map(lambda match: ahead_GQ(*match).sum(0, dtype=jnp.int32), (match_keys_SQ, places_SQ))
        position_SQ = jnp.where(match_SQ, 1 + ahead_SQ, np.iinfo(np.int32).max)
        hits_SQ = lax.map(lambda position_Q: (position_SQ <= position_Q).sum(0, dtype=jnp.int32), position_SQ)
        relevant_Q = match_SQ.sum(0, dtype=jnp.int32)
        precision_SQ = jnp.where(match_SQ, hits_SQ / position_SQ, 0)
        last_Q = jnp.where(match_SQ, position_SQ, 1).max(0)
        if galleries.unique:
            first_Q = position_SQ.argmin(0)[None]
            best_key_Q = jnp.take_along_axis(match_keys_SQ, first_Q, axis=0)[0]
            best_place_Q = jnp.take_along_axis(places_SQ, first_Q, axis=0)[0]
            rank_Q = ahead_GQ(best_key_Q, best_place_Q)[members_PS].any(1).sum(0, dtype=jnp.int32)
        else:
            rank_Q = position_SQ.min(0) - 1
        return {
            "ap": precision_SQ.sum(0) / jnp.maximum(relevant_Q, 1),
            "inp": relevant_Q / last_Q,
            "rank": rank_Q,
            "valid": relevant_Q > 0,
        }

    return lax.map(trial, (galleries.columns_TG, galleries.members_TPS))


def pad_galleries(
    protocol: Protocol, identity_N: np.ndarray, column_N: np.ndarray, *, identities: int, padding: int
) -> Galleries:
    """The galleries of a protocol as arrays; `column_N` is the row of an image in the score block."""
    length = 1 + max(len(rows) for rows in protocol.gallery_rows)
    width = max(1, *(np.bincount(identity_N[rows]).max() for rows in protocol.gallery_rows))
    columns_TG = np.full((len(protocol.gallery_rows), length), padding, np.int32)
    members_TPS = np.full((len(protocol.gallery_rows), identities, width), length - 1, np.int32)
    for t, rows in enumerate(protocol.gallery_rows):
        columns_TG[t, : len(rows)] = column_N[rows]
        by_identity = np.argsort(identity_N[rows], kind="stable")
        owner = identity_N[rows][by_identity]
        slot = np.arange(len(rows)) - np.searchsorted(owner, owner)
        members_TPS[t, owner, slot] = by_identity
    return Galleries(columns_TG, members_TPS, protocol.cmc == "unique")  # type: ignore[arg-type]


@functools.lru_cache(maxsize=64)
def _compiled(devices: tuple[jax.Device, ...], rules: Ignoring, similarity: str = "dot") -> tuple[Any, Any, Any]:
    """`score_keys`, `keys_of_scores` and `measure`, each query on one of the devices; and how arrays are laid out."""
    mesh = jax.sharding.Mesh(np.asarray(devices), ("queries",))
    whole, rows, columns = PartitionSpec(), PartitionSpec("queries"), PartitionSpec(None, "queries")

    def share_out(function: Any, in_specs: Any) -> Any:
        # No device needs anything of another, so the check of what varies over devices has nothing to find.
        return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=columns, check_vma=False))

    return (
        share_out(functools.partial(score_keys, rules=rules, similarity=similarity), (rows, whole, rows, whole)),
        share_out(functools.partial(keys_of_scores, rules=rules), (columns, rows, whole)),
        share_out(measure, (columns, rows, whole)),
    )


def rank_all(
    features_ND: np.ndarray,
    index: ImageIndex,
    protocols: Sequence[Protocol],
    *,
    queries_ND: np.ndarray | None = None,
    similarity: str = "dot",
    block: int | None = None,
) -> list[Measured]:
    """Measures every query of every protocol; scores are dot products of the given features, in float32.

    Protocols that share queries and who ignores whom share one matrix of scores, computed block by block of queries.
    Every block is shared out among the local devices.

    Args:
      features_ND: float32; normalise them for cosine similarity.
      index: N images.
      protocols: rows of the table.
      queries_ND: the features of the same images as queries, where they differ (`similarity.as_products`).
      similarity: that of `similarity.as_products`; only those of two views are not dot products.
      block: queries of a block on each device; None: as many as fit `BLOCK`.
    """
    measured: dict[int, Measured] = {}
    for members in _sharing(protocols):
        sides = (features_ND if queries_ND is None else queries_ND, features_ND)
        measured |= zip(
            members, _rank_shared(*sides, index, [protocols[i] for i in members], similarity, block), strict=True
        )
    return [measured[i] for i in range(len(protocols))]


def _rank_shared(
    queries_ND: np.ndarray,
    features_ND: np.ndarray,
    index: ImageIndex,
    protocols: Sequence[Protocol],
    similarity: str,
    block: int | None,
) -> list[Measured]:
    devices = tuple(jax.local_devices())
    keys, _, metrics = _compiled(devices, Ignoring.of(protocols[0]), similarity)
    query_rows = protocols[0].query_rows
    union = np.unique(np.concatenate([rows for p in protocols for rows in p.gallery_rows]))
    labels_N2, identity_N, tables = _tables(index, protocols, union)
    mesh = jax.sharding.Mesh(np.asarray(devices), ("queries",))
    gallery_UD, gallery_U2, tables = jax.device_put(
        (features_ND[union], labels_N2[union], tables), NamedSharding(mesh, PartitionSpec())
    )
    size = len(devices) * (block or _block_size(len(query_rows), len(union), len(devices)))
    parts: list[list[dict[str, np.ndarray]]] = []
    waiting: collections.deque = collections.deque()
    for rows in _blocks(query_rows, size):
        queries_QD, query_Q2, identity_Q = jax.device_put(
            (queries_ND[rows], labels_N2[rows], identity_N[rows]), NamedSharding(mesh, PartitionSpec("queries"))
        )
        keys_UQ = keys(queries_QD, gallery_UD, query_Q2, gallery_U2)
        waiting.append([metrics(keys_UQ, identity_Q, table) for table in tables])
        if len(waiting) > 1:  # results are fetched one block late, so that the devices never wait
            parts.append(jax.device_get(waiting.popleft()))
    parts += [jax.device_get(results) for results in waiting]
    return [_joined(blocks, len(query_rows)) for blocks in zip(*parts, strict=True)]


def rank_scores(scores_QG: np.ndarray, index: ImageIndex, protocol: Protocol) -> Measured:
    """Measures one trial from given float32 scores of its queries and its gallery, both in the protocol's order."""
    (rows,) = protocol.gallery_rows
    _, keys, metrics = _compiled((jax.local_devices()[0],), Ignoring.of(protocol))
    order = np.argsort(rows)
    labels_N2, identity_N, (table,) = _tables(index, [protocol], rows[order])
    blocks = []
    places = np.arange(len(protocol.query_rows))
    for part in _blocks(places, _block_size(len(places), len(rows), 1)):
        queries = protocol.query_rows[part]
        keys_GQ = keys(scores_QG[part][:, order].T, labels_N2[queries], labels_N2[rows[order]])
        blocks.append(jax.device_get(metrics(keys_GQ, identity_N[queries], table)))
    return _joined(blocks, len(places))


def _tables(
    index: ImageIndex, protocols: Sequence[Protocol], union: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[Galleries]]:
    """Identity as 0, 1, ... and camera of every image; the identity alone; the galleries, as rows of the union."""
    column_N = np.zeros(len(index), np.int32)
    column_N[union] = np.arange(len(union))
    pids, identity_N = np.unique(index.pids, return_inverse=True)
    identity_N = identity_N.astype(np.int32)
    labels_N2 = np.stack([identity_N, index.cams], axis=1).astype(np.int32)
    tables = [pad_galleries(p, identity_N, column_N, identities=len(pids), padding=len(union)) for p in protocols]
    return labels_N2, identity_N, tables


def _sharing(protocols: Sequence[Protocol]) -> list[list[int]]:
    groups: dict[tuple, list[int]] = collections.defaultdict(list)
    for i, p in enumerate(protocols):
        groups[p.query_rows.tobytes(), Ignoring.of(p)].append(i)
    return list(groups.values())


def _block_size(queries: int, columns: int, devices: int) -> int:
    """Queries of a block on one device: few enough for the memory, and equal blocks, so that little is padding."""
    elements, largest = CPU_BLOCK if jax.default_backend() == "cpu" else BLOCK
    size = max(8, min(largest, elements // columns))
    blocks = -(-queries // (size * devices))
    return -(-queries // (blocks * devices))


def _blocks(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        yield np.concatenate([part, np.repeat(part[-1:], size - len(part))])  # padded: one compilation


def _joined(blocks: Sequence[dict[str, np.ndarray]], queries: int) -> Measured:
    whole = {key: np.concatenate([block[key] for block in blocks], axis=1)[:, :queries] for key in blocks[0]}
    return Measured(whole["ap"].astype(float), whole["inp"].astype(float), whole["rank"], whole["valid"])
