"""Evaluation of a trained network: a work folder in, the rows of its data set's table out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bdf_jax import distributed
from bdf_jax.checkpoints import Metadata, load_metadata, load_variables
from bdf_jax.config import Config, RetrieveConfig
from bdf_jax.data.dataset import Dataset, open_dataset
from bdf_jax.data.index import ImageIndex
from bdf_jax.datasets import find
from bdf_jax.datasets.gallery import shipped_picks, tree_picks
from bdf_jax.errors import BdfError
from bdf_jax.evaluation import baselines
from bdf_jax.evaluation.feature_file import save_features
from bdf_jax.evaluation.features import embed_all, embed_split, flags_of, similarity_of
from bdf_jax.evaluation.harness import evaluate, measure, row
from bdf_jax.evaluation.protocols import Protocol, protocols_for
from bdf_jax.evaluation.rankable import concerns
from bdf_jax.evaluation.table import print_table, write_json
from bdf_jax.evaluation.test_sets import tree_differs
from bdf_jax.models import Network, initial_variables
from bdf_jax.models.metrics import check_fitted
from bdf_jax.xla import at_risk, avoid_wrong_sums

CONVERTED = (
    "converted from {}: which identities it was trained on is not in the file; the numbers mean something only where "
    "it has seen none of these"
)


def evaluate_workdir(
    workdir: str | Path,
    *,
    step: int | None = None,
    config: Config | None = None,
    dataset: Dataset | None = None,
    rerank: bool = False,
    features_file: str | Path = "",
    rows_file: str | Path = "",
    report: str | Path = "",
    own: bool = False,
    **choice: Any,
) -> list[dict[str, Any]]:
    """Evaluates a checkpoint on its own data set and protocol, and prints the table.

    Several processes embed a share of the images each; process 0 ranks, prints and writes.

    Args:
      workdir: of a training run, or one of its checkpoints.
      step: which checkpoint; None: the best on the validation identities where there was validation, else the last.
      config: where the data lie now, and which feature is compared; None: the configuration of the run.
      dataset: the same data, opened already.
      rerank: k-reciprocal re-ranking.
      features_file: where the features of the test images are saved, readable by `evaluate.py --features`.
      rows_file: where the rows are written before they are printed.
      report: folder for a page with curves, histograms and pictures.
      own: evaluate on an incomplete published test set all the same; the rows then say `test_set: own`.
      choice: `modes`, `shots`, `galleries`, `directions` of `protocols_for`; by default single-shot with the official
        galleries.

    Returns:
      The rows, as `evaluate.py --json` writes them.

    Raises:
      BdfError: no such checkpoint; data that are divided otherwise than those it was trained on; a tree of the
        published test identities that lacks images of theirs; features that have no finite scores.
    """
    if at_risk(load_metadata(workdir, step).config):  # as in training, before JAX starts
        avoid_wrong_sums()
    metadata, variables, step = load_variables(workdir, step)
    config = config or metadata.config
    check_fitted(config.retrieve.feature, variables, workdir)
    settings, size, batch_size = config.retrieve, metadata.config.data.image_size, config.evaluation.batch_size
    dataset = dataset or open_dataset(config.data, progress=distributed.is_first())
    _check_split(metadata, dataset, workdir)
    differs = tree_differs(dataset.name, dataset.test.index, dataset.root)
    if differs and not own:
        raise BdfError(f"{differs}. Unpack the archive again, or evaluate it all the same with --own")
    protocols = standard_protocols(dataset, **choice)
    distributed.agree(
        "what they evaluate",
        {"step": step, "fingerprint": dataset.fingerprint, **dataclasses.asdict(settings), "protocols": repr(choice)},
    )

    if distributed.is_first():
        print(f"evaluating the checkpoint of step {step} on {len(dataset.test)} test images")
    network = Network.of(metadata.config, metadata.num_classes)
    models: dict[str, Mapping[str, Any]] = {"trained": variables}
    plain = {}
    if config.evaluation.baselines:  # what the trained network has to beat
        models["untrained"] = initial_variables(network, metadata.config.training.seed, size)
        plain = {"edges": baselines.edge_features, "raw_pixels": baselines.raw_pixel_features}
    compared = embed_all(
        network, models, dataset.test, image_size=size, settings=settings, batch_size=batch_size, plain=plain
    )
    features_ND = compared.pop("trained")
    compared |= {name: baselines.with_direction(compared[name]) for name in plain}
    similarity = similarity_of(settings)
    flags = {"step": step, **flags_of(settings), "similarity": similarity, "rerank": rerank}

    def rank() -> list[dict[str, Any]]:
        index = dataset.test.index
        if features_file:
            save_features(features_file, features_ND, index, similarity=similarity, flags=flags_of(settings))
        measured = measure(features_ND, index, protocols, similarity=similarity, rerank=rerank)
        said = [differs] * bool(differs) + [note for kind in concerns(features_ND, index, similarity) for note in kind]
        said += [CONVERTED.format(metadata.converted)] if metadata.converted else []
        of_rows = {**flags, **({"test_set": "own"} if differs else {}), "notes": said}
        rows = [row(p, [m], model="trained", flags=of_rows) for p, m in zip(protocols, measured, strict=True)]
        baselines.add_chance(rows, index, protocols)
        notes = said + baselines.near_chance_notes(rows)
        if compared:
            rows += _baseline_rows(compared, index, protocols, settings)
        if rows_file:
            write_json(rows_file, rows)
        print_table(rows)
        for note in notes:
            print(f"note: {note}")
        if report:
            from bdf_jax.evaluation.report.sources import report_network  # brings matplotlib

            page = report_network(
                report, rows, metadata=metadata, step=step, variables=variables, dataset=dataset,
                features_ND=features_ND, protocols=protocols, measured=measured, similarity=similarity, rerank=rerank,
                notes=notes,
            )  # fmt: skip
            print(f"report: {page}")
        return rows

    return distributed.on_first(rank)


def standard_protocols(dataset: Dataset, **choice: Any) -> list[Protocol]:
    """The protocols of a data set's test split; by default single-shot with its first gallery family."""
    if dataset.name == "sysu_mm01":
        choice = {"shots": (1,), "galleries": ("official",)} | {k: v for k, v in choice.items() if v is not None}
    picks = (tree_picks(dataset.root) or shipped_picks()) if dataset.name == "sysu_mm01" else None
    return protocols_for(dataset.name, dataset.test.index, trial=dataset.trial, picks=picks, **choice)


def validation_map(config: Config, variables: Mapping[str, Any], num_classes: int, dataset: Dataset) -> float:
    """mAP, 0..1, of the official validation identities: all cameras, single-shot, ten galleries drawn at random."""
    if dataset.val is None:
        raise BdfError("the data set keeps no validation identities apart")
    protocols = protocols_for(dataset.name, dataset.val.index, modes=("all",), shots=(1,), galleries=("agw",))
    features_ND = embed_split(
        Network.of(config, num_classes),
        variables,
        dataset.val,
        image_size=config.data.image_size,
        settings=config.retrieve,
        batch_size=config.evaluation.batch_size,
        description="validation",
    )
    index, similarity = dataset.val.index, similarity_of(config.retrieve)
    return distributed.on_first(lambda: evaluate(features_ND, index, protocols, similarity=similarity)[0]["mAP"] / 100)


def _check_split(metadata: Metadata, dataset: Dataset, workdir: str | Path) -> None:
    if metadata.converted or metadata.fingerprint == dataset.fingerprint:
        return
    trained = metadata.config.data
    described = f"{trained.dataset} in {trained.root or 'the synthetic world'}"
    if find(trained.dataset).rules.one_split_per_trial:
        described += f", trial {trained.trial}"
    trial = "" if dataset.trial is None else f", trial {dataset.trial}"
    raise BdfError(
        f"{workdir}: trained on {described} (fingerprint {metadata.fingerprint[:12]}), but asked to evaluate on "
        f"{dataset.name} in {dataset.root}{trial} (fingerprint {dataset.fingerprint[:12]}). A network that saw test "
        "identities in training scores absurdly high; give the data and the trial of its training"
    )


def _baseline_rows(
    compared: Mapping[str, np.ndarray], index: ImageIndex, protocols: list[Protocol], settings: RetrieveConfig
) -> list[dict[str, Any]]:
    """Rows of the baselines, and of chance."""
    of_network: dict[str, Any] = {"similarity": similarity_of(settings), "flags": flags_of(settings)}
    rows: list[dict[str, Any]] = []
    for model, features_ND in compared.items():
        rows += evaluate(features_ND, index, protocols, model=model, **(of_network if model == "untrained" else {}))
    return rows + baselines.chance_rows(index, protocols)
