"""`python -m bdf_jax methods`: every method with what one must know before using its numbers."""

import json

from bdf_jax.__main__ import main
from bdf_jax.commands.methods import cited
from bdf_jax.method import registry


def test_every_method_is_listed_on_a_line(capsys):
    assert main(["methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, method in registry().items():
        (line,) = [line for line in lines if f" {name} " in line]
        assert str(method.year) in line
        assert method.fidelity in line
        assert cited(method.paper) in line


def test_one_method_is_told_whole_and_in_a_file(capsys, tmp_path):
    assert main(["methods", "cmgan", f"--json={tmp_path / 'methods.json'}"]) == 0
    (row,) = json.loads((tmp_path / "methods.json").read_text())
    assert row["parameters"] == 24_759_755 + 2_550_502
    assert row["needs"] == "1 critic, 2 optimisers"
    assert row["paper"] == registry()["cmgan"].paper
    assert 7 < row["GFLOP"] < 9  # ResNet-50 with a last stage of full resolution, at 256 x 128
    told = capsys.readouterr().out
    assert "27,310,257" in told
    assert row["paper"] in told


def test_a_wrong_name_names_near_ones(capsys):
    assert main(["methods", "base_derivativ"]) == 1
    assert "nearest: base_derivative" in capsys.readouterr().err


def test_a_paper_is_cited_short():
    assert cited("Li, Wei: An X Modality, for Instance, AAAI") == "Li et al., AAAI"
    assert cited("Li: An X Modality, AAAI") == "Li, AAAI"
