"""Losses as functions of arrays, usable alone, and as the named values that a method is made of (`terms`)."""

from bdf_jax.losses.identity import did_loss, did_terms
from bdf_jax.losses.ranking import (
    DI,
    DV,
    MODALITIES,
    PAIRS,
    I,
    V,
    mdl_edges,
    mdl_loss,
    mml_loss,
    ranking_loss,
    ranking_terms,
    weighted_terms,
)

__all__ = [
    "DI",
    "DV",
    "MODALITIES",
    "PAIRS",
    "I",
    "V",
    "did_loss",
    "did_terms",
    "mdl_edges",
    "mdl_loss",
    "mml_loss",
    "ranking_loss",
    "ranking_terms",
    "weighted_terms",
]  # fmt: skip
