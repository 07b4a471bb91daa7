"""How two features are compared: by a dot product of a query's and a gallery's vector, or the extreme of four.

cosine      of the vectors of length 1
dot         of the vectors as they are
euclidean   q . g - |g|^2 / 2, which ranks a query's gallery by the distance: |q - g|^2 = |q|^2 - 2 (that)
max4, min4  of a vector that holds those of two views of an image: the greatest, the least of the four cosines
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from bdf_jax.errors import BdfError

TITLES = {
    "cosine": "cosine similarity",
    "dot": "dot product",
    "euclidean": "minus the Euclidean distance",
    "max4": "greatest of four cosines",
    "min4": "least of four cosines",
}
OF_TWO_VIEWS = {"max4": (np.maximum, jnp.maximum), "min4": (np.minimum, jnp.minimum)}


def check_similarity(similarity: str, what: str = "similarity") -> None:
    """Raises BdfError where there is no such similarity."""
    if similarity not in TITLES:
        raise BdfError(f"{what}: expected {', '.join(TITLES)}, found {similarity!r}")


def as_products(
    features_ND: np.ndarray, similarity: str, *, mean_D: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The features as queries and as gallery, (N, D') float32 each, whose dot products rank as the similarity does.

    Args:
      features_ND: (N, D) float32.
      similarity: one of `TITLES`.
      mean_D: of the features that these belong to; None: their own.

    Raises:
      BdfError: no such similarity.
    """
    check_similarity(similarity)
    if similarity == "dot":
        return features_ND, features_ND
    if similarity in OF_TWO_VIEWS:
        views = views_in(features_ND, similarity)
        unit_ND = np.concatenate([as_products(view_ND, "cosine")[0] for view_ND in views], axis=1)
        return unit_ND, unit_ND
    if similarity == "cosine":
        norm_N1 = np.linalg.norm(features_ND.astype(np.float64), axis=1, keepdims=True)
        unit_ND = (features_ND / np.maximum(norm_N1, np.finfo(np.float32).tiny)).astype(np.float32)
        return unit_ND, unit_ND
    # Around their mean features are small, and the difference keeps the digits that float32 has.
    around_ND = features_ND - (features_ND.mean(axis=0, dtype=np.float64) if mean_D is None else mean_D)
    half_N1 = -np.square(around_ND).sum(axis=1, keepdims=True) / 2
    one_N1 = np.ones_like(half_N1)
    queries, gallery = (np.concatenate([around_ND, last], axis=1) for last in (one_N1, half_N1))
    return queries.astype(np.float32), gallery.astype(np.float32)


def views_in(features_ND: np.ndarray, similarity: str) -> list[np.ndarray]:
    """The vectors that features consist of: two of one length, or the features themselves."""
    if similarity not in OF_TWO_VIEWS:
        return [features_ND]
    if features_ND.shape[1] % 2:
        raise BdfError(
            f"{similarity}: expected the vectors of two views in one, an even length; found {features_ND.shape[1]}"
        )
    return np.split(features_ND, 2, axis=1)


def compared(queries: Any, gallery: Any, similarity: str, product: Callable[[Any, Any], Any]) -> Any:
    """`product` of the two; of two views the greatest or the least of the four products.

    Args:
      queries, gallery: (..., D'), from `as_products`.
      similarity: one of `TITLES`.
      product: over the last axis of both.
    """
    if similarity not in OF_TWO_VIEWS:
        return product(queries, gallery)
    half = queries.shape[-1] // 2
    sides = [(side[..., :half], side[..., half:]) for side in (queries, gallery)]
    products = [product(a, b) for a in sides[0] for b in sides[1]]
    of_numpy, of_jax = OF_TWO_VIEWS[similarity]
    return functools.reduce(of_numpy if isinstance(products[0], np.ndarray) else of_jax, products)


def shown(scores_QG: np.ndarray, queries_QD: np.ndarray, similarity: str) -> np.ndarray:
    """Dot products of `as_products` as the numbers that people know: for "euclidean" minus the distance."""
    if similarity != "euclidean":
        return scores_QG
    square_Q1 = np.square(queries_QD[:, :-1].astype(np.float64)).sum(axis=1, keepdims=True)
    return -np.sqrt(np.maximum(square_Q1 - 2 * scores_QG, 0)).astype(np.float32)
