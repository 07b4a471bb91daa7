"""`python -m bdf_jax embed` and `search`, as they are typed."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import bdf_jax
from bdf_jax.__main__ import main
from bdf_jax.evaluation import load_features

ROOT = Path(__file__).parents[2]


def bdf(*words, **flags):
    """Runs a command in this process; its exit code."""
    return main([*words, *(f"--{name.replace('_', '-')}={value}" for name, value in flags.items())])


def test_embed_writes_what_the_model_embeds(model, run, people, tmp_path, capsys):
    out = tmp_path / "deep" / "features.npz"
    assert bdf("embed", model=run, images=people, modality="infrared", out=out) == 0
    assert "10 images, 128 numbers each" in capsys.readouterr().out
    with np.load(out) as found:
        np.testing.assert_allclose(found["features"], model.embed(people, "infrared", progress=False), atol=1e-6)
        assert found["names"].tolist() == [os.path.relpath(path, people) for path in model.paths(people)]
        assert found["ids"].tolist() == [os.path.basename(os.path.dirname(path)) for path in model.paths(people)]
        assert found["modality"].tolist() == [1] * 10
        assert (str(found["similarity"]), str(found["use"]), str(found["feature"])) == ("cosine", "base", "embedding")
        assert not {"pids", "cams"} & set(found)  # nobody said
    assert os.listdir(out.parent) == ["features.npz"]


def test_embed_writes_an_array_with_its_names_beside_it(model, run, people, tmp_path):
    out = tmp_path / "features.npy"
    assert bdf("embed", model=run, images=people, modality="infrared", out=out) == 0
    np.testing.assert_allclose(np.load(out), model.embed(people, "infrared", progress=False), atol=1e-6)
    with (tmp_path / "features.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["row"] for row in rows] == [str(row) for row in range(10)]
    assert [row["name"] for row in rows] == [os.path.relpath(path, people) for path in model.paths(people)]
    assert {row["id"] for row in rows} == {f"person {n}" for n in range(5)}


def test_a_table_goes_into_a_vector_database_by_the_recipe(model, run, people, tmp_path, monkeypatch):
    pytest.importorskip("pyarrow", reason="optional: pip install pyarrow")
    pytest.importorskip("lancedb", reason="optional: pip install lancedb")
    monkeypatch.chdir(tmp_path)
    assert bdf("embed", model=run, images=people, modality="visible", out="people.parquet") == 0
    assert bdf("embed", model=run, images=people / "person 3" / "0.jpg", modality="infrared", out="query.npy") == 0
    document = (Path(__file__).parents[2] / "docs" / "export.md").read_text()
    recipe = document.partition("```text\nimport lancedb")[2].partition("```")[0]
    assert len(recipe.splitlines()) <= 10
    found = {}
    exec("import lancedb" + recipe, found)
    expected = model.gallery(people).search(people / "person 3" / "0.jpg", k=5)
    assert [row["name"] for row in found["nearest"]] == expected.names.tolist()
    np.testing.assert_allclose([1 - row["_distance"] for row in found["nearest"]], expected.scores, atol=1e-5)


def test_a_table_without_its_package_says_what_to_install(run, people, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert bdf("embed", model=run, images=people, modality="visible", out=tmp_path / "people.parquet") == 1
    assert "pip install pyarrow" in capsys.readouterr().err


def test_what_the_names_tell_makes_the_file_one_for_evaluate(model, run, people, tmp_path):
    for number, source in enumerate(sorted(people.rglob("*.jpg"))):
        target = tmp_path / "tree" / f"cam{1 + number % 2}" / f"{7 + number:04}" / "0001.jpg"
        target.parent.mkdir(parents=True)
        shutil.copy(source, target)
    settings = {"use": "concat", "flip_tta": ""}
    words = [f"--{name.replace('_', '-')}" + (f"={value}" if value else "") for name, value in settings.items()]
    assert bdf("embed", *words, model=run, images=tmp_path / "tree", modality="visible", out=tmp_path / "f.npz") == 0
    file = load_features(tmp_path / "f.npz")
    assert file.index.names.tolist()[0] == "cam1/0007/0001.jpg"
    assert file.index.pids.tolist() == [7, 9, 11, 8, 10]
    assert file.index.cams.tolist() == [1, 1, 1, 2, 2]
    assert (file.similarity, file.flags) == ("cosine", {"feature": "embedding", "use": "concat", "flip_tta": True})


def test_a_white_level_may_be_typed_and_its_absence_is_told(run, tmp_path, capsys):
    grey = np.random.default_rng(0).integers(0, 256, (40, 20)).astype(np.uint16)
    for kind, values in (("8", grey.astype(np.uint8)), ("14", grey * 64 + 100)):
        (tmp_path / kind).mkdir()
        Image.fromarray(values).save(tmp_path / kind / "a.png")
    flags = {"model": run, "modality": "infrared"}
    assert bdf("embed", images=tmp_path / "8", out=tmp_path / "8.npz", **flags) == 0
    assert "warning" not in capsys.readouterr().err
    for levels in ({}, {"white": 16420, "black": 100}):
        assert bdf("embed", images=tmp_path / "14", out=tmp_path / "14.npz", **levels, **flags) == 0
        assert ("warning: a.png: its values go from" in capsys.readouterr().err) == (not levels)
    with np.load(tmp_path / "8.npz") as eight, np.load(tmp_path / "14.npz") as fourteen:
        np.testing.assert_array_equal(eight["features"], fourteen["features"])
    levels = {"white": 16420, "black": 100, "k": 1}
    assert (
        bdf("search", gallery=tmp_path / "8", gallery_modality="infrared", query=tmp_path / "14", **levels, **flags)
        == 0
    )
    printed = capsys.readouterr()
    assert "1.0000" in printed.out
    assert "warning" not in printed.err
    assert bdf("embed", images=tmp_path / "8", out=tmp_path / "8.npz", white=5, black=9, **flags) == 1
    assert "white: expected a value above black (9), found 5" in capsys.readouterr().err


def test_search_prints_and_writes_what_the_gallery_finds(model, run, people, tmp_path, capsys):
    files = {"json": tmp_path / "found.json", "html": tmp_path / "found.html", "save_gallery": tmp_path / "g.npz"}
    query = people / "person 3" / "0.jpg"
    assert bdf("search", model=run, gallery=people, query=query, modality="visible", k=3, **files) == 0
    printed = capsys.readouterr().out
    expected = model.gallery(people, progress=False).search(query, 3, "visible").lists()
    found = json.loads(files["json"].read_text())
    assert [result["name"] for result in found[0]["results"]] == [result["name"] for result in expected[0]["results"]]
    assert found[0]["results"][0]["name"] == "person 3/0.jpg"
    assert all(result["name"] in printed for result in found[0]["results"])
    assert files["html"].read_text().count("<img ") == 4
    assert "1 query (visible) among 10 images (visible); network of " in files["html"].read_text()
    assert len(bdf_jax.open_gallery(files["save_gallery"])) == 10
    # The saved gallery gives the same.
    again = tmp_path / "again.json"
    assert (
        bdf("search", model=run, gallery=files["save_gallery"], query=query, modality="visible", k=3, json=again) == 0
    )
    assert json.loads(again.read_text()) == found


def test_a_folder_of_queries_and_the_default_k(run, people, tmp_path, capsys):
    assert bdf("search", model=run, gallery=people / "person 0", query=people, json=tmp_path / "f.json") == 0
    lists = json.loads((tmp_path / "f.json").read_text())
    assert [len(each["results"]) for each in lists] == [2] * 10
    assert [each["query"] for each in lists][:2] == ["person 0/0.jpg", "person 0/1.png"]
    assert "person 4/1.png" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "wrong", "problem"),
    [
        ("embed", {"images": "nowhere"}, "nowhere: cannot be read: No such file"),
        ("embed", {"modality": "thermal"}, "modality: expected 'visible' or 'infrared', found 'thermal'"),
        ("embed", {"out": "."}, "--out=.: cannot be written: expected the name of a file to write, found a folder"),
        ("embed", {"out": "/proc/none/f.npz"}, "--out=/proc/none/f.npz: cannot be written"),
        ("embed", {"model": "nowhere"}, "nowhere: no such folder"),
        ("embed", {"step": "3"}, "no checkpoint of step 3"),
        ("search", {"k": "0"}, "--k: expected at least 1, found 0"),
        ("search", {"k": "11"}, "k: expected a number from 1 to the gallery's 10 images, found 11"),
        ("search", {"gallery_modality": "x"}, "modality: expected 'visible' or 'infrared', found 'x'"),
        ("search", {"query": "nowhere"}, "nowhere: cannot be read: No such file"),
        ("search", {"json": "/proc/none.json"}, "--json=/proc/none.json: cannot be written"),
        ("search", {"html": "."}, "--html=.: cannot be written: expected the name of a file"),
        ("search", {"save_gallery": "/proc/g.npz"}, "--save-gallery=/proc/g.npz: cannot be written"),
    ],
)
def test_what_is_wrong_is_named(command, wrong, problem, run, people, tmp_path, capsys):
    given = {"embed": {"images": people, "modality": "visible", "out": tmp_path / "f.npz"}}
    given["search"] = {"gallery": people, "query": people, "modality": "visible"}
    assert bdf(command, **{"model": run, **given[command], **wrong}) == 1
    assert problem in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_a_damaged_image_stops_or_is_left_out(run, people, tmp_path, capsys):
    shutil.copytree(people, tmp_path / "people")
    (tmp_path / "people" / "bad.jpg").write_bytes(b"no image")
    flags = {"model": run, "images": tmp_path / "people", "modality": "visible", "out": tmp_path / "f.npz"}
    assert bdf("embed", **flags) == 1
    assert "error: bad.jpg: expected an image" in capsys.readouterr().err
    assert not (tmp_path / "f.npz").exists()
    assert bdf("embed", on_error="skip", **flags) == 0
    assert "skipped: bad.jpg: expected an image" in capsys.readouterr().err
    assert len(np.load(tmp_path / "f.npz")["features"]) == 10
    flags = {"model": run, "gallery": people, "query": tmp_path / "people", "json": tmp_path / "f.json"}
    assert bdf("search", on_error="skip", **flags) == 0
    assert "skipped: bad.jpg" in capsys.readouterr().err
    assert len(json.loads((tmp_path / "f.json").read_text())) == 10


def test_names_that_a_terminal_could_misread(run, tmp_path):
    """In a process of its own, whose output is a pipe in ASCII."""
    for name in (b"[red]x[/red]", b"new\nline", b"latin-\xe9", b"\x1b[31mred"):
        folder = os.path.join(os.fsencode(tmp_path / "g"), name)
        os.makedirs(folder)
        Image.new("RGB", (8, 16), "green").save(os.path.join(folder, b"0.png"))
    page = tmp_path / "p.html"
    command = ["search", f"--model={run}", f"--gallery={tmp_path / 'g'}", f"--query={tmp_path / 'g'}", f"--html={page}"]
    command.append(f"--json={tmp_path / 'f.json'}")
    done = subprocess.run(
        [sys.executable, "-m", "bdf_jax", *command],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-2000:].decode()
    for name in (rb"[red]x[/red]/0.png", rb"new\nline/0.png", rb"latin-\udce9/0.png", rb"\x1b[31mred/0.png"):
        assert name in done.stdout
    assert page.read_text(encoding="utf-8").count("<img ") == 4 * 5
    assert r"latin-\udce9/0.png" in {found["query"] for found in json.loads((tmp_path / "f.json").read_text())}
