"""Feature files of small test sets, to be spoilt by the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import protocol_definitions as definitions

from bdf_jax.data.index import ImageIndex
from bdf_jax.evaluation.feature_rows import evaluate_files


def arrays_of(index: ImageIndex, features_ND: np.ndarray) -> dict[str, Any]:
    """What `np.savez` is given."""
    return {
        "features": features_ND,
        "pids": index.pids,
        "cams": index.cams,
        "modality": index.modalities,
        "names": index.names,
    }


def good(dimensions: int = 32, noise: float = 0.5) -> dict[str, Any]:
    """A small set in SYSU-MM01's layout, with features that rank well."""
    index = definitions.small_sysu(seed=1)
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((index.pids.max() + 1, dimensions))
    features_ND = centres[index.pids] + noise * rng.standard_normal((len(index), dimensions))
    return arrays_of(index, features_ND.astype(np.float32))


def rows_of(path: Path, arrays: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
    """The rows of a file that holds these arrays."""
    np.savez(path, **arrays)
    return evaluate_files("sysu_mm01", str(path), modes=["all"], shots=[1], galleries=["agw"], **options)
