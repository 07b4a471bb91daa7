"""PK sampling: (seed, step) -> a batch of P identities with K visible and K infrared images each."""

from __future__ import annotations

import dataclasses

import numpy as np

from bdf_jax.data.index import INFRARED, VISIBLE, ImageIndex
from bdf_jax.errors import BdfError


@dataclasses.dataclass(frozen=True, eq=False)
class PKSampler:
    """Draws batches; keeps no state, so any step can be drawn at any time, in any process.

    Attributes:
      rows: for each class, the rows of its visible and of its infrared images.
      identities: P.
      images: K.
    """

    rows: tuple[tuple[np.ndarray, np.ndarray], ...]
    identities: int
    images: int

    def draw(self, seed: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The batch of one step.

        P distinct identities, uniformly; of each, K images a base modality, repeated only where it has fewer than K.

        Returns:
          rows_N2: N = P * K pairs, identity first (pair p * K + k), column 0 visible and column 1 infrared.
          labels_N: int32 class of each pair.
        """
        # Only `random()` is drawn: unlike `choice`, its stream is the same in every NumPy release.
        key = np.random.SeedSequence(entropy=seed, spawn_key=(step,))
        rng = np.random.Generator(np.random.Philox(key))
        drawn_P = np.argsort(rng.random(len(self.rows)), kind="stable")[: self.identities]
        rows_PK2 = np.empty((self.identities, self.images, 2), np.int64)
        for p, label in enumerate(drawn_P):
            for modality in (VISIBLE, INFRARED):
                rows_PK2[p, :, modality] = self._pick(rng, self.rows[label][modality])
        return rows_PK2.reshape(-1, 2), np.repeat(drawn_P.astype(np.int32), self.images)

    def _pick(self, rng: np.random.Generator, rows: np.ndarray) -> np.ndarray:
        if len(rows) >= self.images:
            return rows[np.argsort(rng.random(len(rows)), kind="stable")[: self.images]]
        return rows[(rng.random(self.images) * len(rows)).astype(np.int64)]


def make_sampler(index: ImageIndex, identities: int, images: int) -> PKSampler:
    """A sampler over the images of a training split.

    Args:
      index: the split. The class of an identity is its position among the sorted identities.
      identities: P, identities in a batch.
      images: K, images of an identity in each base modality.

    Raises:
      BdfError: P larger than the number of identities, or one of them without images of a modality.
    """
    pids, labels_N = np.unique(index.pids, return_inverse=True)
    if identities > len(pids):
        raise BdfError(
            f"data.identities: a batch of P = {identities} distinct identities, but the training split has "
            f"{len(pids)}. Set --config.data.identities to at most {len(pids)}."
        )
    columns = []
    for modality, word in ((VISIBLE, "visible"), (INFRARED, "infrared")):
        rows = np.flatnonzero(index.modalities == modality)
        rows = rows[np.argsort(labels_N[rows], kind="stable")]
        counts = np.bincount(labels_N[rows], minlength=len(pids))
        if not counts.all():
            raise BdfError(
                f"training split: identities without {word} images: {', '.join(map(str, pids[counts == 0][:10]))}"
                f" ({int((counts == 0).sum())} in all); every identity needs at least one"
            )
        columns.append(np.split(rows, np.cumsum(counts)[:-1]))
    return PKSampler(tuple(zip(*columns, strict=True)), identities, images)


def steps_per_epoch(index: ImageIndex, identities: int, images: int) -> int:
    """Steps of an epoch: floor(max(#visible, #infrared) / (P K)) + 1."""
    visible = int((index.modalities == VISIBLE).sum())
    return max(visible, len(index) - visible) // (identities * images) + 1
