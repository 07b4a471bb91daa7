"""Evaluation: features in, the numbers that a paper would print out; and exact search in large galleries."""

from bdf_jax.evaluation.feature_file import FeatureFile, load_features, save_features
from bdf_jax.evaluation.harness import evaluate, measure
from bdf_jax.evaluation.protocols import Protocol, protocols_for
from bdf_jax.evaluation.retrieval import top_k

__all__ = [
    "FeatureFile",
    "Protocol",
    "evaluate",
    "load_features",
    "measure",
    "protocols_for",
    "save_features",
    "top_k",
]
