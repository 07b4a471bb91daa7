"""Flags of `evaluate` that do not go with what is evaluated are refused, not passed over."""

import pytest

from bdf_jax.__main__ import main


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--workdir=runs/demo", "--compare=theirs.npz"], "--compare: goes with --features="),
        (["--features=a.npz", "--dataset=llcm", "--use=concat"], "--use: goes with --workdir="),
        (["--features=a.npz", "--dataset=llcm", "--no-flip-tta"], "--flip-tta: goes with --workdir="),
        (["--features=a.npz", "--dataset=llcm", "--step=3"], "--step: goes with --workdir="),
        ([], "give either --workdir=DIR, or --features=FILE.npz"),
    ],
)
def test_a_flag_of_the_other_kind_is_named(capsys, flags, message):
    assert main(["evaluate", *flags]) == 1
    assert message in capsys.readouterr().err
