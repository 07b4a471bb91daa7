"""A whole run: from a configuration and a work folder to a trained, saved and evaluated network."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bdf_jax import distributed
from bdf_jax.checkpoints import Checkpoints, Metadata, newest_metadata
from bdf_jax.config import Config
from bdf_jax.data.dataset import Dataset, open_dataset
from bdf_jax.data.loader import train_batches
from bdf_jax.data.sampler import make_sampler, steps_per_epoch
from bdf_jax.errors import BdfError
from bdf_jax.evaluation.fitting import fitted
from bdf_jax.evaluation.workdir import evaluate_workdir, validation_map
from bdf_jax.models import Network
from bdf_jax.models.network import check_fits
from bdf_jax.models.starting import check_source
from bdf_jax.parts import leaves, to_dict
from bdf_jax.paths import bucket_address, check_data_places, local_path
from bdf_jax.training.compile import CompiledStep, compile_step
from bdf_jax.training.entries import Entry
from bdf_jax.training.events import check_wandb, keeps_pictures, open_events
from bdf_jax.training.optimiser import schedule
from bdf_jax.training.pictures import ViewGrid
from bdf_jax.training.preemption import Preempted
from bdf_jax.training.stages import Phase, phase_of, phases
from bdf_jax.training.state import TrainState, initial_state
from bdf_jax.training.watch import Watch
from bdf_jax.training.workdir import METRICS, MetricsFile, claimed
from bdf_jax.trouble import IN_TRAINING, check_platform, enough_memory
from bdf_jax.xla import at_risk, avoid_wrong_sums

# Where things lie, and how fast they are read, may differ from host to host.
OF_A_HOST = ("data.root", "data.dir", "data.workers", "data.prefetch", "data.decoded_cache")
VISIBLE_SECONDS = 60  # for which a file that process 0 wrote may take to appear on another host


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a run writes.

    Attributes:
      folder: on this machine.
      name: what messages call it.
      settle: returns when what was saved there lies where it is kept.
    """

    folder: Path
    name: str
    settle: Callable[[], None] = lambda: None


class _PreemptedTogether(distributed.Together, Preempted):
    """All processes stopped after the same step."""


def run(config: Config, workdir: str | Path, *, features_file: str | Path = "") -> list[dict]:
    """Trains what is left to train of the run in `workdir` and evaluates its network.

    Args:
      config: what to train; the same as before where the folder holds a run already.
      workdir: where checkpoints and metrics go; made where missing.
      features_file: where the features of the test images are saved at the end; default: nowhere.

    Returns:
      The rows of the table, as `evaluate.py --json` writes them.

    Raises:
      BdfError: whatever the user can mend: configuration, data, disk, a loss that is not finite.
      Preempted: SIGTERM or SIGHUP.
      KeyboardInterrupt: Ctrl-C; its text says which checkpoint is kept.
    """
    check_data_places(config.data)
    if at_risk(config):
        avoid_wrong_sums()
    check_platform()
    check_wandb(config.training.wandb)
    distributed.agree("their configuration", {name: value for name, value in _fields(config) if name not in OF_A_HOST})
    check_fits(config)
    with _claimed_by_first(workdir, config) as place:
        folder = place.folder
        distributed.on_first(lambda: _look_at_weights(config, folder))
        dataset = open_dataset(config.data, progress=distributed.is_first())
        distributed.agree("their data", {"fingerprint": dataset.fingerprint})
        total = total_steps(config, dataset)
        if distributed.is_first():
            _introduce(config, dataset, total)
        try:
            with enough_memory(IN_TRAINING):
                train(config, dataset, place, total)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_kept(folder)) from None
        return evaluate_workdir(folder, config=config, dataset=dataset, features_file=features_file, own=True)


def _look_at_weights(config: Config, folder: Path) -> None:
    """Refuses weights that cannot be read before hours go into preparing data."""
    if config.network.pretrained and newest_metadata(folder) is None:
        check_source(config.network.pretrained)


def _refuse_converted(workdir: str | Path) -> None:
    """Refuses the folder of a converted network, which has no training that could go on."""
    newest = newest_metadata(Path(workdir))
    if newest is not None and newest[1].converted:
        raise BdfError(
            f"--workdir={workdir}: holds a network converted from {newest[1].converted}, and no training that could "
            f"go on; to start one from it, name another --workdir and --config.network.pretrained={workdir}"
        )


def train(config: Config, dataset: Dataset, place: Place, total: int) -> TrainState:
    """Steps from the last checkpoint to the last step, saving on the way."""
    folder = place.folder
    classes = len(make_sampler(dataset.train.index, config.data.identities, config.data.images).rows)
    network, plan = Network.of(config, classes), phases(config, total)
    steps: dict[Phase, CompiledStep] = {}

    def compiled_for(step: int) -> CompiledStep:
        phase = phase_of(plan, step)
        if phase not in steps:
            steps[phase] = compile_step(network, config, phase, total)
        return steps[phase]

    compiled = compiled_for(1)  # places states and batches for all of them
    metadata = Metadata(config, dataset.fingerprint, classes)

    say = print if distributed.is_first() else (lambda line: None)
    with contextlib.closing(Checkpoints(folder, place.settle)) as checkpoints, distributed.termination() as termination:
        checkpoints.expect(metadata)
        new = not checkpoints.steps()  # a run that continues needs neither the file nor the network
        state = initial_state(network, config, pretrained=new and distributed.is_first())
        state = compiled.place_state(distributed.from_first(state) if new else state)
        restored, start = checkpoints.restore(compiled.global_state(state))
        distributed.agree("the checkpoint to continue from", {"step": start})
        if start >= total:
            say(f"{place.name}: the run is finished: {start} of {total} steps are done")
            return restored
        if start:
            say(f"{place.name}: continuing from step {start} of {total}")
            state = compiled.place_state(restored)
        del restored
        rate = schedule(config.optimiser, config.training.epochs, total)
        file = MetricsFile(folder / METRICS, start) if distributed.is_first() else _NoMetrics()
        events = open_events(folder, config, start)
        images = 2 * config.data.identities * config.data.images
        watch = Watch(
            file, start, total, config.training.log_every, rate, distributed.is_first(), events=events,
            images_per_step=images, losses=tuple(name for name, loss in config.losses.items() if loss.weight),
        )  # fmt: skip
        grid = ViewGrid(dataset.train, network, config) if events and config.views else None
        batches = train_batches(
            dataset.train, config.data, seed=config.training.seed, start=start, stop=total, pairs=compiled.pairs
        )
        with contextlib.closing(file), contextlib.closing(watch), contextlib.closing(batches):
            for step in range(start + 1, total + 1):
                phase = phase_of(plan, step)
                if phase.enter is not None and step == phase.start + 1:
                    state = compiled.place_state(_entered(phase.enter, state))
                state, metrics = compiled_for(step).step(state, *compiled.place_batch(*watch.next_batch(batches)))
                watch.add(step, metrics)

                if grid and step == phase.stop and keeps_pictures(config):
                    watch.show(step, f"views-{phase.name}", grid.draw(_variables(state), whole=True))
                stop = termination.reached(step)
                validate = config.training.validate_every and step % config.training.validate_every == 0
                if stop or validate or step == total or step % config.training.checkpoint_every == 0:
                    # A state is saved only once it is known to be finite.
                    watch.check(validating=bool(validate))
                    if config.network.metric and (validate or step == total):
                        metric = fitted(config, _variables(state), classes, dataset.train)
                        stats = {**distributed.local(state.batch_stats), "metric": metric}
                        state = compiled.place_state(distributed.local(state).replace(batch_stats=stats))
                    score = validation_map(config, _variables(state), classes, dataset) if validate else None
                    if score is not None:
                        watch.validated(step, score)
                    if grid:
                        watch.show(step, "views", grid.draw(_variables(state)))
                    checkpoints.save(step, compiled.global_state(state), metadata, score)
                    watch.pause()
                if stop or (step == total and termination.asked_in_any()):
                    checkpoints.wait()
                    raise _PreemptedTogether(
                        f"{termination.reason} at step {step} of {total}: saved; the same command continues from here"
                    )
            watch.say(checkpoints.summary())
    return state


def _entered(enter: Entry, state: TrainState) -> TrainState:
    """The state with the parameters that a stage begins with."""
    own = distributed.local(state)
    params = enter(jax.tree.map(np.array, own.params))
    return own.replace(params=distributed.from_first(params))


def _variables(state: TrainState) -> dict:
    """Parameters and batch statistics on this process's devices."""
    return distributed.local({"params": state.params, "batch_stats": state.batch_stats})


def total_steps(config: Config, dataset: Dataset) -> int:
    """`training.steps`, or those of `training.epochs`."""
    if config.training.steps:
        return config.training.steps
    epoch = steps_per_epoch(dataset.train.index, config.data.identities, config.data.images)
    return max(1, round(config.training.epochs * epoch))


def _kept(folder: Path) -> str:
    """What an interrupted run goes on from."""
    try:
        newest = newest_metadata(folder)
    except BdfError as error:
        return f"which checkpoint is kept cannot be told ({error})"
    if newest:
        return f"the checkpoint of step {newest[0]} is kept; the same command continues from there"
    return "before the first checkpoint, so nothing is kept; the same command starts anew (training.checkpoint_every)"


def _introduce(config: Config, dataset: Dataset, total: int) -> None:
    index = dataset.train.index
    devices = jax.devices()
    print(
        f"{dataset.name} in {dataset.root}: {len(index)} training images of {len(set(index.pids.tolist()))} "
        f"identities, {len(dataset.test)} test images\n"
        f"{config.method or 'a method of your own'}, {config.network.trunk.name}, "
        f"{config.data.identities} x {config.data.images} pairs of "
        f"{config.data.image_size[0]}x{config.data.image_size[1]} pixels, {total} steps, "
        f"{len(devices)} {devices[0].device_kind} device{'s' * (len(devices) > 1)}, {config.training.compiler}"
    )


@contextlib.contextmanager
def _claimed_by_first(workdir: str | Path, config: Config) -> Iterator[Place]:
    """The work folder, claimed by process 0 for all of them.

    Raises:
      BdfError: see `claimed` and `claimed_bucket`; or this process does not see what process 0 wrote there.
    """
    with contextlib.ExitStack() as stack:
        address = bucket_address(workdir, "--workdir")
        if address:
            from bdf_jax.buckets.run import claimed_bucket

            if distributed.client() is not None:
                raise BdfError(f"--workdir={address}: a run of several processes needs a folder on a disk they share")
            folder, mirror = stack.enter_context(claimed_bucket(address, config, _refuse_converted))
            yield Place(folder, address, mirror.settle)
            return
        folder = local_path(workdir, "--workdir", utf8=True).absolute()
        distributed.on_first(lambda: _refuse_converted(folder))
        distributed.on_first(lambda: str(stack.enter_context(claimed(workdir, config))))
        until = time.monotonic() + VISIBLE_SECONDS
        while not (folder / "config.json").exists():
            if time.monotonic() > until:
                raise BdfError(
                    f"--workdir={workdir}: this process does not see what process 0 wrote there; a run of several "
                    "processes needs one work folder on a disk that all hosts share"
                )
            time.sleep(0.1)
        yield Place(folder, str(folder))
        distributed.barrier("the work folder is not used any more")


class _NoMetrics(MetricsFile):
    """The metrics file of the processes that write none."""

    def __init__(self) -> None:
        pass

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Process 0 writes it."""

    def close(self) -> None:
        """Nothing is open."""


def _fields(config: Config) -> Iterator[tuple[str, Any]]:
    """Every field as it is written on the command line, with its value."""
    for name, value in leaves(config).items():
        yield name, to_dict(value)
