"""The table on the terminal and the rows in a file."""

import io
import json

import protocol_definitions as definitions
import pytest
from rich.console import Console

from bdf_jax.errors import BdfError
from bdf_jax.evaluation import harness, table
from bdf_jax.evaluation.protocols import protocols_for


@pytest.fixture(scope="module")
def rows():
    index = definitions.small_regdb()
    flags = {"feature": "embedding", "use": "base", "flip_tta": False}
    features_ND = definitions.coarse_features(index, seed=0)
    return harness.evaluate(features_ND, index, protocols_for("regdb", index), model="trained", flags=flags)


@pytest.mark.parametrize("width", [250, 100, 40])
def test_every_number_and_every_flag_is_printed_whatever_the_width(rows, width):
    out = io.StringIO()
    table.print_table(rows, Console(file=out, width=width))
    printed = out.getvalue()
    assert "…" not in printed
    for row in rows:
        (line,) = (line for line in printed.splitlines() if row["direction"] in line)
        for metric in table.METRICS:
            assert f"{row[metric]:.2f}" in line
    for word in ("embedding", "base", "cosine", "rerank", "flip_tta", "trained", "official", "regdb"):
        assert word in printed


def test_a_flag_that_says_nothing_of_a_baseline_moves_under_a_narrow_table_all_the_same(rows):
    edges = [{**row, "model": "edges", "feature": None, "use": None, "flip_tta": None} for row in rows]
    out = io.StringIO()
    table.print_table([*rows, *edges], Console(file=out, width=120))
    printed = out.getvalue()
    assert max(map(len, printed.splitlines())) <= 120
    assert "feature embedding, use base, flip_tta no" in printed.split("in every row: ")[1].replace("\n", " ")


def test_differences(rows):
    metrics = [{"metric": m, "difference": 0.5, "ci": [-0.1, 1.1], "clear": False} for m in table.METRICS]
    out = io.StringIO()
    table.print_differences(
        [{**rows[0], "compare": {"model": "other", "metrics": metrics}}], Console(file=out, width=250)
    )
    assert "trained minus other" in out.getvalue()
    assert out.getvalue().count("+0.50 [-0.10, +1.10] ~0") == 6
    silent = io.StringIO()
    table.print_differences(rows, Console(file=silent))
    assert silent.getvalue() == ""


def test_json_has_the_rows_and_no_partial_file_stays(rows, tmp_path):
    table.write_json(tmp_path / "new" / "rows.json", rows)
    assert json.loads((tmp_path / "new" / "rows.json").read_text()) == json.loads(json.dumps(rows))
    keys = ["dataset", "model", "mode", "shots", "gallery", "direction", "trials", "queries", "gallery_size"]
    assert set(keys) | set(table.METRICS) | set(table.FLAGS) <= set(rows[0])
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["rows.json"]
    with pytest.raises(BdfError, match="could not be written"):
        table.write_json(tmp_path / "new", rows)
