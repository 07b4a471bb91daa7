"""What is known of every image of a split without opening it."""

from __future__ import annotations

import dataclasses

import numpy as np

VISIBLE, INFRARED = 0, 1


@dataclasses.dataclass(frozen=True)
class ImageIndex:
    """One row an image: parallel arrays, the common language of data, protocols and feature files.

    Attributes:
      names: (N,) str, path relative to the root of the published tree, with "/" between the parts.
      pids: (N,) int64, identity as the tree numbers it.
      cams: (N,) int32, camera as the tree numbers it (RegDB: 1 visible, 2 thermal).
      modalities: (N,) int8, VISIBLE (0) or INFRARED (1).
    """

    names: np.ndarray
    pids: np.ndarray
    cams: np.ndarray
    modalities: np.ndarray

    def __post_init__(self) -> None:
        lengths = {len(self.names), len(self.pids), len(self.cams), len(self.modalities)}
        if len(lengths) != 1:
            raise ValueError(f"an index needs columns of one length, found {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.names)

    def select(self, rows: np.ndarray) -> ImageIndex:
        """The rows (a mask or positions) as an index of their own."""
        return ImageIndex(self.names[rows], self.pids[rows], self.cams[rows], self.modalities[rows])
