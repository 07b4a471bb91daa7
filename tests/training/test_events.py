"""TensorBoard's files and Weights & Biases: what is in them, whatever happens to the run or to the disk."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import small
from PIL import Image

from bdf_jax.checkpoints import load_variables
from bdf_jax.config import TrainingConfig, to_dict, vary
from bdf_jax.data.dataset import open_dataset
from bdf_jax.data.images import read_pixels
from bdf_jax.errors import BdfError
from bdf_jax.models import Network
from bdf_jax.parts import Named
from bdf_jax.pixels import MEAN, STD
from bdf_jax.training.events import EVENT_FILES, Events, TensorBoard, check_wandb, open_events, read_events
from bdf_jax.training.loop import run
from bdf_jax.training.pictures import GAP, ViewGrid
from bdf_jax.views import Grey, Middle, Pixelwise, View

ROOT = Path(__file__).parents[2]
RUN = (
    "import json, sys\n"
    "from bdf_jax import config\n"
    "from bdf_jax.training.loop import run\n"
    "run(config.from_dict(json.loads(sys.argv[1])), sys.argv[2])\n"
)


def scalars(folder):
    """(step, name) -> value, in the order of writing; a list, so that what is there twice is seen."""
    return [
        ((event.step, value.tag), value.simple_value)
        for path in sorted(folder.glob(EVENT_FILES), key=os.path.getmtime)
        for _, event in read_events(path)
        for value in event.summary.value
        if value.WhichOneof("value") == "simple_value"
    ]


def pictures(folder):
    return {
        event.step: np.asarray(Image.open(io.BytesIO(value.image.encoded_image_string)))
        for path in folder.glob(EVENT_FILES)
        for _, event in read_events(path)
        for value in event.summary.value
        if value.tag == "views"
    }


def metric_lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


FAKE_WANDB = """
import json, os
class Image:
    def __init__(self, array): self.shape = array.shape
class Run:
    def log(self, values, step):
        if os.environ.get("FAKE_WANDB_FAILS"): raise ConnectionError("no network")
        with open(self.path, "a") as file:
            numbers = {k: list(v.shape) if isinstance(v, Image) else v for k, v in values.items()}
            file.write(json.dumps({"step": step, **numbers}) + "\\n")
    def finish(self): open(self.path + ".finished", "w").close()
def init(**options):
    if os.environ.get("FAKE_WANDB_REFUSES"): raise RuntimeError("api_key not configured")
    run = Run()
    run.path = os.path.join(options["dir"], "fake-wandb.jsonl")
    with open(run.path + ".options", "a") as file: file.write(json.dumps(options) + "\\n")
    return run
"""


@pytest.fixture(scope="module")
def fake_wandb(tmp_path_factory):
    """A package `wandb` that writes into the run's folder what it is given."""
    path = tmp_path_factory.mktemp("path")
    (path / "wandb.py").write_text(FAKE_WANDB)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(path))
        patch.delitem(sys.modules, "wandb", raising=False)
        yield
    sys.modules.pop("wandb", None)


@pytest.fixture(scope="module")
def watched(fake_wandb, tiny_config, tmp_path_factory):
    """A run with validation and everything to be seen of it; no checkpoint but those of validation."""
    changes = {
        "data.world.train_ids": 8, "data.train_split": "train", "training.validate_every": 3,
        "network.bn": "per_view", "training.checkpoint_every": 100, "training.wandb": "people",
    }  # fmt: skip
    config = vary(tiny_config, changes)
    workdir = tmp_path_factory.mktemp("events") / "watched"
    run(config, workdir)
    return config, workdir


def test_every_number_of_metrics_jsonl_is_in_the_event_file_once_and_the_rates_beside_it(watched):
    _, workdir = watched
    found = scalars(workdir)
    assert len(found) == len(dict(found)), "a number was written twice"
    assert [line["step"] for line in metric_lines(workdir)] == [1, 2, 3, 4, 5, 6]
    expected = {
        (line["step"], name): value for line in metric_lines(workdir) for name, value in line.items() if name != "step"
    }
    assert {(step, "validation/mAP") for step in (3, 6)} <= set(expected)
    assert {"loss", "mdl/V>I", "active/Dv", "deviation/Di", "accuracy/V", "learning_rate"} <= {n for _, n in expected}
    numbers = dict(found)
    for key, value in expected.items():
        assert numbers.pop(key) == np.float32(value), key
    assert {name for _, name in numbers} == {"rate/images_per_second", "rate/waiting_for_data"}
    assert all(0 <= value <= 1 for (_, name), value in numbers.items() if name == "rate/waiting_for_data")
    assert all(value > 0 for (_, name), value in numbers.items() if name == "rate/images_per_second")


def test_the_picture_holds_the_base_images_and_what_the_network_derives_from_them(watched):
    """Against the whole network, one image at a time, with the checkpoint's running statistics."""
    config, workdir = watched
    dataset = open_dataset(config.data)
    metadata, variables, step = load_variables(workdir, 6)
    network = Network.of(metadata.config, metadata.num_classes)
    derive = jax.jit(lambda images: network.apply(variables, images, train=False)["pixels"])
    shown = pictures(workdir)
    assert set(shown) == {3, 6}
    height, width = config.data.image_size
    for column, pid in enumerate(np.unique(dataset.train.index.pids)[:6]):
        for base in (0, 1):
            row = np.flatnonzero((dataset.train.index.pids == pid) & (dataset.train.index.modalities == base))[0]
            image = read_pixels(dataset.train.encoded(int(row)), "image", config.data.image_size)
            normalised = (image / 255.0 - MEAN) / STD
            both = dict.fromkeys("VI", normalised.astype(np.float32)[None])
            derived = np.asarray(derive(both)[("Dv", "Di")[base]][0])
            pixels = np.clip(np.round((derived * STD + MEAN) * 255), 0, 255)
            left = column * (width + GAP)
            for line, expected, off in ((2 * base, image, 0), (2 * base + 1, pixels, 1)):
                top = line * (height + GAP)
                part = shown[step][top : top + height, left : left + width].astype(int)
                assert np.abs(part - expected).max() <= off  # half a grey value may round either way


@pytest.mark.parametrize(("maker", "names"), [(Pixelwise(), "V"), (Middle(), "VI"), (Grey(), "I")], ids=str)
def test_every_kind_of_view_can_be_drawn(tiny_config, maker, names):
    views = Named({f"D{name.lower()}": View(name, maker) for name in names})
    network = small.base_derivative(tiny_config.network, 6, views)
    split = open_dataset(tiny_config.data).train
    height, width = tiny_config.data.image_size
    images = dict.fromkeys("VI", np.zeros((1, height, width, 3), np.float32))
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), images, train=True))
    variables = jax.tree.map(lambda leaf: jax.numpy.full(leaf.shape, 0.5), shapes)
    drawn = ViewGrid(split, network, tiny_config).draw(variables)
    assert drawn.shape == ((2 + len(names)) * (height + GAP) - GAP, 6 * (width + GAP) - GAP, 3)


def test_without_tensorboard_there_is_no_file(tiny_config, tmp_path):
    assert not open_events(tmp_path, vary(tiny_config, {"training.tensorboard": False}), 0)
    assert not list(tmp_path.iterdir())


def test_watching_changes_no_bit_of_training(watched, tmp_path):
    config, workdir = watched
    run(vary(config, {"training.tensorboard": False, "training.wandb": ""}), tmp_path)
    assert not list(tmp_path.glob(EVENT_FILES))
    assert (tmp_path / "metrics.jsonl").read_bytes() == (workdir / "metrics.jsonl").read_bytes()
    variables = [load_variables(folder, 6)[1] for folder in (workdir, tmp_path)]
    jax.tree.map(np.testing.assert_array_equal, *variables)


def test_a_killed_run_leaves_readable_events_and_its_continuation_writes_no_step_twice(tiny_config, tmp_path):
    workdir = tmp_path / "killed"
    config = vary(tiny_config, {"training.steps": 40, "training.checkpoint_every": 15})
    command = [sys.executable, "-c", RUN, json.dumps(to_dict(config)), str(workdir)]
    with open(tmp_path / "log.txt", "w") as log, subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT) as process:
        deadline = time.monotonic() + 240
        while not ((workdir / "checkpoints" / "15").is_dir() and len(metric_lines(workdir)) >= 18):
            assert process.poll() is None, (tmp_path / "log.txt").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    before = dict(scalars(workdir))
    assert {step for step, _ in before} >= set(range(1, 18))
    (killed,) = workdir.glob(EVENT_FILES)
    assert sum(len(record) for record, _ in read_events(killed)) == killed.stat().st_size, "half a record"

    run(config, workdir)
    numbers = [pair for pair in scalars(workdir) if not pair[0][1].startswith("rate/")]
    assert len(numbers) == len(dict(numbers)), "a number was written twice"
    assert {step for (step, _), _ in numbers} == set(range(1, 41))
    restarts = [
        event.step
        for path in workdir.glob(EVENT_FILES)
        for _, event in read_events(path)
        if event.HasField("session_log")
    ]
    assert restarts == [16], "TensorBoard is told from which step on to forget"


def test_a_record_that_was_cut_ends_the_file_and_goes_when_the_run_continues(tmp_path):
    board = TensorBoard(tmp_path, 0)
    for step in (1, 2, 3):
        board.scalars(step, {"loss": float(step)})
    board.close()
    (path,) = tmp_path.glob(EVENT_FILES)
    path.write_bytes(path.read_bytes()[:-3])
    assert [step for (step, _), _ in scalars(tmp_path)] == [1, 2]
    os.utime(path, (0, 0))
    TensorBoard(tmp_path, 1).close()
    assert scalars(tmp_path) == [((1, "loss"), 1.0)]
    path.write_bytes(b"no event file at all, but of that name")
    TensorBoard(tmp_path, 1).close()
    assert scalars(tmp_path) == []


def test_tensorboards_own_reader_reads_what_was_written(tmp_path):
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="package tensorboard is not installed"
    )
    board = TensorBoard(tmp_path, 0)
    for step in (1, 2, 3):
        board.scalars(step, {"loss": step / 4, "mdl/V>I": 1.0})
    board.image(2, "views", np.zeros((4, 6, 3), np.uint8))
    board.close()
    time.sleep(1.1)  # files are read in the order of the seconds in their names
    board = TensorBoard(tmp_path, 2)
    board.scalars(3, {"loss": 7.0})
    board.close()
    found = reader.EventAccumulator(str(tmp_path))
    found.Reload()
    assert [(e.step, e.value) for e in found.Scalars("loss")] == [(1, 0.25), (2, 0.5), (3, 7.0)]
    assert (found.Images("views")[0].height, found.Images("views")[0].width) == (4, 6)


FULL = (
    "import resource, signal, sys\n"
    "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    "from pathlib import Path\n"
    "from bdf_jax.training.events import Events, TensorBoard\n"
    "folder = Path(sys.argv[1])\n"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))\n"
    "events = Events({f'events in {folder}': lambda: TensorBoard(folder, 0)})\n"
    "for step in range(1, 100):\n"
    "    events.scalars(step, {'loss': 1.0})\n"
    "print('still training', bool(events))\n"
    "events.close()\n"
)


@pytest.mark.parametrize("limit", [10, 1000])
def test_a_full_disk_ends_the_events_with_one_warning_and_not_the_training(tmp_path, limit):
    """The file-size limit of the process stands in for the disk."""
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path), str(limit)],
        capture_output=True, text=True, check=False, cwd=ROOT, timeout=120,
    )  # fmt: skip
    assert done.stdout == "still training False\n", done.stderr
    assert done.stderr.count("training goes on without it") == 1
    assert f"events in {tmp_path}: cannot be written any more" in done.stderr
    assert "Traceback" not in done.stderr
    (path,) = tmp_path.glob(EVENT_FILES)
    whole = [event.step for _, event in read_events(path) if event.summary.value]
    assert whole == list(range(1, len(whole) + 1))


def test_writing_a_step_costs_little(tmp_path):
    """Forty numbers a step, the most that a run of the full method logs, against steps of at least 100 ms."""
    board = TensorBoard(tmp_path, 0)
    values = {f"mdl/{i}": 0.5 for i in range(40)}
    began = time.process_time()
    for step in range(1, 201):
        board.scalars(step, values)
    seconds = (time.process_time() - began) / 200
    board.close()
    assert seconds < 0.01


# Weights & Biases.


def test_weights_and_biases_gets_every_number_picture_and_the_configuration(watched):
    config, workdir = watched
    logged = [json.loads(line) for line in (workdir / "fake-wandb.jsonl").read_text().splitlines()]
    numbers = {
        (line["step"], name): value for line in logged for name, value in line.items() if not name.startswith("rate/")
    }
    for step in (3, 6):
        assert tuple(numbers.pop((step, "views"))) == pictures(workdir)[step].shape
    assert numbers == {(line["step"], name): value for line in metric_lines(workdir) for name, value in line.items()}
    assert (workdir / "fake-wandb.jsonl.finished").exists()
    run(config, workdir)  # finished: nothing is opened again
    (options,) = [json.loads(line) for line in (workdir / "fake-wandb.jsonl.options").read_text().splitlines()]
    assert (options["project"], options["name"], options["resume"]) == ("people", "watched", "allow")
    assert options["config"] == json.loads(json.dumps(to_dict(config)))


def test_a_run_that_continues_continues_there_too(fake_wandb, tiny_config, tmp_path):
    config = vary(tiny_config, {"training.wandb": "people"})
    for start in (0, 4):
        open_events(tmp_path, config, start).close()
    ids = [json.loads(line)["id"] for line in (tmp_path / "fake-wandb.jsonl.options").read_text().splitlines()]
    assert len(ids) == 2
    assert len(set(ids)) == 1


def test_a_network_that_goes_away_ends_no_training(fake_wandb, tiny_config, tmp_path, monkeypatch, caplog):
    events = open_events(tmp_path, vary(tiny_config, {"training.wandb": "people"}), 0)
    monkeypatch.setenv("FAKE_WANDB_FAILS", "1")
    for step in range(1, 4):
        events.scalars(step, {"loss": 1.0})
    events.close()
    warnings = [r.getMessage() for r in caplog.records if "training goes on" in r.getMessage()]
    assert len(warnings) == 1
    assert "ConnectionError: no network" in warnings[0]
    assert len(scalars(tmp_path)) == 3  # TensorBoard's file is complete


def test_what_cannot_be_had_is_refused_before_training_with_what_to_do(fake_wandb, tiny_config, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_WANDB_REFUSES", "1")
    with pytest.raises(BdfError, match=r"api_key not configured; log in with `wandb login`, set WANDB_MODE=offline"):
        open_events(tmp_path, vary(tiny_config, {"training.wandb": "people"}), 0)


def test_a_missing_package_is_named_with_the_line_that_installs_it(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BdfError, match=r"'people' asks for Weights & Biases.*pip install wandb"):
        run(vary(tiny_config, {"training.wandb": "people"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    check_wandb("")


def test_only_the_first_process_writes(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    assert not open_events(tmp_path, tiny_config, 0)
    assert not list(tmp_path.iterdir())


def test_no_sink_is_no_work():
    nothing = Events({})
    nothing.scalars(1, {"loss": 1.0})
    nothing.close()
    assert not nothing
    assert TrainingConfig().tensorboard, "event files are the default"
