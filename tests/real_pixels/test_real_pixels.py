"""Real photographs through the whole project: tree, records, pretrained weights, training, protocol.

Short versions of `benchmarks/real_pixels.py`, whose three seeds are in docs/real-pixels.md.
"""

import pytest

from bdf_jax.config import vary
from benchmarks import real_pixels

pytestmark = pytest.mark.network


@pytest.mark.parametrize(
    ("infrared", "lowest", "highest"), [(real_pixels.same, 95, 100), (real_pixels.inverted, 10, 45)]
)
def test_faces_in_the_untouched_network(home, infrared, lowest, highest):
    rows = real_pixels.untouched(real_pixels.faces(home, infrared=infrared))
    assert [row["queries"] for row in rows] == [200, 200]
    for row in rows:
        assert lowest <= row["R1"] <= highest, row["direction"]


def test_training_lifts_unseen_faces(home, tmp_path):
    config = vary(real_pixels.faces(home), {"training.steps": 24, "data.identities": 6})
    rows = real_pixels.trained(config, tmp_path, seed=0, method="full method")
    assert {row["queries"] for row in rows} == {50}
    for metric in ("R1", "mAP"):
        before, after = (real_pixels.mean(rows, model, metric) for model in ("untrained", "trained"))
        assert after > before + 8, metric


def test_training_lifts_unseen_cells_of_the_field(home, tmp_path):
    config = vary(real_pixels.field(home), {"training.steps": 150})
    rows = real_pixels.trained(config, tmp_path, seed=0, method="full method")
    assert {row["queries"] for row in rows} == {300}
    after = real_pixels.mean(rows, "trained", "mAP")
    for model in ("untrained", "chance", "raw_pixels", "edges"):
        assert after > 1.2 * real_pixels.mean(rows, model, "mAP"), model
