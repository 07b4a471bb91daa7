"""XLA for CPU makes some sums wrong; what may hold one is computed with the flag that avoids it, or says so."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import small

from bdf_jax.losses.terms import Loss
from bdf_jax.xla import AVOID, FLAG, at_risk, avoid_wrong_sums

ROOT = Path(__file__).parents[1]
SUM = """
A = np.random.default_rng(0).normal(size=(8, 16, 16, 3)).astype(np.float32)
found = float(jax.jit(lambda A, s: (A @ jnp.full((3, 8), s)).sum())(A, 0.3))
print(abs(found - A.astype(float).sum() * 2.4) < 1e-3)
"""


@dataclasses.dataclass(frozen=True)
class Own(Loss):
    """A loss of a user's file."""


def python(code, **environ):
    clean = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-c", "import os, jax, numpy as np, jax.numpy as jnp\n" + code],
        env={**clean, "JAX_PLATFORMS": "cpu", **environ}, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.smoke
def test_a_sum_over_a_product_with_a_constant_is_right():
    assert python("import bdf_jax.xla\nbdf_jax.xla.avoid_wrong_sums()" + SUM).stdout == "True\n"


def test_a_backend_that_started_before_is_told_of():
    """Where the flag comes too late, training says so, or the sums are right anyway."""
    late = python("jax.devices()\nimport bdf_jax.xla\nbdf_jax.xla.avoid_wrong_sums()\nbdf_jax.xla.check_sums()" + SUM)
    assert ("computes some sums wrongly" in late.stderr) != (late.stdout == "True\n")
    assert late.stdout == "True\n" or f"XLA_FLAGS={AVOID}" in late.stderr


def test_critics_and_parts_of_a_users_own_are_at_risk():
    assert at_risk(small.tiny_method("cmgan"))
    assert not at_risk(small.tiny_method("base_derivative"))
    assert at_risk(small.tiny_method(replaces={"losses.own": Own()}))


def test_flags_of_the_user_stay():
    environ = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    avoid_wrong_sums(environ)
    assert environ["XLA_FLAGS"].split()[0] == "--xla_force_host_platform_device_count=2"
    for own in (f"{FLAG}=dot", "/etc/xla-flags"):
        environ = {"XLA_FLAGS": own}
        assert not avoid_wrong_sums(environ)
        assert environ["XLA_FLAGS"] == own


@pytest.mark.parametrize(
    ("version", "needed"), [("0.10.1", False), ("0.10.2", True), ("0.12.0.1", True), ("0.13", False)]
)
def test_the_flag_is_set_where_it_is_needed(monkeypatch, version, needed):
    monkeypatch.setattr("importlib.metadata.version", lambda name: version)
    environ = {}
    avoid_wrong_sums(environ)
    assert environ == ({"XLA_FLAGS": AVOID} if needed else {})
