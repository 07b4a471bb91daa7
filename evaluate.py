"""Evaluates a trained network or a feature file under the protocols of its data set: a table, and JSON if asked.

python evaluate.py --workdir=DIR [--step=N] [--use=base] [--json=OUT] [--report=DIR]
python evaluate.py --features=F.npz --dataset=sysu_mm01 [--mode=all] [--shots=1] [--gallery=official] [--json=OUT]
    [--root=TREE --report=DIR]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from bdf_jax import cli, launch
from bdf_jax.config import vary
from bdf_jax.errors import BdfError
from bdf_jax.output import check_output
from bdf_jax.paths import check_local

WORKDIR = flags.DEFINE_string("workdir", "", "Work folder of a training run, or one of its checkpoints.")
STEP = flags.DEFINE_integer(
    "step", None, "Which checkpoint; default: the best on validation if there was any, or the last."
)
FEATURE = flags.DEFINE_enum("feature", None, ["post_bn", "pre_bn"], "After or before the BNNeck; default: as trained.")
USE = flags.DEFINE_enum(
    "use", None, ["base", "derivative", "concat", "sum4"], "Which images speak; default: as trained."
)
FLIP_TTA = flags.DEFINE_boolean("flip_tta", None, "Mean feature of the image and its mirror image.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Images on the devices at a time; default: as trained.")
BASELINES = flags.DEFINE_boolean("baselines", None, "Also chance, raw pixels, edges and the untrained network.")
SAVE_FEATURES = flags.DEFINE_string("save_features", "", "Write the features of the test images to this .npz file.")
DATA_DIR = flags.DEFINE_string("data_dir", "", "With --workdir: where prepared records and worlds are now.")
FEATURES = flags.DEFINE_string(
    "features", "", "Feature file (.npz); for RegDB's ten trials ten: commas between them, or {trial} in the name."
)
DATASET = flags.DEFINE_string("dataset", "", "sysu_mm01, regdb or llcm: the protocol of --features.")
ROOT = flags.DEFINE_string(
    "root",
    "",
    "The published tree: for --features its test list and its own gallery picks; for --workdir its new place.",
)
WHITE = flags.DEFINE_float(
    "white", None, "What is white in images of more than 8 bits; default: as trained, or what their type says."
)
BLACK = flags.DEFINE_float("black", None, "Likewise: what is black.")
MODE = flags.DEFINE_list("mode", [], "SYSU-MM01: all, indoor. Default: both.")
SHOTS = flags.DEFINE_list("shots", [], "SYSU-MM01: 1, 10. Default: both.")
GALLERY = flags.DEFINE_list("gallery", [], "SYSU-MM01: official, agw. Default: both.")
DIRECTION = flags.DEFINE_list("direction", [], "E.g. infrared_to_visible, or RegDB's visible_to_thermal. Default: all.")
TRIAL = flags.DEFINE_integer("trial", None, "Only this trial: 0..9; for RegDB 1..10, the split of --features.")
SIMILARITY = flags.DEFINE_string("similarity", "", "cosine or dot. Default: what the feature file says, or cosine.")
RERANK = flags.DEFINE_boolean("rerank", False, "k-reciprocal re-ranking (k1 20, k2 6, lambda 0.3).")
COMPARE = flags.DEFINE_string("compare", "", "A second feature file of the same images: print the differences.")
REPORT = flags.DEFINE_string("report", "", "Write an HTML page with curves, histograms and pictures to this folder.")
JSON = flags.DEFINE_string("json", "", "Write the rows to this file.")
PROCESSES = launch.define_flags()


def main(_: Sequence[str]) -> None:
    """Prints the table of what was asked for."""
    if bool(FEATURES.value) == bool(WORKDIR.value):
        raise BdfError("give either --workdir=DIR, or --features=FILE.npz and --dataset=sysu_mm01|regdb|llcm")
    if REPORT.value:
        from bdf_jax.evaluation.report import check_folder

        check_folder(REPORT.value)  # before the work, as the others
    for holder in (JSON, SAVE_FEATURES):
        if holder.value:
            check_output(holder.value, f"--{holder.name}")
    for holder in (WORKDIR, ROOT, DATA_DIR):
        check_local(f"--{holder.name}", [holder.value])
    for holder in (FEATURES, COMPARE):
        check_local(f"--{holder.name}", holder.value.split(","))
    if FEATURES.value:
        _evaluate_features()  # ranking alone: nothing to share out
        return
    with launch.joined(PROCESSES):
        _evaluate_workdir()


def _evaluate_workdir() -> None:
    from bdf_jax.checkpoints import load_metadata  # after the flags are checked: this imports JAX
    from bdf_jax.evaluation import feature_rows
    from bdf_jax.evaluation.workdir import evaluate_workdir

    run = load_metadata(WORKDIR.value, STEP.value).config
    given = {"feature": FEATURE.value, "use": USE.value, "flip_tta": FLIP_TTA.value, "baselines": BASELINES.value}
    given["batch_size"] = BATCH_SIZE.value
    data = {"dataset": DATASET.value, "root": ROOT.value, "dir": DATA_DIR.value, "trial": TRIAL.value}
    data |= {"white": WHITE.value, "black": BLACK.value}
    changes = {f"evaluation.{name}": value for name, value in given.items() if value is not None}
    changes |= {f"data.{name}": value for name, value in data.items() if value not in (None, "")}
    config = vary(run, changes)
    evaluate_workdir(
        WORKDIR.value,
        step=STEP.value,
        config=config.evaluation,
        data=config.data,
        rerank=RERANK.value,
        features_file=SAVE_FEATURES.value,
        rows_file=JSON.value,
        report=REPORT.value,
        modes=MODE.value or None,
        shots=feature_rows.parse_shots(SHOTS.value) or None,
        galleries=GALLERY.value or None,
        directions=DIRECTION.value or None,
    )


def _evaluate_features() -> None:
    from bdf_jax.data.levels import Levels
    from bdf_jax.evaluation import feature_rows, table  # after the flags are checked: this imports JAX

    if not DATASET.value:
        raise BdfError("--features: which protocol? Give --dataset=sysu_mm01, regdb or llcm")
    asked: dict[str, Any] = {
        "compare": COMPARE.value,
        "root": ROOT.value,
        "trial": TRIAL.value,
        "similarity": SIMILARITY.value or None,
        "rerank": RERANK.value,
        "modes": MODE.value or None,
        "shots": feature_rows.parse_shots(SHOTS.value) or None,
        "galleries": GALLERY.value or None,
        "directions": DIRECTION.value or None,
    }
    levels = Levels.of(WHITE.value, BLACK.value, "--")
    rows = feature_rows.evaluate_files(DATASET.value, FEATURES.value, **asked)
    notes = feature_rows.notes(rows)
    if JSON.value:
        table.write_json(JSON.value, rows)
    table.print_table(rows)
    table.print_differences(rows)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    if REPORT.value:
        from bdf_jax.evaluation.report.sources import report_features

        page = report_features(REPORT.value, rows, DATASET.value, FEATURES.value, notes=notes, levels=levels, **asked)
        print(f"report: {page}")


if __name__ == "__main__":
    cli.main(main)
