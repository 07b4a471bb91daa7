"""Pretrained weights land where they belong, and what does not fit is one error that lists it all."""

import functools
import re
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import plain_networks
import pytest
import small
import torch_writer as write
from safetensors.numpy import save_file

from bdf_jax.errors import BdfError
from bdf_jax.models.heads import Pool
from bdf_jax.models.network import NetworkConfig
from bdf_jax.models.trunk import ResNet
from bdf_jax.models.weights import load_pretrained
from bdf_jax.parts import Named
from bdf_jax.views import Middle, View, ZeroPadding

MIDDLE = Named(Dv=View("V", Middle()), Di=View("I", Middle()))  # its normalisation is no business of the trunk's
ARCHS = ("resnet18", "resnet34", "resnet50", "mobilenet_v2")


def blank(config: NetworkConfig, value: float = 7.0) -> dict:
    """Variables of the network, all of the same value: what was not filled shows."""
    return jax.tree.map(lambda leaf: np.full(leaf.shape, value, leaf.dtype), shapes(config))


@functools.cache
def shapes(config: NetworkConfig) -> dict:
    network, images = small.base_derivative(config, 5, MIDDLE), dict.fromkeys("VI", jnp.zeros((1, 32, 32, 3)))
    return jax.eval_shape(lambda key: network.init(key, images, train=True), jax.random.key(0))


def features(config: NetworkConfig, variables: dict, images_NHWC: np.ndarray, base: int) -> np.ndarray:
    network, view = small.base_derivative(config, 5, MIDDLE), "VI"[base]

    @jax.jit
    def embed(variables, images):
        return network.apply(variables, {view: images}, train=False, views=(view,))["pooled"]

    return np.asarray(embed(variables, images_NHWC)[:, 0, 0])


def random_state(arch: str) -> dict[str, np.ndarray]:
    return dict(drawn(arch))


@functools.cache
def drawn(arch: str) -> dict[str, np.ndarray]:
    return plain_networks.random_mobilenet() if arch == "mobilenet_v2" else plain_networks.random_resnet(arch)


def plain_features(arch: str, state: dict[str, np.ndarray], images_NHWC: np.ndarray) -> np.ndarray:
    images_NCHW = images_NHWC.transpose(0, 3, 1, 2).astype(np.float64)
    if arch == "mobilenet_v2":
        return plain_networks.mobilenet(state, images_NCHW)
    return plain_networks.resnet(state, arch, images_NCHW)


def as_transformers(name: str) -> str:
    """A torchvision ResNet's tensor as the transformers library calls it."""
    module, _, leaf = name.rpartition(".")
    if module == "fc":
        return f"classifier.1.{leaf}"
    if module in ("conv1", "bn1"):
        return f"resnet.embedder.embedder.{'convolution' if module == 'conv1' else 'normalization'}.{leaf}"
    layer, block, rest = module.split(".", 2)
    where = f"resnet.encoder.stages.{int(layer[-1]) - 1}.layers.{block}"
    if rest.startswith("downsample"):
        return f"{where}.shortcut.{'convolution' if rest.endswith('0') else 'normalization'}.{leaf}"
    return f"{where}.layer.{int(rest[-1]) - 1}.{'convolution' if rest.startswith('conv') else 'normalization'}.{leaf}"


def as_flat(name: str) -> str:
    """A torchvision MobileNetV2's tensor in the first port's naming, which numbers the activations along."""
    match = re.fullmatch(r"features\.(\d+)\.conv\.([\d.]+)\.(\w+)", name)
    if match is None:
        return name
    number, position, leaf = match.groups()
    expanded = {"0.0": 0, "0.1": 1, "1.0": 3, "1.1": 4, "2": 6, "3": 7}
    plain = {"0.0": 0, "0.1": 1, "1": 3, "2": 4}
    return f"features.{number}.conv.{(plain if number == '1' else expanded)[position]}.{leaf}"


@pytest.mark.parametrize("arch", ARCHS)
def test_outputs_equal_a_plain_network(tmp_path, arch):
    state, config = random_state(arch), small.part(arch=arch)
    images_NHWC = np.random.default_rng(1).normal(size=(2, 64, 32, 3)).astype(np.float32)
    expected = plain_features(arch, state, images_NHWC)
    save_file(state, tmp_path / "model.safetensors")
    variables = load_pretrained(str(tmp_path / "model.safetensors"), blank(config), config)
    assert expected.std() > 0.05
    np.testing.assert_allclose(features(config, variables, images_NHWC, 0), expected, atol=1e-4)


def test_a_shorter_trunk_and_one_with_non_local_blocks_take_what_the_backbone_has(tmp_path):
    """No backbone comes with non-local blocks; they start as the identity, and stay as they were."""
    config, state = NetworkConfig(trunk=ResNet(18, non_local=(0, 1, 1, 0), layers=3)), random_state("resnet18")
    save_file(state, tmp_path / "model.safetensors")
    after = load_pretrained(str(tmp_path / "model.safetensors"), blank(config), config)["params"]
    conv2 = state["layer3.1.conv2.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(after["layer3"]["block1_conv2"]["kernel"], conv2)
    assert {float(leaf.min()) for leaf in jax.tree.leaves(after["layer3"]["non_local1"])} == {7.0}


@pytest.mark.parametrize("arch", ["resnet18", "mobilenet_v2"])
@pytest.mark.parametrize("split_at", [0, 1, 3, 5])
@pytest.mark.parametrize("bn", ["shared", "per_view"])
def test_every_branch_and_modality_gets_them(tmp_path, arch, split_at, bn):
    config = small.part(arch, split_at=split_at, bn=bn, pool=Pool("gem", learned=True))
    state = random_state(arch)
    path = write.write_zip(tmp_path / "weights.pth", *write.state(state))
    before = blank(config)
    after = load_pretrained(str(path), before, config)
    assert jax.tree.structure(after) == jax.tree.structure(before)

    stem = {"resnet18": ("conv1", "bn1"), "mobilenet_v2": ("features.0.0", "features.0.1")}[arch]
    names = ["stem"] if split_at == 0 else ["stem_visible", "stem_infrared"]
    rows = (4, 1) if bn == "per_view" else ()
    for name in names:
        np.testing.assert_array_equal(
            after["params"][name]["conv"]["kernel"], state[f"{stem[0]}.weight"].transpose(2, 3, 1, 0)
        )
        stats, params = after["batch_stats"][name]["bn"], after["params"][name]["bn"]
        for ours, theirs in (
            (stats["mean"], "running_mean"),
            (stats["var"], "running_var"),
            (params["scale"], "weight"),
            (params["bias"], "bias"),
        ):
            tensor = state[f"{stem[1]}.{theirs}"]
            np.testing.assert_array_equal(ours, np.tile(tensor, rows) if rows else tensor)

    def kept(path: tuple, leaf: jax.Array) -> None:
        backbone = path[1].key.startswith(("stem", "layer"))
        assert bool((np.asarray(leaf) == 7).all()) is not backbone, path

    jax.tree_util.tree_map_with_path(kept, after)


def test_both_bases_then_see_the_same_network(tmp_path):
    config = small.part(arch="resnet18", split_at=3, bn="per_view")
    state = random_state("resnet18")
    save_file(state, tmp_path / "model.safetensors")
    variables = load_pretrained(str(tmp_path / "model.safetensors"), blank(config), config)
    images_NHWC = np.random.default_rng(1).normal(size=(1, 32, 32, 3)).astype(np.float32)
    expected = plain_features("resnet18", state, images_NHWC)
    for base in (0, 1):
        np.testing.assert_allclose(features(config, variables, images_NHWC, base), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("arch", "rename"),
    [
        ("resnet50", as_transformers),
        ("resnet50", lambda name: as_transformers(name).removeprefix("resnet.")),
        ("resnet18", as_transformers),
        ("resnet34", lambda name: f"module.{name}"),
        ("mobilenet_v2", as_flat),
        ("mobilenet_v2", lambda name: f"module.{as_flat(name)}"),
    ],
)
@pytest.mark.parametrize("container", ["safetensors", "zip", "legacy"])
def test_namings_and_containers_agree(tmp_path, arch, rename, container):
    config, state = small.part(arch=arch), random_state(arch)
    save_file(state, tmp_path / "plain.safetensors")
    expected = load_pretrained(str(tmp_path / "plain.safetensors"), blank(config), config)
    renamed = {rename(name): tensor for name, tensor in state.items()}
    path = tmp_path / f"renamed.{container}"
    if container == "safetensors":
        save_file(renamed, path)
    elif container == "zip":
        write.write_zip(path, *write.state(renamed))
    else:  # without the counters, whose elements have another size
        floats = {name: tensor for name, tensor in renamed.items() if tensor.dtype == np.float32}
        write.write_legacy(path, *write.state(floats))
    found = load_pretrained(str(path), blank(config), config)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_half_precision_is_widened(tmp_path):
    config, state = small.part(arch="resnet18"), random_state("resnet18")
    halves = {name: tensor.astype(np.float16) for name, tensor in state.items() if tensor.dtype == np.float32}
    save_file(halves, tmp_path / "model.safetensors")
    kernel = load_pretrained(str(tmp_path / "model.safetensors"), blank(config), config)["params"]["stem"]["conv"][
        "kernel"
    ]
    assert kernel.dtype == jnp.float32
    np.testing.assert_array_equal(kernel, halves["conv1.weight"].astype(np.float32).transpose(2, 3, 1, 0))


def test_another_backbone_is_one_short_error(tmp_path):
    config, path = small.part(arch="resnet50", split_at=2), tmp_path / "model.safetensors"
    little, large = random_state("resnet18"), random_state("resnet50")
    save_file(little, path)
    message = refusal(path, config)
    assert f"{path} does not fit network.trunk=resnet50, but looks like resnet18" in message
    assert message.endswith("\nMake network.trunk a resnet18, or name the weights of a resnet50 in network.pretrained.")
    lines = message.splitlines()[1:-1]
    assert len(lines) == len(set(lines))
    assert len(message) < 3000
    of_use = [name for name in large if "num_batches" not in name and not name.startswith("fc")]
    differing = [name for name in of_use if name in little and little[name].shape != large[name].shape]
    for kind, count in ("missing", sum(name not in little for name in of_use)), ("shape", len(differing)):
        assert sum(line.startswith(f"  {kind}: ") for line in lines) == 8 + 1
        assert f"  {kind}: {count - 8} more" in lines
    shown = [name for name in differing if f"  shape: {name} is {little[name].shape}, " in message]
    assert len(shown) == 8
    assert all(f" takes {large[name].shape}\n" in message for name in shown)
    assert not re.search(r"\bfc\.|num_batches_tracked", message)

    save_file(large, path)
    message = refusal(path, small.part(arch="resnet18"))
    assert "looks like resnet50" in message
    assert "unexpected: layer1.0.conv3.weight (256, 64, 1, 1)" in message


@pytest.mark.parametrize(
    "prefix", ["backbone.", "model.", "module.", "encoder.", "net.backbone.", "module._orig_mod.", "encoder_q."]
)
@pytest.mark.parametrize("arch", ["resnet18", "mobilenet_v2"])
def test_one_prefix_before_all_names(tmp_path, arch, prefix):
    config, state = small.part(arch=arch), random_state(arch)
    save_file({prefix + name: tensor for name, tensor in state.items()}, tmp_path / "model.safetensors")
    found = load_pretrained(str(tmp_path / "model.safetensors"), blank(config), config)
    save_file(state, tmp_path / "plain.safetensors")
    expected = load_pretrained(str(tmp_path / "plain.safetensors"), blank(config), config)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("prefix", ["", "backbone."])
@pytest.mark.parametrize(
    "head",
    ["classifier.weight", "head.fc.weight", "bottleneck.running_mean", "module.fc.weight", "queue", "NL_2.0.g.0"],
)
def test_any_head_is_left_out(tmp_path, prefix, head):
    config, state = small.part(arch="resnet18"), random_state("resnet18")
    body = {prefix + name: tensor for name, tensor in state.items() if not name.startswith("fc")}
    save_file(body | {head: np.zeros((751, 512), np.float32)}, tmp_path / "model.safetensors")
    variables = load_pretrained(str(tmp_path / "model.safetensors"), blank(config), config)
    stem = variables["params"]["stem"]["conv"]["kernel"]
    np.testing.assert_array_equal(stem, state["conv1.weight"].transpose(2, 3, 1, 0))


def test_a_network_and_its_follower(tmp_path):
    """Self-supervised training keeps a second network that follows the first; the first is taken, in any order."""
    config, state = small.part(arch="resnet18"), random_state("resnet18")
    both = {f"module.encoder_k.{name}": np.zeros_like(tensor) for name, tensor in state.items()}
    both |= {f"module.encoder_q.{name}": tensor for name, tensor in state.items()}
    save_file(both, tmp_path / "model.safetensors")
    variables = load_pretrained(str(tmp_path / "model.safetensors"), blank(config), config)
    stem = variables["params"]["stem"]["conv"]["kernel"]
    np.testing.assert_array_equal(stem, state["conv1.weight"].transpose(2, 3, 1, 0))


def test_several_networks_in_one_file(tmp_path):
    """A checkpoint of the field holds three ResNets, parts of which are not used: none is taken in silence."""
    state = random_state("resnet18")
    prefixes = ("visible_module.visible.", "thermal_module.thermal.", "base_resnet.base.")
    save_file({p + name: tensor for p in prefixes for name, tensor in state.items()}, tmp_path / "model.safetensors")
    message = refusal(tmp_path / "model.safetensors", small.part(arch="resnet18"))
    assert "expected one network, found 3" in message
    assert all(repr(prefix) in message for prefix in prefixes)


def test_names_of_another_network(tmp_path):
    names = [f"blocks.{i}.attn.qkv.weight" for i in range(400)] + ["x" * 5000, "a.\x1b[31mred.weight"]
    save_file({name: np.zeros(2, np.float32) for name in reversed(names)}, tmp_path / "model.safetensors")
    message = refusal(tmp_path / "model.safetensors", small.part(arch="resnet18"))
    assert "none of its tensors has a name of a ResNet or a MobileNetV2" in message
    assert "and 397 more" in message
    assert len(message) < 1000
    assert message.isprintable()


def test_everything_wrong_is_listed_at_once(tmp_path):
    config, path = small.part(arch="resnet18"), tmp_path / "model.safetensors"
    state = random_state("resnet18")
    state = {name: tensor.copy() for name, tensor in state.items() if name != "layer3.1.bn2.running_var"}
    state["conv1.weight"] = state["conv1.weight"][:, :1]
    state["layer1.0.conv1.weight"][0, 0, 0, 0] = np.nan
    state["layer1.0.bn1.running_var"][3] = -1
    state["layer1.0.bn1.bias"] = np.full(64, 1e300)  # more than float32 can hold
    state["layer1.0.bn1.weight"] = np.ones(64, np.int64)
    state["layer1.0.conv1.bias"] = np.ones(64, np.float32)
    state["layer5.0.conv1.weight"] = np.ones(2, np.float32)
    save_file(state, path)
    message = refusal(path, config)
    for line in (
        "missing: nothing for batch_stats/layer3/block1_bn2/var",
        "shape: conv1.weight is (64, 1, 7, 7), params/stem/conv/kernel takes (64, 3, 7, 7)",
        "numbers: layer1.0.conv1.weight has values that are not finite",
        "numbers: layer1.0.bn1.bias has values that are not finite",
        "numbers: layer1.0.bn1.running_var has negative variances",
        "numbers: layer1.0.bn1.weight is int64, expected floating point",
        "unexpected: layer1.0.conv1.bias (64,)",
        "unexpected: layer5.0.conv1.weight (2,)",
    ):
        assert f"  {line}\n" in message
    assert len(message.splitlines()) == 10
    assert "looks like" not in message


@pytest.mark.parametrize("channels", [2, 3])
def test_the_colours_of_pretrained_weights_in_the_channels_of_zero_padding(channels, tmp_path):
    """Of two channels, each is the sum over colours, halved; three are the colours'."""
    padded = Named(Zv=View("V", ZeroPadding(channels)), Zi=View("I", ZeroPadding(channels)))
    config = small.part("resnet18", inputs=("Zv", "Zi"))
    network, images = small.base_derivative(config, 5, padded), dict.fromkeys("VI", jnp.zeros((1, 32, 32, 3)))
    variables = jax.eval_shape(lambda key: network.init(key, images, train=True), jax.random.key(0))
    empty = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), variables)
    save_file(random_state("resnet18"), tmp_path / "weights.safetensors")
    found = load_pretrained(str(tmp_path / "weights.safetensors"), empty, config)["params"]["stem"]["conv"]["kernel"]
    theirs = random_state("resnet18")["conv1.weight"]
    for out in range(3):
        for channel in range(channels):
            own = theirs[out, channel] if channels == 3 else (theirs[out, 0] + theirs[out, 1] + theirs[out, 2]) / 2
            np.testing.assert_allclose(found[:, :, channel, out], own, rtol=1e-5, atol=1e-6)


def test_the_same_array_twice(tmp_path):
    state = {as_transformers(name): tensor for name, tensor in random_state("resnet18").items()}
    name = "resnet.embedder.embedder.convolution.weight"
    save_file(state | {name.removeprefix("resnet."): state[name]}, tmp_path / "model.safetensors")
    message = refusal(tmp_path / "model.safetensors", small.part(arch="resnet18"))
    assert re.search(r"twice: .*embedder\.convolution\.weight and .*embedder\.convolution\.weight", message)


def test_a_file_that_is_not_there(tmp_path):
    assert "no such file" in refusal(tmp_path / "weights.pth", small.part(arch="resnet18"))


def refusal(path, config: NetworkConfig) -> str:
    with pytest.raises(BdfError) as caught:
        load_pretrained(str(path), blank(config), config)
    return str(caught.value)


HUB = """
    import http.server, os, sys, threading, time
    from pathlib import Path

    files = {
        "/kept/safe/resolve/main/model.safetensors": b"S" * 10,
        "/kept/safe/resolve/main/pytorch_model.bin": b"T" * 10,
        "/kept/torch/resolve/main/pytorch_model.bin": b"T" * 11,
    }
    repositories = ("/kept/safe/", "/kept/torch/", "/kept/other/")

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            body = files.get(self.path)
            code = None if body else "EntryNotFound" if self.path.startswith(repositories) else "RepoNotFound"
            self.send_response(200 if body else 404)
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("ETag", '"%s"' % self.path.replace("/", "-"))
            self.send_header("Content-Length", str(len(body or b"")))
            if code:
                self.send_header("X-Error-Code", code)
            self.end_headers()
            if body and self.command == "GET":
                self.wfile.write(body)

        do_GET = do_HEAD

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"
    os.environ["HF_HOME"] = sys.argv[1]

    from bdf_jax.errors import BdfError
    from bdf_jax.models import hub

    def attempt(name):
        try:
            print(hub.download(name, progress=False).read_bytes().decode())
        except BdfError as error:
            print("refused:", error)

    for name in ("kept/safe", "kept/torch", "kept/other", "kept/nothing"):
        attempt(name)
    server.shutdown()
    server.server_close()
    time.sleep = lambda seconds: None  # the library waits 23 s in all between its attempts
    for name in ("kept/safe", "kept/torch", "kept/other", "kept/a..b"):
        attempt(name)
"""


def test_the_hub(tmp_path):
    """A hub of our own in a process of its own: safetensors first, clear refusals, the cache without a network."""
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(HUB), str(tmp_path)],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    safe, torch, other, nothing, safe_again, torch_again, unreachable, malformed = run.stdout.splitlines()
    assert safe == safe_again == "S" * 10
    assert torch == torch_again == "T" * 11
    assert "'kept/other' on the Hugging Face hub has none of model.safetensors, pytorch_model.bin" in other
    assert "neither a file nor a public repository of the Hugging Face hub: 'kept/nothing'" in nothing
    assert "'kept/other' is no file here and not in the Hugging Face cache" in unreachable
    assert "neither a file nor a name of the hub's form: 'kept/a..b'" in malformed
