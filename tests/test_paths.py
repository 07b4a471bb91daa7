"""Addresses of buckets and the like in the place of a path: refused at once, wherever a path is taken."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import bdf_jax
from bdf_jax import paths
from bdf_jax.commands import ablation, check_data, embed, export, plot, search, trials
from bdf_jax.commands.configuration import read_config
from bdf_jax.comparison.jobs import Job, run_jobs
from bdf_jax.config import Config, vary
from bdf_jax.data.dataset import open_dataset
from bdf_jax.data.world import write_world
from bdf_jax.errors import BdfError
from bdf_jax.evaluation.feature_rows import evaluate_files
from bdf_jax.models.weights import read_source
from bdf_jax.output import check_output, replaced
from bdf_jax.paths import bucket_address, local_path
from bdf_jax.training.curves import draw_curves
from bdf_jax.training.loop import run

ROOT = Path(__file__).parents[1]
GS = "gs://bucket/runs/a"
OTHER = "abfss://bucket/runs/a"  # where buckets are taken, one that nobody here opens


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    """Nothing may appear in the current folder, such as one called "gs:"."""
    monkeypatch.chdir(tmp_path)
    yield
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("path", [GS, "s3://b/a", "hf://owner/name", "HTTPS://x.org/a", "file:///a", "abfss://c@d/e"])
@pytest.mark.parametrize("kind", [str, Path])
def test_an_address_is_no_path_in_whatever_type_it_comes(path, kind):
    with pytest.raises(BdfError, match=r"^--x=.*: expected a path on this machine, found a \w+:// address"):
        local_path(kind(path), "--x")


def test_a_place_in_a_bucket_in_whatever_way_it_is_written():
    for path in ("gs://bucket/a/b", Path("gs://bucket/a/b"), "GS://bucket/a/b/"):
        assert bucket_address(path) == "gs://bucket/a/b"
    assert [bucket_address(path) for path in ("runs/a", "/gs:/b/a", "hf://owner/name", "")] == [""] * 4
    for path in ("gs://", "gs://bucket", "s3://b/../a", "s3://b//a", "gs://b/a\nb"):
        with pytest.raises(BdfError, match=r"--workdir=(gs|s3)://.*: expected (gs|s3)://BUCKET/FOLDER"):
            bucket_address(path, "--workdir")


@pytest.mark.skipif(importlib.util.find_spec("gcsfs") is not None, reason="gcsfs is installed here")
def test_a_bucket_without_the_package_that_opens_it():
    with pytest.raises(BdfError, match=r"gs:// is opened by the package gcsfs.*pip install -r requirements-buckets"):
        run(WORLD, GS)


@pytest.mark.parametrize("path", ["runs/a", "/data/gs:/a", "C:/runs", "lr:0.1", "a=b:/c", "run 1:/a", "", "~x.jpg"])
def test_names_that_only_resemble_an_address_are_paths(path):
    assert local_path(path) == Path(path)


def test_a_home_is_filled_in_and_one_that_is_not_there_is_told(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert local_path("~/runs") == Path("/home/me/runs")
    with pytest.raises(BdfError, match="--workdir=~nobody-here/runs: the home of ~nobody-here is not known here"):
        local_path("~nobody-here/runs", "--workdir")
    with pytest.raises(BdfError, match="expected a path, found int"):
        local_path(3)


def no_name(number):
    raise KeyError(f"uid or gid not found: {number}")


@pytest.fixture
def nameless(monkeypatch, tmp_path_factory):
    """A user without a name and without a home, as `docker run -u` makes one; the folder for its temporary files."""
    folder = tmp_path_factory.mktemp("tmp")
    monkeypatch.setattr("pwd.getpwuid", no_name)
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    paths._other_cache.cache_clear()
    yield folder
    paths._other_cache.cache_clear()


@pytest.mark.parametrize("home", [None, "", "/proc", "relative"])
def test_the_cache_of_a_user_without_a_home_lies_elsewhere_and_that_is_said_once(nameless, monkeypatch, capfd, home):
    if home is not None:
        monkeypatch.setenv("HOME", home)
        # Root may write anywhere but there.
        monkeypatch.setattr("os.access", lambda path, mode: not path.startswith("/proc") and path != "/")
    place = nameless / f"cache-of-{os.geteuid()}"
    for _ in range(2):
        assert local_path(Config().data.dir, "data.dir") == place / "bdf_jax"
    said = "data.dir=~/.cache/bdf_jax: this user has no home in which something can be kept, so it is "
    assert capfd.readouterr().err == f"{said}{place / 'bdf_jax'}\n"
    assert place.stat().st_mode & 0o777 == 0o700


def test_without_a_home_a_named_cache_counts_and_any_other_path_is_an_error(nameless, monkeypatch, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    assert local_path("~/.cache/bdf_jax") == cache / "bdf_jax"
    for path in ("~", "~/runs"):
        with pytest.raises(BdfError, match=r"--workdir=~.*: the home of ~ is not known here; write the whole path"):
            local_path(path, "--workdir")
    with pytest.raises(BdfError, match=r"--config=~/.*: the home of ~ is not known here"):
        read_config("~/demo.py", [])


def test_a_cache_that_another_user_has_put_there_is_not_used(nameless):
    (nameless / f"cache-of-{os.geteuid()}").symlink_to("/usr")
    with pytest.raises(BdfError, match=r"belongs to another user.*set XDG_CACHE_HOME or TMPDIR"):
        local_path("~/.cache/bdf_jax")


def test_a_home_in_a_configuration_s_name(monkeypatch, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    (home / "mine.py").write_text((ROOT / "configs" / "regdb.py").read_text())
    assert read_config("~/mine.py", []).data.dataset == "regdb"
    done = subprocess.run(
        [sys.executable, ROOT / "train.py", "--config=~/mine.py"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.endswith("error: the following arguments are required: --workdir\n")


@pytest.mark.parametrize("place", ["data.dir", "workdir", "model"])
def test_a_folder_of_checkpoints_or_records_needs_a_name_in_utf8(place):
    """The libraries that write there take no other; the images may lie where they like."""
    name = os.fsdecode("男".encode("gbk"))
    action = {
        "data.dir": lambda: open_dataset(vary(Config(), {"data.dir": f"/none/{name}"}).data),
        "workdir": lambda: run(Config(), f"/none/{name}"),
        "model": lambda: bdf_jax.load(f"/none/{name}"),
    }[place]
    with pytest.raises(BdfError, match=r"\\udcc4\\udcd0: the name is not UTF-8"):
        action()


def command(module, *words):
    import argparse

    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    arguments = parser.parse_args([f"{word}" for word in words])
    arguments.overrides = []
    module.run(arguments)


WORLD = Config(data=vary(Config(), {"data.world.train_ids": 4, "data.world.test_ids": 2}).data)
DEMO = f"{ROOT}/configs/demo.py"
TAKERS = {
    "train: workdir": lambda: run(WORLD, OTHER),
    "train: data.dir": lambda: run(vary(WORLD, {"data.dir": GS}), "run"),
    "train: data.root": lambda: run(vary(WORLD, {"data.root": GS}), "run"),
    "open_dataset": lambda: open_dataset(vary(WORLD, {"data.dir": GS}).data),
    "network.pretrained": lambda: read_source("hf://owner/name"),
    "a sequence: workdir": lambda: run_jobs([Job("a", Path(GS), WORLD)]),
    "a sequence: data.dir": lambda: run_jobs([Job("a", Path("run"), vary(WORLD, {"data.dir": GS}))]),
    "trials: workdir": lambda: command(trials, f"--config={ROOT}/configs/regdb.py", f"--workdir={GS}"),
    "trials: json": lambda: command(trials, f"--config={ROOT}/configs/regdb.py", "--workdir=run", f"--json={GS}"),
    "ablation": lambda: command(ablation, f"--configs={DEMO}", f"--workdir={GS}"),
    "load": lambda: bdf_jax.load(OTHER),
    "open_gallery": lambda: bdf_jax.open_gallery(GS),
    "embed: model": lambda: command(embed, f"--model={OTHER}", "--images=x", "--modality=visible", "--out=x.npz"),
    "embed: images": lambda: command(embed, "--model=x", "--images", "x", GS, "--modality=visible", "--out=x.npz"),
    "embed: out": lambda: command(embed, "--model=x", "--images=x", "--modality=visible", f"--out={GS}"),
    "search: gallery": lambda: command(search, "--model=x", f"--gallery={GS}", "--query=x"),
    "search: query": lambda: command(search, "--model=x", "--gallery=x", f"--query={GS}"),
    "search: html": lambda: command(search, "--model=x", "--gallery=x", "--query=x", f"--html={GS}"),
    "export: model": lambda: command(export, f"--model={OTHER}", "--out=x"),
    "export: out": lambda: command(export, "--model=x", f"--out={GS}"),
    "plot: workdir": lambda: command(plot, OTHER, "--out=x.png"),
    "plot: out": lambda: draw_curves([], [], f"{GS}.png"),
    "check-data": lambda: command(check_data, "--dataset=sysu_mm01", f"--root={GS}"),
    "a world": lambda: write_world(GS, layout="sysu_mm01", train_ids=4, test_ids=2),
    "features": lambda: evaluate_files("sysu_mm01", GS),
    "any file to write": lambda: check_output(GS, "--out"),
    "any file that is written": lambda: replaced(GS).__enter__(),
}


@pytest.mark.parametrize("taker", list(TAKERS))
def test_whoever_takes_a_path_refuses_an_address_and_makes_nothing(taker):
    with pytest.raises(BdfError, match=r"found a (gs|hf|abfss):// address, which is not supported"):
        TAKERS[taker]()


def test_an_image_by_its_address_is_refused():
    from bdf_jax.api.pictures import gather

    with pytest.raises(BdfError, match="found a https:// address"):
        gather([np.zeros((4, 4), np.uint8), "https://example.org/a.jpg"])


@pytest.mark.parametrize(
    "flags",
    [
        [f"--workdir={OTHER}"],
        ["--workdir=x", f"--json={GS}"],
        ["--workdir=x", f"--save_features={GS}"],
        ["--workdir=x", f"--report={OTHER}"],
        ["--workdir=x", f"--data_dir={GS}"],
        [f"--features=x,{GS}", "--dataset=regdb"],
        ["--features=x", f"--compare={GS}", "--dataset=regdb"],
        ["--features=x", f"--root={GS}", "--dataset=regdb"],
    ],
)
def test_evaluate_refuses_an_address_before_it_looks_at_anything_else(flags):
    done = subprocess.run([sys.executable, ROOT / "evaluate.py", *flags], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.search("found a (gs|abfss):// address, which is not supported.*gs:// and s3:// are", done.stderr)
