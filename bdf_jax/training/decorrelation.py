"""Decorrelating an embedding between two stages of training."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from bdf_jax.errors import BdfError
from bdf_jax.training.entries import Entry


@dataclasses.dataclass(frozen=True)
class Decorrelated(Entry):
    """The matrix W = U S V' of an embedding becomes U S, whose columns are orthogonal.

    An embedding x W turns into x W V: distances and angles stay, and the directions that said the same stand apart. The
    vectors of the classes are turned along, so that their scores stay, too.

    Source: Sun et al., "SVDNet for Pedestrian Retrieval", ICCV 2017, section 3.3.

    Attributes:
      embedding: the parameters of the matrix; without an offset.
      heads: the parameters of the heads that see the embedding.
    """

    embedding: str = "bnneck_project"
    heads: tuple[str, ...] = ("classifier",)

    def __call__(self, params: dict[str, Any]) -> dict[str, Any]:
        """See `Entry`."""
        missing = [name for name in (self.embedding, *self.heads) if name not in params]
        if missing:
            known = ", ".join(sorted(params))
            raise BdfError(f"enter: there are no parameters {missing[0]!r} to turn; there are {known}")
        if set(params[self.embedding]) != {"kernel"}:
            raise BdfError(f"enter: {self.embedding!r} has an offset, which would have to be turned; set bias=false")
        kernel_DE = np.asarray(params[self.embedding]["kernel"], np.float64)
        # An embedding that is longer than what it is made of has columns of zeros at the end.
        right_EE = np.linalg.svd(kernel_DE)[2]
        found = dict(params) | {self.embedding: {"kernel": (kernel_DE @ right_EE.T).astype(np.float32)}}
        for name in self.heads:
            head = dict(params[name])
            head["kernel"] = (right_EE @ np.asarray(head["kernel"], np.float64)).astype(np.float32)
            found[name] = head
        return found
