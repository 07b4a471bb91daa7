"""`python -m bdf_jax export`: what is written computes what the network does, in a process without this project."""

import hashlib
import json
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from safetensors.numpy import load_file

import bdf_jax
from bdf_jax.__main__ import main
from bdf_jax.checkpoints import Checkpoints, Metadata, load_variables
from bdf_jax.config import DataConfig, vary
from bdf_jax.errors import BdfError
from bdf_jax.evaluation.features import make_embed
from bdf_jax.export import WHAT
from bdf_jax.models import Network
from bdf_jax.training.state import TrainState

SIZE = (32, 16)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Work folders of networks with parameters and statistics that are none of the initial ones."""

    def make(name, **changes):
        workdir = tmp_path_factory.mktemp("trained") / name
        data = DataConfig(image_size=SIZE, root="/somebody/s/folder")
        config = vary(small.tiny_method(data=data), changes)
        images = dict.fromkeys("VI", np.zeros((1, *SIZE, 3), np.float32))
        shapes = jax.eval_shape(lambda: Network.of(config, 5).init(jax.random.key(0), images, train=True))
        rng = np.random.default_rng(0)
        filled = jax.tree.map(lambda leaf: jnp.asarray(0.05 + 0.1 * rng.random(leaf.shape), jnp.float32), shapes)
        # Kernels of mixed sign, so that features of different images differ.
        params = jax.tree.map(lambda leaf: leaf - 0.1 * (leaf.ndim > 1), filled["params"])
        state = TrainState(jnp.int32(7), params, filled["batch_stats"], {})
        checkpoints = Checkpoints(workdir)
        checkpoints.save(7, state, Metadata(config, "f" * 64, 5))
        checkpoints.close()
        return workdir

    return {"shared": make("shared"), "apart": make("apart", **{"network.split_at": 1, "network.bn": "per_view"})}


def export(capsys, workdir, out, *flags):
    code = main(["export", f"--model={workdir}", f"--out={out}", *flags])
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    return code, printed.out, printed.err


def in_a_fresh_process(script, *arguments):
    """Isolated: neither this checkout nor anything of it can be imported."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [sys.executable, "-I", str(script), *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=120, cwd=script.parent, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def expected(workdir, images, modality, **settings):
    metadata, variables, _ = load_variables(workdir)
    config = vary(metadata.config, {f"retrieve.{name}": value for name, value in settings.items()})
    embed = make_embed(Network.of(config, metadata.num_classes), config.retrieve)
    return np.asarray(embed(variables, images, modality))


@pytest.mark.parametrize(
    ("name", "use", "files"),
    [
        ("shared", "base", {"embed.stablehlo"}),
        ("apart", "concat", {"embed_visible.stablehlo", "embed_infrared.stablehlo"}),
    ],
)
def test_the_program_loaded_in_a_fresh_process_equals_the_network(trained, tmp_path, capsys, name, use, files):
    out = tmp_path / "out"
    code, printed, err = export(capsys, trained[name], out, f"--use={use}")
    assert code == 0, err
    assert {path.name for path in out.glob("*.stablehlo")} == files
    images = np.random.default_rng(0).integers(0, 256, (5, *SIZE, 3), np.uint8)
    np.save(tmp_path / "images.npy", images)
    manifest = json.loads((out / "manifest.json").read_text())
    for number, modality in enumerate(("visible", "infrared")[: len(files)]):
        in_a_fresh_process(out / "embed_example.py", tmp_path / "images.npy", tmp_path / "f.npy", modality)
        found = np.load(tmp_path / "f.npy")
        np.testing.assert_allclose(found, expected(trained[name], images, number, use=use), atol=1e-5, rtol=0)
        assert found.shape == (5, manifest["output"]["dimension"])
        assert f"(N, {found.shape[1]}) float32" in printed
        about = manifest["artifacts"][modality]
        assert hashlib.sha256((out / about["file"]).read_bytes()).hexdigest() == about["sha256"]
    for wrong in ((), ("photo.jpg", "f.npy"), ("images.npy", "f.npy", "thermal")):
        usage = subprocess.run([sys.executable, out / "embed_example.py", *wrong], capture_output=True, text=True)
        assert usage.returncode == 1
        assert "IMAGES.npy FEATURES.npy" in usage.stderr
        assert "Traceback" not in usage.stderr


def test_any_batch_size_and_no_project(trained, tmp_path, capsys):
    out = tmp_path / "out"
    export(capsys, trained["shared"], out, "--modality=infrared")
    program = jax.export.deserialize(bytearray((out / "embed.stablehlo").read_bytes()))
    assert set(program.platforms) == {"cpu", "cuda", "tpu"}
    images = np.random.default_rng(1).integers(0, 256, (4, *SIZE, 3), np.uint8)
    whole = np.asarray(program.call(images))
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-5)
    for n in (1, 3):
        np.testing.assert_allclose(np.asarray(program.call(images[:n])), whole[:n], atol=1e-5)
    assert set(json.loads((out / "manifest.json").read_text())["artifacts"]) == {"infrared"}


def test_the_manifest_says_what_goes_in_and_what_comes_out_and_nothing_of_this_machine(trained, tmp_path, capsys):
    out = tmp_path / "out"
    export(capsys, trained["shared"], out, "--use=sum4", "--flip-tta")
    text = (out / "manifest.json").read_text()
    manifest = json.loads(text)
    assert manifest["input"]["shape"] == ["batch", *SIZE, 3]
    assert manifest["input"]["dtype"] == "uint8"
    assert manifest["input"]["normalisation"]["mean"] == [0.485, 0.456, 0.406]
    assert manifest["similarity"]["name"] == "dot"
    assert manifest["flags"] == {"feature": "embedding", "use": "sum4", "flip_tta": True}
    assert manifest["trained"]["fingerprint"] == "f" * 64
    assert manifest["trained"]["step"] == 7
    assert "/somebody" not in text
    assert str(tmp_path) not in text


def test_the_weights_are_those_of_the_checkpoint_and_numpy_alone_reads_them(trained, tmp_path, capsys):
    out = tmp_path / "out"
    assert export(capsys, trained["apart"], out, "--format=safetensors")[0] == 0
    assert not list(out.glob("*.stablehlo"))
    _, variables, _ = load_variables(trained["apart"])
    stored = load_file(out / "weights.safetensors")
    leaves = jax.tree_util.tree_leaves_with_path(dict(variables))
    assert len(stored) == len(leaves)
    for path, leaf in leaves:
        name = "/".join(key.key for key in path)
        np.testing.assert_array_equal(stored[name], leaf)
    assert "params/classifier/kernel" in stored
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["weights"]["arrays"] == {name: list(array.shape) for name, array in sorted(stored.items())}
    lines = in_a_fresh_process(out / "weights_example.py").splitlines()
    assert lines == [f"{name} {array.shape} {array.mean():.6g}" for name, array in sorted(stored.items())]


@pytest.mark.long
def test_an_export_with_weights_is_loaded_and_exported_again_when_its_programs_have_expired(trained, tmp_path, capsys):
    """A program of operations that JAX no longer reads, as one is that was written long ago."""
    out, images = tmp_path / "out", np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3), np.uint8)
    np.save(tmp_path / "images.npy", images)
    export(capsys, trained["shared"], out, "--format=stablehlo,safetensors")
    manifest = json.loads((out / "manifest.json").read_text())
    assert "about six months" in manifest["ages"]
    assert "weights.safetensors" in manifest["ages"]
    program = out / "embed.stablehlo"
    assert b"convolution_v" in program.read_bytes()
    program.write_bytes(re.sub(rb"convolution_v\d", b"convolution_v0", program.read_bytes()))
    run = subprocess.run(
        [sys.executable, out / "embed_example.py", tmp_path / "images.npy", tmp_path / "f.npy"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 1
    assert "Traceback" not in run.stderr
    assert f"was written on {manifest['exported']} by JAX {jax.__version__}" in run.stderr
    assert "write the program again from the run or from weights.safetensors" in run.stderr
    kept = bdf_jax.load(out).embed(images, "infrared", progress=False)
    np.testing.assert_allclose(kept, expected(trained["shared"], images, 1), atol=1e-6)
    assert export(capsys, out, tmp_path / "again")[0] == 0
    in_a_fresh_process(tmp_path / "again" / "embed_example.py", tmp_path / "images.npy", tmp_path / "f.npy")
    np.testing.assert_allclose(np.load(tmp_path / "f.npy"), kept, atol=1e-5)


def test_what_is_not_a_whole_archive_is_refused_by_name(trained, tmp_path, capsys):
    def refusal(**options):
        with pytest.raises(BdfError) as caught:
            bdf_jax.load(out, **options)
        return str(caught.value)

    out = tmp_path / "out"
    _, printed, _ = export(capsys, trained["shared"], out)
    assert "note: JAX reads a StableHLO program for about six months" in printed
    assert "holds programs alone (embed.stablehlo)" in refusal()
    assert "--format=stablehlo,safetensors" in refusal()
    export(capsys, trained["shared"], out, "--format=safetensors")
    assert "is of step 7, and of no other; found step=3" in refusal(step=3)
    manifest, weights = (out / "manifest.json").read_text(), (out / "weights.safetensors").read_bytes()
    (out / "weights.safetensors").write_bytes(weights[:-1] + b"?")
    assert "its checksum differs" in refusal()
    (out / "weights.safetensors").write_bytes(weights[:100])
    assert "missing or damaged" in refusal()
    (out / "weights.safetensors").write_bytes(weights)
    (out / "manifest.json").write_text(manifest.replace('"identities": 5', '"identities": 6'))
    assert "another shape or not of it: params/classifier/kernel" in refusal()
    (out / "manifest.json").write_text(manifest.replace('"kind": "Tiny"', '"kind": "antigravity:Trunk"'))
    assert "parts of a file of its author (antigravity:Trunk)" in refusal()
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(("name", "use"), [("shared", "--flip-tta"), ("apart", "--feature=both")])
def test_onnx_runtime_computes_what_the_network_does(trained, tmp_path, capsys, name, use):
    pytest.importorskip("onnx", reason="an extra: pip install onnx onnxruntime")
    pytest.importorskip("onnxruntime", reason="an extra: pip install onnx onnxruntime")
    out, images = tmp_path / "out", np.random.default_rng(0).integers(0, 256, (5, *SIZE, 3), np.uint8)
    np.save(tmp_path / "images.npy", images)
    code, printed, err = export(capsys, trained[name], out, "--format=onnx", use)
    assert code == 0, err
    manifest = json.loads((out / "manifest.json").read_text())
    settings = {"flip_tta": True} if use == "--flip-tta" else {"feature": "both"}
    for number, modality in enumerate(("visible", "infrared")):
        in_a_fresh_process(out / "onnx_example.py", tmp_path / "images.npy", tmp_path / "f.npy", modality)
        found = np.load(tmp_path / "f.npy")
        np.testing.assert_allclose(found, expected(trained[name], images, number, **settings), atol=1e-4, rtol=0)
        assert found.shape == (5, manifest["output"]["dimension"])
    assert f"(N, {found.shape[1]}) float32 out" in printed


def test_what_onnx_is_not_written_of_is_named(trained, tmp_path, capsys):
    pytest.importorskip("onnx", reason="an extra: pip install onnx onnxruntime")
    pytest.importorskip("onnxruntime", reason="an extra: pip install onnx onnxruntime")
    code, _, err = export(capsys, trained["shared"], tmp_path / "out", "--format=onnx", "--use=sum4")
    assert code == 1
    assert "has --use=sum4, which is not written there; --format=stablehlo,safetensors has all of it" in err
    assert not (tmp_path / "out").exists()


def test_onnx_without_its_packages_says_what_to_install(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    code, _, err = export(capsys, trained["shared"], tmp_path / "out", "--format=onnx")
    assert code == 1
    assert "pip install onnx onnxruntime" in err


def test_exporting_again_replaces_and_leaves_nothing_of_before(trained, tmp_path, capsys):
    out = tmp_path / "out"
    export(capsys, trained["apart"], out, "--format=stablehlo,safetensors")
    export(capsys, trained["shared"], out, "--modality=visible")
    assert {path.name for path in out.iterdir()} == {"embed.stablehlo", "embed_example.py", "manifest.json"}


@pytest.mark.parametrize(
    "manifest",
    ['{"name": "a web application"}', "", "[]", "null", '{"what": "' + WHAT + '"}', '{"what": "x", "artifacts": {}}'],
)
def test_a_manifest_alone_makes_no_export(trained, tmp_path, capsys, manifest):
    """Many programs write a manifest.json; what lies beside it is none of ours."""
    site = tmp_path / "site"
    site.mkdir()
    contents = {"manifest.json": manifest, "weights.safetensors": "precious", "embed_other.stablehlo": "mine"}
    for name, text in contents.items():
        (site / name).write_text(text)
    code, _, err = export(capsys, trained["shared"], site)
    assert code == 1
    assert "found embed_other.stablehlo, manifest.json, weights.safetensors, which no export here wrote" in err
    assert {file.name: file.read_text() for file in site.iterdir()} == contents


def test_an_export_leaves_alone_what_was_put_beside_it(trained, tmp_path, capsys):
    out = tmp_path / "out"
    export(capsys, trained["apart"], out)
    for name in ("embed_other.stablehlo", "notes.txt"):
        (out / name).write_text("mine")
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["files"] += ["../outside", "notes.txt"]  # as anybody may write it
    (out / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "outside").write_text("mine")
    code, printed, err = export(capsys, trained["shared"], out, "--modality=visible")
    assert code == 0, err
    ours = {"embed.stablehlo", "embed_example.py", "manifest.json"}
    assert {path.name for path in out.iterdir()} == {*ours, "notes.txt", "embed_other.stablehlo"}
    assert "notes.txt" not in printed
    assert (tmp_path / "outside").read_text() == "mine"
    (out / "weights.safetensors").write_text("mine")
    code, _, err = export(capsys, trained["shared"], out, "--format=safetensors")
    assert code == 1
    assert "found weights.safetensors, which no export here wrote" in err
    assert (out / "weights.safetensors").read_text() == "mine"


def test_what_cannot_be_exported_is_refused_by_name(trained, tmp_path, capsys):
    def refusal(*flags, out=tmp_path / "out", workdir=trained["shared"]):
        code, _, err = export(capsys, workdir, out, *flags)
        assert code == 1
        assert not (tmp_path / "out").exists()
        return err

    assert "expected some of stablehlo, safetensors, onnx, found coreml" in refusal("--format=coreml")
    assert "--modality: expected some of visible, infrared, found thermal" in refusal("--modality=thermal")
    assert "no such folder" in refusal(workdir=tmp_path / "nowhere")
    assert "no checkpoint of step 3; there are 7" in refusal("--step=3")
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.tex").write_text("")
    assert "found thesis.tex, which no export here wrote; name another" in refusal(out=full)
    assert "found a file" in refusal(out=full / "thesis.tex")
    assert "could not be written" in refusal(out=full / "thesis.tex" / "below")
