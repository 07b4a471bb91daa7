"""What is seen of a run, and the guard against losses that are no numbers."""

import json

import jax.numpy as jnp
import pytest

from bdf_jax.errors import BdfError
from bdf_jax.training.watch import Watch
from bdf_jax.training.workdir import MetricsFile

GOOD = {"loss": 3.0, "did": 1.0, "mml": 1.0, "mdl": 1.0, "mml/V": 0.5, "mml/I": 0.5, "accuracy/V": 0.25}


def watch(tmp_path, log_every, total=10):
    file = MetricsFile(tmp_path / "metrics.jsonl", 0)
    return file, Watch(file, 0, total, log_every, lambda step: 0.1 * step, progress=False)


def arrays(**changes):
    return {name: jnp.float32(value) for name, value in (GOOD | changes).items()}


@pytest.mark.parametrize("log_every", [1, 3, 4])
def test_the_first_the_last_and_every_nth_step_are_written_with_their_learning_rate(tmp_path, log_every):
    file, seen = watch(tmp_path, log_every)
    for step in range(1, 11):
        seen.add(step, arrays())
    seen.check()
    seen.close()
    file.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [s for s in range(1, 11) if s % log_every == 0 or s in (1, 10)]
    assert all(line["learning_rate"] == pytest.approx(0.1 * (line["step"] - 1)) for line in lines)


def test_the_step_and_the_term_that_are_not_finite_are_named_even_between_logged_steps(tmp_path):
    file, seen = watch(tmp_path, log_every=5)
    for step in range(1, 4):
        seen.add(step, arrays())
    seen.add(4, arrays(loss=float("nan"), mml=float("nan"), **{"mml/I": float("nan")}))
    seen.add(5, arrays(loss=float("nan")))
    with pytest.raises(BdfError, match=r"^step 4: mml/I = nan; training stops"):
        seen.check()
    seen.close()
    file.close()
