"""A whole run: from a configuration and a work folder to a trained, saved and evaluated network."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import jax

from bdf_jax.checkpoints import Checkpoints, Metadata
from bdf_jax.config import Config
from bdf_jax.data.dataset import Dataset, open_dataset
from bdf_jax.data.loader import train_batches
from bdf_jax.data.sampler import make_sampler, steps_per_epoch
from bdf_jax.evaluation.workdir import evaluate_workdir, validation_map
from bdf_jax.models import Network
from bdf_jax.training.compile import compile_step
from bdf_jax.training.events import check_wandb, open_events
from bdf_jax.training.optimiser import make_optimiser, schedule
from bdf_jax.training.pictures import DerivativeGrid
from bdf_jax.training.preemption import Preempted
from bdf_jax.training.state import TrainState, initial_state
from bdf_jax.training.watch import Watch
from bdf_jax.training.workdir import MetricsFile, claimed


def run(config: Config, workdir: str | Path) -> list[dict]:
    """Trains what is left to train of the run in `workdir` and evaluates its network.

    Args:
      config: what to train; the same as before where the folder holds a run already.
      workdir: where checkpoints and metrics go; made where missing.

    Returns:
      The rows of the table, as `evaluate.py --json` writes them.

    Raises:
      BdfError: whatever the user can mend: configuration, data, disk, a loss that is not finite.
      Preempted: SIGTERM.
    """
    check_wandb(config.training.wandb)
    with claimed(workdir, config) as folder:
        dataset = open_dataset(config.data)
        total = total_steps(config, dataset)
        _introduce(config, dataset, total)
        train(config, dataset, folder, total)
        return evaluate_workdir(folder, config=config.evaluation, dataset=dataset)


def train(config: Config, dataset: Dataset, folder: Path, total: int) -> TrainState:
    """Steps from the last checkpoint to the last step, saving on the way."""
    classes = len(make_sampler(dataset.train.index, config.data.identities, config.data.images).rows)
    network, optimiser = Network(config.model, classes), make_optimiser(config, total)
    compiled = compile_step(network, optimiser, config)
    metadata = Metadata(config, dataset.fingerprint, classes)

    with contextlib.closing(Checkpoints(folder)) as checkpoints, _sigterm() as terminated:
        checkpoints.expect(metadata)
        state = initial_state(
            network,
            optimiser,
            config.training.seed,
            config.data.image_size,
            pretrained=not checkpoints.steps(),  # a run that continues needs neither the file nor the network
        )
        state, start = checkpoints.restore(compiled.place_state(state))
        if start >= total:
            print(f"{folder}: the run is finished: {start} of {total} steps are done")
            return state
        if start:
            print(f"{folder}: continuing from step {start} of {total}")
        rate = schedule(config.optimiser, config.training.epochs, total)
        file = MetricsFile(folder / "metrics.jsonl", start)
        events = open_events(folder, config, start)
        images = 2 * config.data.identities * config.data.images
        watch = Watch(file, start, total, config.training.log_every, rate, events=events, images_per_step=images)
        grid = DerivativeGrid(dataset.train, config) if events and DerivativeGrid.needed(config) else None
        batches = train_batches(dataset.train, config.data, seed=config.training.seed, start=start, stop=total)
        with contextlib.closing(file), contextlib.closing(watch), contextlib.closing(batches):
            for step in range(start + 1, total + 1):
                state, metrics = compiled.step(state, *compiled.place_batch(*watch.next_batch(batches)))
                watch.add(step, metrics)

                stop = terminated.is_set()
                validate = config.training.validate_every and step % config.training.validate_every == 0
                if stop or validate or step == total or step % config.training.checkpoint_every == 0:
                    watch.check()  # a state is saved only once it is known to be finite
                    score = validation_map(config, _variables(state), classes, dataset) if validate else None
                    if score is not None:
                        watch.validated(step, score)
                    if grid:
                        watch.show(step, "derivatives", grid.draw(_variables(state)))
                    checkpoints.save(step, state, metadata, score)
                    watch.pause()
                if stop:
                    checkpoints.wait()
                    raise Preempted(f"SIGTERM at step {step} of {total}: saved; the same command continues from here")
            watch.say(checkpoints.summary())
    return state


def _variables(state: TrainState) -> dict:
    return {"params": state.params, "batch_stats": state.batch_stats}


def total_steps(config: Config, dataset: Dataset) -> int:
    """`training.steps`, or those of `training.epochs`."""
    if config.training.steps:
        return config.training.steps
    epoch = steps_per_epoch(dataset.train.index, config.data.identities, config.data.images)
    return max(1, round(config.training.epochs * epoch))


def _introduce(config: Config, dataset: Dataset, total: int) -> None:
    index = dataset.train.index
    devices = jax.devices()
    print(
        f"{dataset.name} in {dataset.root}: {len(index)} training images of {len(set(index.pids.tolist()))} "
        f"identities, {len(dataset.test)} test images\n"
        f"{config.model.arch}, {config.data.identities} x {config.data.images} pairs of "
        f"{config.data.image_size[0]}x{config.data.image_size[1]} pixels, {total} steps, "
        f"{len(devices)} {devices[0].device_kind} device{'s' * (len(devices) > 1)}, {config.training.compiler}"
    )


@contextlib.contextmanager
def _sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM, the usual notice of preemption, sets instead of ending the process."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event  # only the main thread may handle signals
        return
    before = signal.signal(signal.SIGTERM, lambda *_: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, before)
