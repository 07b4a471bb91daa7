"""`python -m bdf_jax plot`: curves of runs as PNG."""

import json
import math
import re

import numpy as np
import pytest
from PIL import Image

from bdf_jax.__main__ import main
from bdf_jax.training.curves import COLOURS, choose, read_curves, smoothed

NAMES = ("loss", "did", "accuracy/V", "accuracy/I", "learning_rate")


def write_run(folder, steps=range(1, 60), names=NAMES, shift=0.0, tail=""):
    folder.mkdir(parents=True)
    rows = [json.dumps({"step": s, **{n: math.exp(-s / 20) + shift for n in names}}) + "\n" for s in steps]
    (folder / "metrics.jsonl").write_text("".join(rows) + tail)
    return str(folder)


def height(picture):
    with Image.open(picture) as image:
        return image.height


def colours(picture):
    """How many pixels are of each colour of the lines."""
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    rgb = [tuple(int(c[i : i + 2], 16) for i in (1, 3, 5)) for c in COLOURS]
    return [int((pixels == colour).all(axis=1).sum()) for colour in rgb]


@pytest.mark.parametrize("ending", ["", "/", "/metrics.jsonl"])
def test_every_run_has_a_line_of_its_own_colour(tmp_path, ending, capsys):
    runs = [write_run(tmp_path / name, shift=i) for i, name in enumerate(("one", "two", "three"))]
    out = tmp_path / "new" / "curves.png"
    assert main(["plot", *(run + ending for run in runs), f"--out={out}", "--metrics=loss"]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    drawn = colours(out)
    assert all(count > 100 for count in drawn[:3])
    assert sum(drawn[3:6]) == 0
    assert sorted(path.name for path in out.parent.iterdir()) == ["curves.png"]


def test_runs_with_other_metrics_share_a_picture_and_a_group_is_all_of_its_members(tmp_path):
    runs = read_curves([write_run(tmp_path / "a"), write_run(tmp_path / "b", names=("loss", "validation/mAP"))])
    assert choose(runs) == ["loss", "did", "accuracy/V", "accuracy/I", "learning_rate", "validation/mAP"]
    assert choose(runs, ["accuracy", "did"]) == ["accuracy/V", "accuracy/I", "did"]
    out = tmp_path / "c.png"
    assert main(["plot", str(tmp_path / "a"), str(tmp_path / "b"), f"--out={out}"]) == 0
    small = tmp_path / "small.png"
    assert main(["plot", str(tmp_path / "a"), str(tmp_path / "b"), f"--out={small}", "--metrics=loss,did"]) == 0
    assert height(out) > 1.5 * height(small)


def test_the_average_is_what_its_definition_says(tmp_path):
    rng = np.random.default_rng(0)
    steps = np.cumsum(rng.integers(1, 9, 50))
    values = rng.standard_normal(50)
    for width in (3.0, 40.0):
        for i in range(50):
            weights = [math.exp(-abs(steps[i] - steps[j]) / width) for j in range(50)]
            expected = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
            assert smoothed(steps, values, width)[i] == pytest.approx(expected)
    assert np.array_equal(smoothed(steps, values, 0), values)


def test_names_that_matplotlib_takes_for_something_else_and_runs_of_one_name(tmp_path):
    runs = [write_run(tmp_path / name, shift=len(name)) for name in ("_hidden", "$x_{", "a/run", "bb/run")]
    out = tmp_path / "c.png"
    assert main(["plot", *runs, f"--out={out}", "--metrics=loss"]) == 0
    assert [run.name for run in read_curves(runs[2:])] == ["a/run", "bb/run"]
    assert all(count > 100 for count in colours(out)[:1] + colours(out)[3:4])


def test_many_runs_and_few_points(tmp_path):
    runs = [write_run(tmp_path / f"{i:02}", steps=[1, 5][: 1 + i % 2], shift=i) for i in range(16)]
    assert main(["plot", *runs, f"--out={tmp_path / 'c.png'}", "--smooth=0"]) == 0


def test_a_line_that_a_killed_run_left_half_written_is_passed_over_and_told(tmp_path, capsys):
    run = write_run(tmp_path / "killed", steps=range(1, 20), tail='{"step": 20, "lo')
    assert main(["plot", run, f"--out={tmp_path / 'c.png'}"]) == 0
    assert f"note: {run}/metrics.jsonl: its last line is half-written" in capsys.readouterr().err
    assert read_curves([run])[0].series["loss"][0].tolist() == list(range(1, 20))


def test_a_step_that_stands_twice_counts_as_written_last(tmp_path):
    run = write_run(tmp_path / "a", steps=[1, 2, 3], tail='{"step": 2, "loss": 9.0}\n')
    steps, values = read_curves([run])[0].series["loss"]
    assert steps.tolist() == [1, 2, 3]
    assert values[1] == 9.0


def test_what_cannot_be_drawn_is_named(tmp_path, capsys):
    good = write_run(tmp_path / "good")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "config.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "metrics.jsonl").write_text("")
    write_run(tmp_path / "half", steps=[], tail='{"step": 1, "lo')
    write_run(tmp_path / "broken", steps=[1], tail='not JSON\n{"step": 2, "loss": 1.0}\n')
    write_run(tmp_path / "other", steps=[], tail='[1, 2]\n{"step": 2, "loss": 1.0}\n')
    (tmp_path / "binary").mkdir()
    (tmp_path / "binary" / "metrics.jsonl").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "file").write_text("")
    out = f"--out={tmp_path / 'c.png'}"

    def refusal(*arguments):
        assert main(["plot", *map(str, arguments)]) == 1
        error = capsys.readouterr().err
        assert error.startswith(("error: ", "note: "))
        assert "Traceback" not in error
        return error

    assert f"{tmp_path}/nowhere: no such folder" in refusal(tmp_path / "nowhere", out)
    assert f"{tmp_path}/new: expected a training run with metrics.jsonl, found config.json" in refusal(
        good, tmp_path / "new", out
    )
    assert f"{tmp_path}/empty/metrics.jsonl: no step is logged" in refusal(good, tmp_path / "empty", out)
    assert f"{tmp_path}/half/metrics.jsonl: no step is logged" in refusal(tmp_path / "half", out)
    assert f"{tmp_path}/broken/metrics.jsonl, line 2: expected an object" in refusal(tmp_path / "broken", out)
    assert f"{tmp_path}/other/metrics.jsonl, line 1" in refusal(tmp_path / "other", out)
    assert f"{tmp_path}/binary/metrics.jsonl: cannot be read" in refusal(tmp_path / "binary", out)
    assert re.search(r"no run has 'losss'; nearest: loss", refusal(good, out, "--metrics=losss"))
    assert "expected a name that ends with .png" in refusal(good, f"--out={tmp_path / 'c.pdf'}")
    assert "could not be written" in refusal(good, f"--out={tmp_path / 'file' / 'c.png'}")
    assert "--smooth: expected a share" in refusal(good, out, "--smooth=1")
    assert "the same run is given twice" in refusal(good, good + "/", out)
    assert not (tmp_path / "c.png").exists()
