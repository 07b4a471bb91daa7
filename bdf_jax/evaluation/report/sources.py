"""What a report is made from: a trained network on its data set, or feature files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bdf_jax.checkpoints import Metadata
from bdf_jax.data.dataset import Dataset
from bdf_jax.data.images import read_pixels
from bdf_jax.data.index import INFRARED, VISIBLE, ImageIndex
from bdf_jax.data.levels import AS_STORED, Levels
from bdf_jax.datasets import find
from bdf_jax.evaluation import feature_rows
from bdf_jax.evaluation.feature_file import load_features
from bdf_jax.evaluation.protocols import Protocol
from bdf_jax.evaluation.ranking import Measured
from bdf_jax.evaluation.report import Evaluated, pictures, write_report
from bdf_jax.evaluation.similarity import TITLES
from bdf_jax.models import Network
from bdf_jax.names import printable
from bdf_jax.parts import kind_of
from bdf_jax.paths import local_path


def report_network(
    out: str | Path,
    rows: Sequence[Mapping[str, Any]],
    *,
    metadata: Metadata,
    step: int,
    variables: Mapping[str, Any],
    dataset: Dataset,
    features_ND: np.ndarray,
    protocols: Sequence[Protocol],
    measured: Sequence[Measured],
    similarity: str,
    rerank: bool,
    notes: Sequence[str] = (),
) -> Path | str:
    """The report of a trained network: everything, pictures and derivatives included.

    Args:
      out: folder of the report.
      rows: of the table; those of `protocols` first.
      metadata, step, variables: of the checkpoint.
      dataset: what it was evaluated on.
      features_ND: of the test images.
      protocols, measured: what was asked and what came out.
      similarity, rerank: how features were compared.

    Returns:
      the page's path.
    """
    test, config = dataset.test, metadata.config
    network, size = Network.of(config, metadata.num_classes), config.data.image_size
    world = config.data.world
    title = data = find(dataset.name).layout.title + ("" if dataset.trial is None else f", trial {dataset.trial}")
    if not config.data.root:
        title = "a synthetic world"
        data = f"a synthetic world, laid out as {data} ({world.train_ids} identities to train on, seed {world.seed})"
    made = ", ".join(f"{name} of {view.of} by {kind_of(type(view.by))}" for name, view in config.views.items())
    facts = {
        "data set": data,
        "test images": _images(test.index),
        "checkpoint": f"step {step}",
        "network": f"{config.network.trunk.name}, images of {size[0]} x {size[1]} pixels, views {made or 'V, I'}",
        "features": f"{features_ND.shape[1]} numbers an image, compared by {_compared(similarity, rerank)}",
        "fingerprint": dataset.fingerprint[:12],
    }

    def picture(row: int) -> np.ndarray:
        return test.pixels(row, pictures.SIZE)

    return write_report(
        out,
        rows,
        [Evaluated(features_ND, test.index, similarity, rerank, protocols, [[m] for m in measured])],
        title=f"Evaluation on {title}",
        facts=facts,
        notes=notes,
        picture=picture,
        derivatives=pictures.derivatives_of(network, variables, test, image_size=size),
    )


def report_features(
    out: str | Path,
    rows: Sequence[Mapping[str, Any]],
    dataset: str,
    features: str,
    *,
    compare: str = "",
    root: str | Path = "",
    trial: int | None = None,
    similarity: str | None = None,
    rerank: bool = False,
    own: bool = False,
    notes: Sequence[str] = (),
    levels: Levels = AS_STORED,
    **chosen: Any,
) -> Path | str:
    """The report of feature files; with pictures where `root` names the tree of the images.

    Args:
      out: folder of the report.
      rows: from `feature_rows.evaluate_files` with the same arguments as here.
      dataset, features, compare, root, trial, similarity, rerank, own, **chosen: as there.
      notes: warnings to show first.
      levels: what is black and white in images of more than 8 bits.

    Returns:
      the page's path.
    """
    evaluated = []
    for pattern in (features, compare) if compare else (features,):
        numbers, paths = feature_rows._paths(dataset, pattern, trial)
        side = feature_rows._measured_side(
            dataset, numbers, paths, root=root, similarity=similarity, rerank=rerank, own=own, chosen=chosen
        )
        file = load_features(paths[0])
        # The galleries of the last split serve a table of sizes only; pictures need those of the first.
        protocols = side.protocols if len(paths) == 1 else _first_protocols(dataset, file.index, numbers[0], chosen)
        evaluated.append(
            Evaluated(file.features_ND, file.index, side.flags["similarity"], rerank, protocols, side.measured)
        )
    first = evaluated[0]
    names = feature_rows._paths(dataset, features, trial)[1]
    facts = {
        "data set": find(dataset).layout.title,
        "test images": _images(first.index) + (f", in the first of {len(names)} splits" if len(names) > 1 else ""),
        "feature file": names[0].name + (f" and {len(names) - 1} more" if len(names) > 1 else ""),
        "features": f"{first.features_ND.shape[1]} numbers an image, compared by {_compared(first.similarity, rerank)}",
        "checked against": {"tree": "the tree", "published": "what is known of the published test set"}.get(
            str(rows[0].get("test_set")), "nothing: a test set of its own"
        ),
    }
    folder = local_path(root, "--root")

    def picture(row: int) -> np.ndarray:
        name = str(first.index.names[row])
        return read_pixels(folder / name, printable(str(folder / name)), pictures.SIZE, levels)

    return write_report(
        out,
        rows,
        evaluated,
        title=f"Evaluation of {names[0].stem} on {find(dataset).layout.title}",
        facts=facts,
        notes=notes,
        picture=picture if root else None,  # the names were then checked against the tree's own
        no_pictures="A feature file holds no pictures: give --root=TREE, the folder of the images, to see them here.",
    )


def _first_protocols(
    dataset: str, index: ImageIndex, number: int | None, chosen: Mapping[str, Any]
) -> Sequence[Protocol]:
    from bdf_jax.evaluation.protocols import protocols_for

    return protocols_for(dataset, index, trial=number, **chosen)


def _images(index: ImageIndex) -> str:
    visible, infrared = ((index.modalities == modality).sum() for modality in (VISIBLE, INFRARED))
    return f"{visible:,} visible and {infrared:,} infrared, of {len(np.unique(index.pids)):,} identities"


def _compared(similarity: str, rerank: bool) -> str:
    return TITLES[similarity].removeprefix("minus the ") + (", then re-ranked" if rerank else "")
