"""Checkpoints that authors published become networks here: every array from its tensor, or one error that says all."""

import jax
import numpy as np
import plain_networks
import published_files
import pytest
import torch_writer as write
from flax import traverse_util

import bdf_jax
from bdf_jax.__main__ import main
from bdf_jax.checkpoints import load_metadata
from bdf_jax.commands.convert import grouped
from bdf_jax.errors import BdfError
from bdf_jax.models.network import Network, NetworkConfig
from bdf_jax.models.starting import start_from
from bdf_jax.models.trunk import ResNet
from bdf_jax.pixels import normalise
from bdf_jax.published import convert, recognised

SIZE = (32, 16)
FAMILIES = {  # family: (method, data set, unused tensors beside counters)
    "agw": ("agw", "sysu_mm01", 525),
    "agw_base": ("agw_base", "sysu_mm01", 525),
    "mmn": ("mmn", "sysu_mm01", 525),
    "deen": ("deen", "sysu_mm01", 525),
    "deen_short": ("deen", "regdb", 575),
    "hctri": ("hctri", "sysu_mm01", 0),
    "hc": ("hc", "sysu_mm01", 4),
    "dns": ("dns", "sysu_mm01", 410),
}


def refusal(path, **how) -> str:
    with pytest.raises(BdfError) as refused:
        convert(path, **how)
    message = str(refused.value)
    assert message.startswith(f"{path}: ")
    return message


def few(path, names, **beside):
    """A file with small tensors of some names."""
    state, storages = write.state({name: np.ones(2, np.float32) for name in names})
    return write.write_zip(path, write.dictionary({"net": state, **beside}) if beside else state, storages)


@pytest.fixture(scope="session")
def base_file(tmp_path_factory):
    """AGW's baseline: three ResNet-50s, a neck and a classifier, from before counters and zip archives."""
    state = {k: v for k, v in published_files.saved("agw_base").items() if not k.endswith("num_batches_tracked")}
    path = tmp_path_factory.mktemp("published") / "base.t"
    return write.write_legacy(path, *published_files.published(state, "numpy.core"))


@pytest.mark.long
@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_is_taken_or_an_unused_copy(tmp_path, family):
    state, (method, dataset, unused) = published_files.saved(family), FAMILIES[family]
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
    found = convert(write.write_zip(tmp_path / "model.t", *published_files.published(wrapped)))
    assert found.metadata.config.method == method
    assert found.metadata.config.data.dataset == dataset
    assert found.metadata.num_classes == published_files.CLASSES
    assert found.metadata.converted.startswith("model.t (sha256 ")
    counters = [name for name in found.ignored if name.endswith(".num_batches_tracked")]
    assert len(found.ignored) - len(counters) == unused
    assert found.anew == []
    # The same numbers in another order: each array has the length and the sum of a tensor that was taken.
    taken = [tensor for name, tensor in wrapped.items() if name not in found.ignored]
    arrays = traverse_util.flatten_dict(found.variables).values()
    assert sorted(tensor.size for tensor in taken) == sorted(array.size for array in arrays)
    sums = [sorted(float(np.square(x, dtype=np.float64).sum()) for x in tensors) for tensors in (taken, arrays)]
    np.testing.assert_allclose(*sums, rtol=1e-6)


@pytest.mark.long
def test_parts_of_the_training_may_be_missing_as_a_whole(tmp_path):
    state = {k: v for k, v in published_files.saved("dns").items() if not k.startswith("CSS.")}
    path = write.write_zip(tmp_path / "dns.pth", *write.state(state))
    found = convert(path, changes={"data.image_size": SIZE})
    assert found.anew == ["auxiliary_css"]
    assert np.isfinite(found.variables["params"]["auxiliary_css"]["wide"]["kernel"]).all()
    del state["DD.infrared_classifier_.weight"]
    assert "missing: nothing for auxiliary_dd (copy_infrared)" in refusal(
        write.write_zip(tmp_path / "dns.pth", *write.state(state))
    )


def test_the_features_are_those_of_the_networks_in_the_file(base_file):
    """Stem of the base, shared layers, mean, neck: in plain NumPy, straight from the state dictionary."""
    found = convert(base_file, changes={"data.image_size": (64, 32)})
    network = Network.of(found.metadata.config, found.metadata.num_classes)
    images_NHWC = np.random.default_rng(0).normal(size=(1, 64, 32, 3)).astype(np.float32)
    state = published_files.saved("agw_base")
    copy = {
        name.removeprefix(prefix): tensor
        for prefix, starts in (("thermal_module.thermal.", ("conv1", "bn1")), ("base_resnet.base.", ("layer",)))
        for name, tensor in state.items()
        if name.startswith(tuple(prefix + start for start in starts))
    }
    pooled = plain_networks.resnet(copy, "resnet50", images_NHWC.transpose(0, 3, 1, 2).astype(np.float64))
    weight, bias, mean, var = (
        state[f"bottleneck.{leaf}"] for leaf in ("weight", "bias", "running_mean", "running_var")
    )
    embedding = (pooled - mean) / np.sqrt(var + 1e-5) * weight + bias
    run = jax.jit(lambda variables, x: network.apply(variables, {"I": x}, train=False, views=("I",))["logits"])
    logits = np.asarray(run(found.variables, images_NHWC)["classifier"])[:, 0, 0]
    np.testing.assert_allclose(logits, embedding @ state["classifier.weight"].T, atol=1e-4)


def test_everything_wrong_is_listed_at_once(tmp_path):
    state = dict(published_files.saved("agw_base"))
    for name in [name for name in state if name.startswith("base_resnet.base.layer3.2.")]:
        del state[name]
    state["visible_module.visible.conv1.weight"] = np.ones((64, 1, 7, 7), np.float32)
    state["bottleneck.running_var"] = np.full(2048, np.nan, np.float32)
    state["attention.weight"] = np.ones(3, np.float32)
    message = refusal(write.write_zip(tmp_path / "model.t", *write.state(state)))
    expected = [
        *(f"missing: nothing for layer3/block2_{part}{i} (" for part in ("bn", "conv") for i in (1, 2, 3)),
        "shape: visible_module.visible.conv1.weight is (64, 1, 7, 7), params/stem_visible/conv/kernel takes (64, 3,",
        "numbers: bottleneck.running_var has values that are not finite",
        "unexpected: attention.weight (3,)",
    ]
    for line in expected:
        assert f"\n  {line}" in message
    assert len(message.splitlines()) == len(expected) + 2
    assert "agw_base for sysu_mm01 with 7 identities" in message


@pytest.mark.parametrize(
    ("names", "how", "expected"),
    [
        (["NL_2.0.g.0.weight"], {"method": "mmn"}, "its tensors are those of agw or caj, not of mmn"),
        (
            ["module.mod_invar_enc.resnet_conv1.0.weight"],
            {},
            "a checkpoint of jsia, whose network lies in several files",
        ),
        (["module.resnet_conv.0.weight"], {}, "a checkpoint of aligngan, whose network lies in several files"),
        (["module.classifier0.bottle.0.weight"], {}, "a checkpoint of aligngan, whose network lies in several files"),
        (["blocks.0.attn.qkv.weight", "cls_token"], {}, "found tensors of no such network: blocks.0.attn.qkv.weight"),
        (["backbone.conv1.weight", "backbone.layer1.0.conv1.weight"], {}, "--config.network.pretrained="),
    ],
)
def test_files_of_something_else_are_called_so(tmp_path, names, how, expected):
    assert expected in refusal(few(tmp_path / "model.t", names), **how)


def test_an_optimiser_a_whole_module_and_a_program_are_refused(tmp_path):
    step = write.tensor("0", "FloatStorage", [1], [1], length=1)
    optimiser = write.dictionary({"state": b"}" + write.integer(0) + b"}" + write.text("buffer") + step + b"ss",
                                  "param_groups": b"]"})  # fmt: skip
    message = refusal(write.write_zip(tmp_path / "optimiser.t", optimiser, {"0": bytes(4)}))
    assert "the state of an optimiser alone; name the file of weights" in message
    module = write.named("model", "embed_net") + b")\x81}b"
    message = refusal(write.write_zip(tmp_path / "module.t", module, {}))
    assert "names 'model.embed_net'" in message
    assert "torch.save(model.state_dict(), FILE)" in message
    ran = tmp_path / "it_ran"
    program = write.named("posix", "system") + b"(" + write.text(f"touch {ran}") + b"tR"
    message = refusal(few(tmp_path / "hostile.t", ["NL_2.0.g.0.weight"], cmc=program))
    assert "names 'posix.system'" in message
    assert not ran.exists()


@pytest.mark.long
def test_a_work_folder_like_that_of_a_training(tmp_path, base_file, capsys):
    out = tmp_path / "base"
    assert main(["convert", str(base_file), f"--out={out}", "--config.data.image_size=64,32"]) == 0
    printed = capsys.readouterr().out
    assert f"{base_file}: agw_base for sysu_mm01, 7 identities" in printed
    assert "\n  thermal_module.thermal.layer4: 50\n" in printed
    metadata = load_metadata(out)
    assert metadata.converted.startswith("base.t (sha256 ")
    assert metadata.config.data.image_size == (64, 32)

    model, image = bdf_jax.load(out), np.random.default_rng(0).integers(0, 256, (64, 32, 3), np.uint8)
    assert "base.t" in repr(model)
    feature = model.embed(image, modality="infrared")[0]
    network = Network.of(metadata.config, 7)
    found = convert(base_file, changes={"data.image_size": (64, 32)})
    run = jax.jit(lambda variables, x: network.apply(variables, {"I": x}, train=False, views=("I",))["embedding"])
    expected = np.asarray(run(found.variables, normalise(image[None])))[0, 0, 0]
    np.testing.assert_allclose(feature, expected / np.linalg.norm(expected), atol=1e-5)

    assert main(["convert", str(base_file), f"--out={out}", "--config.data.image_size=64,32"]) == 1
    assert "expected a new folder, found checkpoints" in capsys.readouterr().err
    assert main(["train", "--config=sysu_mm01:agw", f"--workdir={out}"]) == 1
    assert "holds a network converted from base.t" in capsys.readouterr().err


def test_it_is_a_start_for_training(base_file):
    """A classifier of other identities starts anew, and so do non-local blocks."""
    config = NetworkConfig(trunk=ResNet(50, non_local=(0, 1, 0, 0)), split_at=1)
    network = Network({}, config, 11)
    x = jax.ShapeDtypeStruct((1, *SIZE, 3), np.float32)
    shapes = jax.eval_shape(lambda x: network.init(jax.random.key(0), {"V": x, "I": x}, train=True), x)
    blank = jax.tree.map(lambda leaf: np.full(leaf.shape, 7.0, np.float32), dict(shapes))
    after, state = start_from(str(base_file), blank, config), published_files.saved("agw_base")
    assert float(after["params"]["classifier"]["kernel"].min()) == 7.0
    assert float(after["params"]["layer2"]["non_local3"]["g"]["kernel"].min()) == 7.0
    kernel = state["thermal_module.thermal.conv1.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(after["params"]["stem_infrared"]["conv"]["kernel"], kernel)
    np.testing.assert_array_equal(after["batch_stats"]["bnneck"]["mean"], state["bottleneck.running_mean"])
    with pytest.raises(BdfError, match="its trunk is another one"):
        start_from(str(base_file), {"params": {"stem": {"conv": {"kernel": np.ones(3)}}}}, config)


def test_the_family_is_known_behind_any_prefix_and_with_tensors_missing():
    for name, method in (
        ("DEE.FC23.weight", "deen"),
        ("module.model.MFA1.CNL.g.bias", "deen"),
        ("fc_list.5.bias", "hctri"),
        ("thermal_net.thermal.bn1.bias", "hc"),
        ("base.HSS4.conv_w.weight", "dns"),
        ("decode.bias", "mmn"),
        ("NL_3.2.phi.bias", "agw"),
        ("base_resnet.base.layer1.0.bn1.bias", "agw_base"),
    ):
        found = recognised([name])
        assert found is not None
        assert found[0].methods[0] == method
    assert recognised(["conv1.weight", "bn1.bias", "layer1.0.conv1.weight", "fc.bias"]) is None


def test_what_is_ignored_is_told_by_stages():
    names = ["a.layer1.0.conv1.weight", "a.layer1.1.bn2.bias", "a.conv1.weight", "a.bn1.num_batches_tracked", "x"]
    assert grouped(names) == [("a.layer1", 2), ("a.conv1", 1), ("num_batches_tracked", 1), ("x", 1)]
