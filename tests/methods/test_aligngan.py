"""AlignGAN: critics that see an image beside a map, what is watched, stages, and translation at the test."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from PIL import Image
from scopes import normal, parameters

import bdf_jax
from bdf_jax.checkpoints import load_state
from bdf_jax.config import DataConfig, TrainingConfig, WorldConfig, vary
from bdf_jax.errors import BdfError
from bdf_jax.evaluation.features import make_embed
from bdf_jax.losses.conditional import FoolsBeside, TellsBeside
from bdf_jax.losses.terms import Scope
from bdf_jax.losses.watching import Likeness, Verdicts, share_beside
from bdf_jax.method import experiment, find
from bdf_jax.models import Network, initial_variables
from bdf_jax.models.network import derive
from bdf_jax.pixels import MEAN, STD, denormalise, normalise
from bdf_jax.training.analysis import kept_for_the_gradient
from bdf_jax.training.loop import run
from bdf_jax.training.preemption import Preempted
from bdf_jax.training.stages import divided, phases
from bdf_jax.training.state import initial_state

P, K = 3, 2
CODES = {("", "I"): normal(P * K, 2, 2, 3), ("", "F"): normal(P * K, 2, 2, 3, seed=1)}
CODES |= {("map", "I"): normal(P * K, 1, 1, 4, seed=2), ("map", "F"): normal(P * K, 1, 1, 4, seed=3)}


def said(name, image, beside):
    """A critic whose score hangs on both."""
    return (image.mean((1, 2, 3)) * beside.sum((1, 2, 3)) + image[:, 0, 0, 0])[:, None]


def scope(codes=CODES, critic=said, first=0, rows=P * K):
    codes = {key: jnp.asarray(value) for key, value in codes.items()}
    local = {key: value[first : first + rows] for key, value in codes.items()}
    whole = {value.tobytes(): codes[key] for key, value in ((k, np.asarray(v)) for k, v in local.items())}
    return seen(local, rows, gather=lambda x: whole.get(np.asarray(x).tobytes(), x), critic=critic, first=first)


def traced(codes):
    """Of one device and arrays that may have no value yet."""
    return seen(codes, P * K, gather=lambda x: x, critic=said)


def seen(codes, rows, **how):
    outputs = {"views": ("F", "I"), "codes": codes}
    return Scope(outputs, jnp.zeros(rows, int), shape=(P, K), bases=(0, 1), **how)


def test_the_critic_tells_one_right_pair_from_four_wrong_ones():
    def score(n, image, m, beside):
        return float(said("", CODES["", image][n : n + 1], CODES["map", beside][m : m + 1])[0, 0])

    right = wrong = 0.0
    for n in range(P * K):
        right += (score(n, "I", n, "I") - 1) ** 2 / (P * K)
        before = (n - K) % (P * K)  # of the identity before
        pairs = [("I", before, "I"), ("I", n, "F"), ("F", n, "I"), ("F", n, "F")]
        wrong += sum(score(i, image, n, beside) ** 2 for image, i, beside in pairs) / 4 / (P * K)
    assert TellsBeside("infrared", "I", "F")(scope())[""] == pytest.approx(right + wrong, rel=1e-5)


def test_two_devices_see_the_wrong_pairs_of_one():
    loss = TellsBeside("infrared", "I", "F")
    halves = [float(loss(scope(first=first, rows=3))[""]) for first in (0, 3)]
    assert np.mean(halves) == pytest.approx(float(loss(scope())[""]), rel=1e-5)


@pytest.mark.parametrize("moves", ["image", "map"])
def test_only_what_is_to_move_has_a_gradient(moves):
    def value(codes):
        return FoolsBeside("infrared", "F", "I", moves=moves)(traced(codes))[""]

    codes = {key: jnp.asarray(CODES[key]) for key in (("", "F"), ("map", "I"))}
    moved = {code for (code, _), slope in jax.grad(value)(codes).items() if np.any(slope)}
    assert moved == ({""} if moves == "image" else {"map"})
    expected = np.mean([(float(s) - 1) ** 2 for s in said("", CODES["", "F"], CODES["map", "I"])[:, 0]])
    assert value(codes) == pytest.approx(expected, rel=1e-5)


def test_nothing_but_the_critic_learns_from_its_verdicts():
    def value(codes):
        return TellsBeside("infrared", "I", "F")(traced(codes))[""]

    slopes = jax.grad(value)({key: jnp.asarray(array) for key, array in CODES.items()})
    assert not any(np.any(slope) for slope in slopes.values())


def test_made_images_are_compared_with_real_ones():
    levels = {"F": normal(4, 2, 2, 3), "I": normal(4, 2, 2, 3, seed=1), "V": normal(4, 2, 2, 3, seed=2)}
    levels = {view: 128 + 20 * array for view, array in levels.items()}
    pixels = {("", view): (array / 255 - MEAN) / STD for view, array in levels.items()}
    found = Likeness("F", "I", "V")(scope(pixels))
    for view in ("F", "I"):
        values = [float(v) for v in levels[view].ravel()]
        mean = sum(values) / len(values)
        assert found[f"{view}_mean"] == pytest.approx(mean, rel=1e-4)
        spread = (sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5
        assert found[f"{view}_spread"] == pytest.approx(spread, rel=1e-3)
    near = 0
    for made in levels["F"]:
        distances = {view: min(float(((made - real) ** 2).sum()) for real in levels[view]) for view in "IV"}
        near += distances["I"] < distances["V"]
    assert found["F_near"] == near / 4
    assert share_beside(levels["I"], levels["I"], levels["V"]) == 1
    assert share_beside(levels["V"], levels["I"], levels["V"]) == 0


def test_verdicts_are_the_share_that_is_judged_rightly():
    verdict = Verdicts("infrared=I/I:F/I")
    real, made = (said("", CODES["", view], CODES["map", "I"])[:, 0] for view in ("I", "F"))
    expected = (sum(float(s) > 0.5 for s in real) + sum(float(s) < 0.5 for s in made)) / (2 * P * K)
    assert verdict(scope())["infrared"] == pytest.approx(expected)


def test_a_critic_beside_a_map_is_asked_about_both():
    config = small.tiny_method("aligngan")
    with pytest.raises(BdfError, match=r"I/I:F/I"):
        vary(config, {"losses.verdicts.critics": "infrared=I:F"})
    with pytest.raises(BdfError, match=r"losses\.tell_I"):
        vary(config, {"losses.tell_I.critic": "visible"})
    with pytest.raises(BdfError, match=r"losses\.tell_I"):  # V does not enter the trunk: it has no map
        vary(config, {"losses.tell_I.real": "V"})
    with pytest.raises(BdfError, match=r"losses\.ce_I"):  # nor does F in the first stage
        vary(config, {"losses.ce_I.views": ("F",)})


def test_its_size_is_that_of_the_authors_networks():
    embedder, trunk = 1_151_115, 23_508_032
    assert parameters("aligngan") == embedder + trunk + 2 * 6_053_504 + 3 * 11_155_392 + 11_810_816


def test_a_visible_image_is_translated_before_it_is_compared():
    config = small.tiny_method("aligngan")
    network = Network.of(config, 5)
    variables = initial_variables(network, 0, (32, 16))
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 16, 3), dtype=np.uint8)
    made = derive(network, variables, {"V": normalise(jnp.asarray(images))}, ("F",))["F"]
    seen = network.apply(variables, {"I": made}, train=False, views=("I",))["pooled"][:, 0, 0]
    plain = vary(config, {"retrieve.flip_tta": False}).retrieve
    found = make_embed(network, plain)(variables, images, 0)
    np.testing.assert_allclose(found, seen / np.linalg.norm(seen, axis=1, keepdims=True), atol=1e-5)
    assert denormalise(made).shape == images.shape


def tiny_run(data_dir):
    return small.tiny_method(
        "aligngan",
        replaces={"data.identities": 3, "data.images": 2},
        data=DataConfig(dir=str(data_dir), world=WorldConfig(train_ids=6, test_ids=3, images=2, size=(32, 16))),
        training=TrainingConfig(steps=6, log_every=1, checkpoint_every=1, tensorboard=False),
    )


def test_what_is_computed_again_is_not_kept_and_moves_the_same_statistics():
    """At the published size, 9.5 GB instead of 92: it fits a GPU of 16 GB."""
    published = experiment("aligngan", "sysu_mm01", data=DataConfig())
    assert kept_for_the_gradient(vary(published, {"network.remat": "block"}), 395) < 12e9
    config = small.tiny_method("aligngan")
    variables = initial_variables(Network.of(config, 5), 0, (32, 16))
    images = {"V": normal(2, 32, 16, 3), "I": normal(2, 32, 16, 3, seed=1)}
    wanted = (("", "F"), ("", "cyc_I"))

    def after(remat):
        network = Network.of(vary(config, {"network.remat": remat}), 5)

        @jax.jit
        def found(variables, images):
            outputs, moved = network.apply(variables, images, train=True, mutable=["batch_stats"], wanted=wanted)
            return outputs["codes"], moved["batch_stats"]

        return found(variables, images)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), after("none"), after("block"))


@pytest.mark.long
def test_what_a_stage_does_not_train_stays_and_a_killed_run_goes_on_in_every_stage(tmp_path, monkeypatch):
    config = tiny_run(tmp_path / "data")
    assert [phase.stop for phase in phases(config, 6)] == [1, 4, 6]
    run(config, tmp_path / "whole")
    at = {0: divided(initial_state(Network.of(config, 6), config).params, config)}
    for step in (1, 2, 5):  # the last step of the first stage, and one in the midst of each other
        with monkeypatch.context() as patch:
            patch.setattr("bdf_jax.distributed.Termination.reached", lambda self, now, step=step: now == step)
            with pytest.raises(Preempted):
                run(config, tmp_path / "cut")
        at[step] = divided(load_state(tmp_path / "cut")[1]["params"], config)

    def moved(before, after):
        leaves = (jax.tree.leaves(jax.device_get((before[group], after[group]))) for group in before)
        halves = ((both[: len(both) // 2], both[len(both) // 2 :]) for both in leaves)
        return {g for g, (a, b) in zip(before, halves, strict=True) if any(map(np.any, map(np.not_equal, a, b)))}

    assert moved(at[0], at[1]) == {"main"}
    assert moved(at[1], at[2]) == {"translators", "warm_critics"}
    assert moved(at[2], at[5]) == {"main", "translators", "warm_critics", "critics"}  # two steps of the second stage
    run(config, tmp_path / "cut")
    one, other = load_state(tmp_path / "whole")[1], load_state(tmp_path / "cut")[1]
    jax.tree.map(np.testing.assert_array_equal, one, other)
    for name in ("features", "pixels", "joint"):
        pictures = [np.asarray(Image.open(tmp_path / folder / f"views-{name}.png")) for folder in ("whole", "cut")]
        np.testing.assert_array_equal(*pictures)
    assert pictures[0].shape[0] == 8 * (32 + 2) - 2  # V, F, and so on, at the size of training
    logged = json.loads((tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()[-1])
    assert 0 <= logged["looks/F_near"] <= 1
    assert 0 <= logged["verdicts/infrared"] <= 1
    model = bdf_jax.load(tmp_path / "whole")
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 16, 3), dtype=np.uint8)
    assert model.derive(images, "visible").shape == images.shape


def test_each_group_has_its_own_optimiser_and_falls_in_its_own_time():
    """An optimiser counts the steps in which its group learns; all rates fall in the middle of the last stage."""
    method = find("aligngan")
    share = method.epochs / 251
    before = {"main": 50, "translators": 100, "warm_critics": 100, "critics": 0}
    for name, steps in before.items():
        part = method.optimiser if name == "main" else method.groups[name].optimiser
        assert part.milestones == (pytest.approx((steps + 50) * share, abs=0.05),)
