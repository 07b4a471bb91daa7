"""The schema: what it accepts, what it refuses, and what it says then."""

import dataclasses
import json
from pathlib import Path

import pytest

from bdf_jax.config import Config, editable, field_names, from_dict, to_dict, vary
from bdf_jax.errors import BdfError

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.smoke


def test_a_configuration_survives_json_and_the_command_lines_form():
    config = vary(Config(), {"data.image_size": (64, 32), "optimiser.milestones": (1.0, 2.0, 3.0)})
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config
    assert from_dict(editable(config)) == config


def test_every_field_is_named_once():
    names = field_names()
    assert len(names) == len(set(names))
    assert {"data.root", "data.dir", "model.pretrained", "training.steps", "training.seed", "data.world.seed"} <= set(
        names
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimiser.learning_rat": 1.0}, "no field 'optimiser.learning_rat'; nearest: optimiser.learning_rate"),
        ({"optimiser.lr": 1.0}, "nearest: optimiser.learning_rate"),
        ({"learning_rate": 1.0}, "nearest: optimiser.learning_rate"),
        ({"zzz.qqq": 1.0}, "the sections are data, augment, model"),
        ({"model.arch": "resnet5"}, "found 'resnet5'; did you mean 'resnet50'"),
        ({"training.steps": 2.5}, "training.steps: expected int, found float 2.5"),
        ({"training.steps": True}, "training.steps: expected int, found bool True"),
        ({"training.seed": -1}, "training.seed: expected 0 to"),
        ({"optimiser.learning_rate": "fast"}, "optimiser.learning_rate: expected float, found str 'fast'"),
        ({"optimiser.learning_rate": float("nan")}, "expected a finite number"),
        ({"optimiser.learning_rate": 0.0}, "expected more than 0"),
        ({"optimiser.milestones": (70.0, 40.0)}, "expected increasing epochs"),
        ({"data.image_size": (64,)}, "expected 2 values"),
        ({"data.identities": 1}, "data.identities: expected at least 2, found 1"),
        ({"data.trial": 11}, "data.trial: expected 1 to 10, found 11"),
        ({"model.split_at": 6}, "model.split_at: expected 0 to 5"),
        ({"augment.erase_area": (0.5, 0.1)}, "augment.erase_area"),
        ({"model.generator.hidden": 8}, "defined for 1 hidden channel"),
        ({"training.validate_every": 10}, "validation needs identities that are not trained on"),
        ({"evaluation.use": "sum4", "model.generator.derivatives": "none"}, "needs the derivatives of both bases"),
        ({"data.world.train_ids": 4, "data.world.test_ids": 1}, "needs at least 2"),
    ],
)
def test_what_cannot_be_is_refused_with_the_field_and_what_was_found(changes, message):
    with pytest.raises(BdfError, match=message.replace("(", r"\(")):
        vary(Config(), changes)


def test_a_section_that_is_no_section_is_refused():
    with pytest.raises(BdfError, match="model: expected a section of fields, found 3"):
        from_dict({"model": 3})


def test_numbers_may_be_whole_where_a_fraction_is_meant():
    assert vary(Config(), {"optimiser.learning_rate": 1, "training.epochs": 3}).training.epochs == 3.0


def test_the_shipped_experiments_fit_the_schema_and_differ_as_their_names_say(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT))
    import importlib

    load = {
        path.stem: from_dict(importlib.import_module(f"configs.{path.stem}").get_config())
        for path in sorted(ROOT.glob("configs/[a-z]*.py"))
    }
    assert set(load) == {"demo", "sysu_mm01", "sysu_mm01_agw", "regdb", *(f"ablation_{row}" for row in "abcdef")}
    assert load["sysu_mm01"] == vary(Config(), {"data.workers": 4})  # the defaults are its recipe
    assert load["ablation_f"] == load["demo"]
    assert load["regdb"].data.dataset == "regdb"
    table = {
        row: (c.model.generator.derivatives, c.loss.mml_modes, c.loss.mdl_pairs)
        for row, c in ((row, load[f"ablation_{row}"]) for row in "abcdef")
    }
    assert table == {
        "a": ("none", "base", "bi"),
        "b": ("visible", "base", "bridge"),
        "c": ("both", "base", "bi"),
        "d": ("both", "all", "bi"),
        "e": ("both", "base", "bridge"),
        "f": ("both", "all", "bridge"),
    }
    # A row differs from the full method in these fields alone, on any base.
    for row in "abcde":
        full = vary(load[f"ablation_{row}"], {"loss.mml_modes": "all", "loss.mdl_pairs": "bridge",
                                              "model.generator.derivatives": "both"})  # fmt: skip
        assert full == load["demo"]
        other = from_dict(importlib.import_module(f"configs.ablation_{row}").get_config("sysu_mm01"))
        assert dataclasses.replace(other, loss=Config().loss, model=Config().model) == load["sysu_mm01"]
