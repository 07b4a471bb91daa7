"""Features in files that vector databases ingest: an array with its names beside it, or a table."""

from __future__ import annotations

import csv
import importlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bdf_jax.errors import BdfError
from bdf_jax.names import legible
from bdf_jax.output import check_output, replaced

SUFFIXES = (".npy", ".parquet")


def check_format(out: Path) -> None:
    """Refuses what cannot be written, before the work.

    Raises:
      BdfError: a package is missing, or the file beside an array cannot be written.
    """
    if out.suffix == ".parquet":
        try:
            importlib.import_module("pyarrow")
        except ImportError as error:
            raise BdfError(f"--out={out}: Parquet needs: pip install pyarrow; or write a .npy file") from error
    if out.suffix == ".npy":
        check_output(out.with_suffix(".csv"), "--out")


def write_features(
    out: Path, features_ND: np.ndarray, names_N: np.ndarray, ids_N: np.ndarray, modality: str, about: Mapping[str, Any]
) -> list[Path]:
    """Writes `out` and what belongs beside it.

    Args:
      out: F.npy, the (N, D) float32 array alone, with F.csv (row, name, id, modality) beside it; or F.parquet, a table
        of name, id, modality and vector (a list of D float32), with `about` in its metadata.
      features_ND: (N, D) float32.
      names_N: of the images.
      ids_N: who is shown.
      modality: of all of them.
      about: similarity and flags of the features.

    Returns:
      The files.

    Raises:
      BdfError: a file cannot be written.
    """
    # Names of other bytes than UTF-8 are escaped: neither format has any other.
    names, ids = legible(names_N.tolist()), legible(ids_N.tolist())
    if out.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        N, D = features_ND.shape
        flat = pyarrow.array(np.ascontiguousarray(features_ND, np.float32).reshape(-1))
        columns = {"name": pyarrow.array(names), "id": pyarrow.array(ids), "modality": pyarrow.array([modality] * N)}
        columns["vector"] = pyarrow.FixedSizeListArray.from_arrays(flat, D)
        table = pyarrow.table(columns).replace_schema_metadata({"bdf_jax": json.dumps(dict(about))})
        with replaced(out) as file:
            parquet.write_table(table, file)
        return [out]
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["row", "name", "id", "modality"])
    rows.writerows([row, name, who, modality] for row, (name, who) in enumerate(zip(names, ids, strict=True)))
    with replaced(out.with_suffix(".csv")) as file:
        file.write(text.getvalue().encode())
    with replaced(out) as file:
        np.save(file, np.ascontiguousarray(features_ND, np.float32))
    return [out, out.with_suffix(".csv")]
