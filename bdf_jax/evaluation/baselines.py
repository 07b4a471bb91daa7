"""What a trained network has to beat: chance, and two features that nobody learned.

The chance level is the exact expectation over random rankings of the same queries and galleries, not a sample. With G
images left, R of them matches:

    E[AP]  = (H_G + (R - 1) / (G - 1) (G - H_G)) / G                H_G: the G-th harmonic number
    E[INP] = sum_k R / k C(k - 1, R - 1) / C(G, R)                  k: position of the last match
    raw    P(rank < r) = 1 - prod_{i < r} (G - R - i) / (G - i)
    unique P(rank < r) = int_0^1 P(sum_i Bernoulli(1 - u^{n_i / R}) < r) du

The last follows when every image draws an exponential time: an identity with n images shows up at rate n, u is the
chance that none of the R matches has shown up yet, and the sum runs over the other identities.
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bdf_jax.data.index import ImageIndex
from bdf_jax.evaluation.harness import labelled_row
from bdf_jax.evaluation.protocols import Protocol
from bdf_jax.evaluation.statistics import no_match
from bdf_jax.pixels import LUMA

RANKS = (1, 5, 10, 20)
NEAR_CHANCE = 1.5  # below this multiple of chance's mAP a result is called near chance
LIKELY_CAUSES = (
    "weights that were not loaded, features of another image order than `names`, a network in training mode (batch "
    "statistics of the test batch), images normalised otherwise than in training, the wrong modality's branch for an "
    "image, too few steps of training, or training that collapsed (look at the accuracy of each modality)"
)


def raw_pixel_features(images_NHWC: np.ndarray) -> np.ndarray:
    """(N, 512) float32: the grey image at 32 x 16 (height x width), from uint8 RGB of any size."""
    return np.asarray(_grey(images_NHWC, (32, 16))).reshape(len(images_NHWC), -1)


def edge_features(images_NHWC: np.ndarray) -> np.ndarray:
    """(N, 512) float32: gradient magnitudes of the grey image at 64 x 32, averaged to 32 x 16, from uint8 RGB."""
    grey_NHW = np.asarray(_grey(images_NHWC, (64, 32)))
    dy_NHW, dx_NHW = np.gradient(grey_NHW, axis=(1, 2))
    return np.hypot(dy_NHW, dx_NHW).reshape(-1, 32, 2, 16, 2).mean(axis=(2, 4)).reshape(len(grey_NHW), -1)


def with_direction(features_ND: np.ndarray) -> np.ndarray:
    """Features whose cosine is defined: a black image, or one without an edge, is alike at every place."""
    return np.where(features_ND.any(axis=1, keepdims=True), features_ND, np.float32(1))


def _grey(images_NHWC: np.ndarray, size: tuple[int, int]) -> jax.Array:
    grey_NHW = jnp.asarray(images_NHWC.astype(np.float32) @ LUMA)
    return jax.image.resize(grey_NHW, (len(images_NHWC), *size), "linear")


def chance_rows(index: ImageIndex, protocols: Sequence[Protocol]) -> list[dict[str, Any]]:
    """A row for each protocol with the expected metrics of a random ranking, under the model name "chance"."""
    return [_chance_row(index, protocol) for protocol in protocols]


def add_chance(rows: Sequence[dict[str, Any]], index: ImageIndex, protocols: Sequence[Protocol]) -> None:
    """Puts chance level beside the numbers of each row: `chance_R1`, `chance_mAP` and whether it is `near_chance`."""
    for row, chance in zip(rows, chance_rows(index, protocols), strict=True):
        row["chance_R1"], row["chance_mAP"] = chance["R1"], chance["mAP"]
        row["near_chance"] = row["mAP"] < NEAR_CHANCE * chance["mAP"]


def near_chance_notes(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What to tell whose rows (after `add_chance`) are hardly better than a random ranking, with the likely causes."""
    near = [row for row in rows if row.get("near_chance")]
    if not near:
        return []
    listed = "; ".join(
        f"{row['model']}, {row['direction']}, {row['mode']}: mAP {row['mAP']:.2f} where a random ranking has "
        f"{row['chance_mAP']:.2f}"
        for row in near
    )
    return [f"near chance ({listed}). Likely causes: {LIKELY_CAUSES}"]


def _chance_row(index: ImageIndex, protocol: Protocol) -> dict[str, Any]:
    kinds = collections.Counter(
        zip(index.pids[protocol.query_rows].tolist(), index.cams[protocol.query_rows].tolist(), strict=True)
    )
    known: dict[frozenset, tuple[np.ndarray, int]] = {}  # most trials have the same sizes
    trials = []
    for rows in protocol.gallery_rows:
        sizes = collections.Counter(zip(index.pids[rows].tolist(), index.cams[rows].tolist(), strict=True))
        key = frozenset(sizes.items())
        if key not in known:
            known[key] = _trial(kinds, sizes, protocol)
        trials.append(known[key])
    valid = max(queries for _, queries in trials)
    return labelled_row(
        protocol,
        model="chance",
        trials=protocol.trials,
        queries=valid,
        lost=len(protocol.query_rows) - valid,
        trial_T6=100 * np.stack([expected_6 for expected_6, _ in trials]),
    )


def _trial(
    kinds: collections.Counter[tuple[int, int]], sizes: collections.Counter[tuple[int, int]], protocol: Protocol
) -> tuple[np.ndarray, int]:
    """(6,) expected metrics and the number of valid queries, from queries and images of every (identity, camera)."""
    by_camera = {cam: _left(sizes, cam, protocol) for _, cam in kinds}
    expected, weights = [], []
    for (pid, cam), count in kinds.items():
        left = by_camera[cam]
        own = left[pid] - (sizes[pid, cam] if protocol.ignores_own_camera else 0)
        if own > 0:
            others = collections.Counter(size for other, size in left.items() if other != pid)
            expected.append(_expected(own, tuple(sorted(others.items())), protocol.cmc == "unique"))
            weights.append(count)
    if not weights:
        raise no_match()
    return np.average(expected, axis=0, weights=weights), sum(weights)


def _left(sizes: collections.Counter[tuple[int, int]], query_cam: int, protocol: Protocol) -> collections.Counter[int]:
    """Images of every identity that a query of this camera does not ignore whatever the identity."""
    ignored = {gallery_cam for cam, gallery_cam in protocol.ignored_cameras if cam == query_cam}
    left: collections.Counter[int] = collections.Counter()
    for (pid, cam), size in sizes.items():
        if cam not in ignored:
            left[pid] += size
    return left


@functools.lru_cache(maxsize=4096)
def _expected(own: int, others: tuple[tuple[int, int], ...], unique: bool) -> np.ndarray:
    """(6,) in 0..1: R1, R5, R10, R20, AP, INP for `own` matches among identities of (size, how many such)."""
    total = own + sum(size * many for size, many in others)
    positions_G = np.arange(1, total + 1)
    harmonic = (1 / positions_G).sum()
    ap = (harmonic + (own - 1) / max(total - 1, 1) * (total - harmonic)) / total
    # P(last match at k), by the recurrence P(k) = P(k + 1) (k + 1 - R) / k from P(G) = R / G downwards.
    steps = (positions_G[1:] - own) / positions_G[:-1]
    last_G = own / total * np.cumprod(np.concatenate([[1.0], np.maximum(steps[::-1], 0)]))[::-1]
    inp = (own * last_G / positions_G).sum()
    ranks = _unique_cmc(own, others) if unique else _raw_cmc(own, total)
    return np.asarray([*ranks, ap, inp])


def _raw_cmc(own: int, total: int) -> list[float]:
    still_G = np.cumprod(np.maximum(total - own - np.arange(total), 0) / (total - np.arange(total)))
    return [float(1 - still_G[min(r, total) - 1]) for r in RANKS]


def _unique_cmc(own: int, others: tuple[tuple[int, int], ...]) -> list[float]:
    from scipy.special import comb

    nodes_U, weights_U = np.polynomial.legendre.leggauss(128)
    u_U1 = (nodes_U[:, None] + 1) / 2
    counts = np.arange(max(RANKS))
    ahead_UK = np.zeros((len(u_U1), len(counts)))
    ahead_UK[:, 0] = 1
    for size, many in others:
        hidden_U1 = u_U1 ** (size / own)  # chance that an identity of this size has not shown up yet
        more_UK = comb(many, counts) * (1 - hidden_U1) ** counts * hidden_U1 ** np.maximum(many - counts, 0)
        before_UK, ahead_UK = ahead_UK, np.zeros_like(ahead_UK)
        for k in counts[: many + 1]:
            ahead_UK[:, k:] += more_UK[:, k, None] * before_UK[:, : len(counts) - k]
    ahead_K = weights_U / 2 @ ahead_UK
    return [float(ahead_K[:r].sum()) for r in RANKS]
