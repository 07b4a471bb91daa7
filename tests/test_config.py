"""The configuration: what it accepts, what it refuses, and what it says then; its form as dictionaries and words."""

import dataclasses
import json
from pathlib import Path

import pytest
import small

from bdf_jax.commands.configuration import read_config, shipped
from bdf_jax.config import RENAMED, Config, from_dict, to_dict, vary
from bdf_jax.errors import BdfError
from bdf_jax.losses.terms import Identity, Triplet, WeightedTriplet
from bdf_jax.method import find, registry
from bdf_jax.methods.ablation import ROWS
from bdf_jax.models.trunk import ResNet
from bdf_jax.parts import Named, leaves
from bdf_jax.training.optimiser import SGD, Adam

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.smoke
FULL = small.tiny_method()


@pytest.mark.parametrize("method", registry())
def test_a_configuration_survives_json_with_the_order_of_its_parts(method):
    config = vary(small.tiny_method(method), {"data.image_size": (64, 32), "optimiser.milestones": (1.0, 2.0, 3.0)})
    again = from_dict(json.loads(json.dumps(to_dict(config))))
    assert again == config
    assert list(again.losses) == list(config.losses)
    assert hash(again.losses) == hash(config.losses)


def test_parts_in_another_order_are_another_value():
    a, b = Identity(), Identity(smoothing=0.1)
    assert Named(x=a, y=b) != Named(y=b, x=a)


def test_every_field_can_be_set_by_its_name():
    """With the value that it has, as it would be typed."""
    config = small.tiny_method("cmgan")
    for path, value in leaves(config).items():
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        assert vary(config, {path: text}, texts=True) == config, path


def test_old_names_say_the_new_ones():
    for old, new in RENAMED.items():
        with pytest.raises(BdfError, match=f"no field '{old}' any more; it is") as error:
            vary(FULL, {old: "1"}, texts=True)
        assert new in str(error.value)
        assert new.split(" ")[0] in leaves(small.tiny_method()) or new.split(" ")[0].split(".")[0] in vars(FULL)


@pytest.mark.parametrize("name", ["dataset", "root", "dir", "workers"])
def test_the_names_of_the_data_are_what_they_were(name):
    assert f"data.{name}" in leaves(FULL)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimiser.learning_rat": 1.0}, "no field 'optimiser.learning_rat'; nearest: optimiser.learning_rate"),
        ({"optimiser.lr": 1.0}, "nearest: optimiser.learning_rate"),
        ({"learning_rate": 1.0}, "nearest: optimiser.learning_rate"),
        ({"losses.mdl.wieght": 1.0}, "no field 'losses.mdl.wieght'; nearest: losses.mdl.weight"),
        ({"losses.nothing.weight": 1.0}, "no field 'losses.nothing.weight'; nearest: losses"),
        ({"zzz.qqq": 1.0}, "the sections are method, data, augment, views"),
        ({"network.trunk.depth": 51}, "network.trunk.depth: expected one of 18, 34, 50, found 51"),
        ({"network.trunk.kind": "ResNt"}, "found 'ResNt'; nearest: ResNet"),
        ({"training.steps": 2.5}, "training.steps: expected int, found float 2.5"),
        ({"training.steps": True}, "training.steps: expected int, found bool True"),
        ({"training.seed": -1}, "training.seed: expected 0 to"),
        ({"optimiser.learning_rate": "fast"}, "optimiser.learning_rate: expected float, found str 'fast'"),
        ({"optimiser.learning_rate": float("nan")}, "expected a finite number"),
        ({"optimiser.learning_rate": 0.0}, "expected more than 0"),
        ({"optimiser.milestones": (70.0, 40.0)}, "expected increasing epochs"),
        ({"data.image_size": (64,)}, "expected 2 values"),
        ({"data.identities": 1}, "data.identities: expected at least 2, found 1"),
        (
            {"data.images": 1},
            "losses.mml.edges: V>V needs a second image of an identity as positive, but data.images is 1",
        ),
        ({"data.trial": 11}, "data.trial: expected 1 to 10, found 11"),
        ({"network.split_at": 6}, "network.split_at: expected 0 to 5"),
        ({"augment.erase_area": (0.5, 0.1)}, "augment.erase_area"),
        ({"views.Dv.by.hidden": 8}, "defined for 1 hidden channel"),
        ({"views.Dv.of": "X"}, "views: there is no view 'X'; there are V, I, Dv, Di"),
        ({"views.Dv.of": "Dv"}, "Dv of Dv: no view can be made of itself"),
        ({"views.Dv": None}, "losses.mml.edges: there is no 'Dv'; there are V, I, Di"),
        ({"losses.mdl.edges": "V-I"}, r"losses.mdl.edges: expected edges such as V>I, V<>I or V\+I>V\+I, found 'V-I'"),
        ({"losses.mdl.edges": ""}, "losses.mdl.edges: expected at least one edge"),
        ({"losses.did.head": "classifer"}, "there is no 'classifer'; there are classifier; nearest: classifier"),
        ({"losses.mdl.trains": ("critics",)}, r"losses.mdl.trains: there is no 'critics'; there are main, \*"),
        ({"losses.mml.negatives": "both"}, "losses.mml.negatives: 'both' needs level=center"),
        ({"training.validate_every": 10}, "validation needs identities that are not trained on"),
        ({"data.world.train_ids": 4, "data.world.test_ids": 1}, "needs at least 2"),
    ],
)
def test_what_cannot_be_is_refused_with_the_field_and_what_was_found(changes, message):
    config = vary(FULL, {"network.trunk": ResNet(50)})
    with pytest.raises(BdfError, match=message.replace("(", r"\(")):
        vary(config, changes)


def test_a_second_view_is_needed_for_what_compares_two():
    with pytest.raises(BdfError, match=r"retrieve.use: 'sum4' needs a second view of both bases, but visible and inf"):
        vary(small.tiny_method("ablation_a"), {"retrieve.use": "sum4"})


def test_a_section_that_is_no_section_is_refused():
    with pytest.raises(BdfError, match="network: expected a section of fields, found 3"):
        from_dict({"network": 3})


def test_a_configuration_of_the_first_version_is_named():
    with pytest.raises(BdfError, match=r"version 0.1 of bdf_jax.*use that version, or train anew"):
        from_dict({"model": {"arch": "tiny"}, "loss": {"mdl_weight": 0.1}})


def test_numbers_may_be_whole_where_a_fraction_is_meant():
    assert vary(FULL, {"optimiser.learning_rate": 1, "training.epochs": 3}).training.epochs == 3.0


def test_words_of_the_command_line_become_values():
    words = {
        "data.image_size": "(64, 32)",
        "optimiser.milestones": "40",
        "training.tensorboard": "False",
        "losses.mdl.trains": "main",
        "losses.mml": "none",
        "network.trunk.kind": "ResNet",
        "network.trunk.depth": "18",
        "optimiser.scales.trunk": "0.1",
    }
    config = vary(FULL, words, texts=True)
    assert config.data.image_size == (64, 32)
    assert config.optimiser == dataclasses.replace(FULL.optimiser, milestones=(40.0,), scales=Named(trunk=0.1))
    assert not config.training.tensorboard
    assert list(config.losses) == ["did", "mdl"]
    assert config.network.trunk == ResNet(18)


def test_another_kind_keeps_what_its_family_declares_and_a_new_name_adds_a_part():
    config = vary(
        FULL,
        {
            "optimiser.kind": "SGD",
            "losses.wrt.kind": "WeightedTriplet",
            "losses.wrt.edges": "V+I>V+I",
            "losses.mdl.kind": "WeightedTriplet",
            "losses.mdl.edges": "V<>I",
        },
        texts=True,
    )
    assert isinstance(FULL.optimiser, Adam)
    assert config.optimiser == SGD(FULL.optimiser.learning_rate, milestones=FULL.optimiser.milestones)
    assert config.losses["wrt"] == WeightedTriplet("V+I>V+I")
    assert config.losses["mdl"] == WeightedTriplet("V<>I", weight=0.1)
    assert list(config.losses) == ["did", "mml", "mdl", "wrt"]
    with pytest.raises(BdfError, match=r"losses.mdl: WeightedTriplet needs edges; give --config.losses.mdl.edges"):
        vary(FULL, {"losses.mdl.kind": "WeightedTriplet"})


def test_the_shipped_experiments_take_every_method():
    assert list(shipped()) == ["demo", "llcm", "regdb", "sysu_mm01"]
    for name, path in shipped().items():
        assert read_config(name, []) == read_config(str(path), []) == read_config(f"{name}:base_derivative", [])
        for method in registry():
            config = read_config(f"{path}:{method}", [])
            assert config.method == method
            assert config.data.dataset == ("sysu_mm01" if name == "demo" else name)
    assert read_config("sysu_mm01:agw", []).data.image_size == (288, 144)


def test_a_wrong_name_lists_the_near_ones():
    with pytest.raises(BdfError, match="no method 'xvi'; nearest: xiv"):
        read_config("demo:xvi", [])
    with pytest.raises(BdfError, match=r"--config=dmeo: no such file; did you mean demo\?"):
        read_config("dmeo", [])


def test_the_rows_of_the_ablation_differ_as_their_names_say():
    table = {
        letter: (tuple(method.views), *(method.losses[name].edges for name in ("mml", "mdl")))
        for letter in ROWS
        for method in [find(f"ablation_{letter}")]
    }
    base, all_four, bridge = "V>V I>I", "V>V I>I Dv>Dv Di>Di", "V<>I V<>Di Dv<>I Dv<>Di"
    assert table == {
        "a": ((), base, "V<>I"),
        "b": (("Dv",), base, "V<>I Dv<>I"),
        "c": (("Dv", "Di"), base, "V<>I"),
        "d": (("Dv", "Di"), all_four, "V<>I"),
        "e": (("Dv", "Di"), base, bridge),
        "f": (("Dv", "Di"), all_four, bridge),
    }
    assert find("ablation_f") == find("base_derivative")
    full = find("base_derivative")
    for letter in ROWS:  # and in nothing else
        other = find(f"ablation_{letter}")
        assert dataclasses.replace(other, views=full.views, losses=full.losses) == full


def test_the_full_method_is_the_papers():
    losses = find("base_derivative").losses
    assert losses["did"] == Identity(smoothing=0.1)
    assert losses["mml"] == Triplet("V>V I>I Dv>Dv Di>Di", margin=0.3)
    assert len(losses["mdl"].pairs()) == 8
    assert Config().views == Named()
