"""Evaluates a feature file under the protocols of its data set: a table, and JSON if asked.

python evaluate.py --features=F.npz --dataset=sysu_mm01 [--mode=all] [--shots=1] [--gallery=official] [--json=OUT]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from absl import flags

from bdf_jax import cli
from bdf_jax.errors import BdfError

FEATURES = flags.DEFINE_string(
    "features", "", "Feature file (.npz); for RegDB's ten trials ten: commas between them, or {trial} in the name."
)
DATASET = flags.DEFINE_string("dataset", "", "sysu_mm01, regdb or llcm: the protocol of --features.")
ROOT = flags.DEFINE_string(
    "root", "", "With --features: the tree its images come from, for its test list and its own gallery picks."
)
MODE = flags.DEFINE_list("mode", [], "SYSU-MM01: all, indoor. Default: both.")
SHOTS = flags.DEFINE_list("shots", [], "SYSU-MM01: 1, 10. Default: both.")
GALLERY = flags.DEFINE_list("gallery", [], "SYSU-MM01: official, agw. Default: both.")
DIRECTION = flags.DEFINE_list("direction", [], "E.g. infrared_to_visible, or RegDB's visible_to_thermal. Default: all.")
TRIAL = flags.DEFINE_integer("trial", None, "Only this trial: 0..9; for RegDB 1..10, the split of --features.")
SIMILARITY = flags.DEFINE_string("similarity", "", "cosine or dot. Default: what the feature file says, or cosine.")
RERANK = flags.DEFINE_boolean("rerank", False, "k-reciprocal re-ranking (k1 20, k2 6, lambda 0.3).")
COMPARE = flags.DEFINE_string("compare", "", "A second feature file of the same images: print the differences.")
JSON = flags.DEFINE_string("json", "", "Write the rows to this file.")


def main(_: Sequence[str]) -> None:
    """Prints the table of what was asked for."""
    if not FEATURES.value:
        raise BdfError("nothing to evaluate: give --features=FILE.npz and --dataset=sysu_mm01|regdb|llcm")
    _evaluate_features()


def _evaluate_features() -> None:
    from bdf_jax.evaluation import feature_rows, table  # after the flags are checked: this imports JAX

    if not DATASET.value:
        raise BdfError("--features: which protocol? Give --dataset=sysu_mm01, regdb or llcm")
    rows = feature_rows.evaluate_files(
        DATASET.value,
        FEATURES.value,
        compare=COMPARE.value,
        root=ROOT.value,
        trial=TRIAL.value,
        similarity=SIMILARITY.value or None,
        rerank=RERANK.value,
        modes=MODE.value or None,
        shots=feature_rows.parse_shots(SHOTS.value) or None,
        galleries=GALLERY.value or None,
        directions=DIRECTION.value or None,
    )
    table.print_table(rows)
    table.print_differences(rows)
    for note in feature_rows.notes(rows):
        print(f"note: {note}", file=sys.stderr)
    if JSON.value:
        table.write_json(JSON.value, rows)


if __name__ == "__main__":
    cli.main(main)
