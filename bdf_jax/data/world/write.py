"""Writes a world to disk: several processes, all or nothing."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bdf_jax.data.world.plan import Plan, WorldSpec, make_plan, make_spec
from bdf_jax.data.world.worker import write_share
from bdf_jax.datasets.benchmark import RECORD
from bdf_jax.errors import BdfError
from bdf_jax.paths import local_path
from bdf_jax.progress import bar as progress_bar
from bdf_jax.trouble import refuse_trouble

WORTH_A_PROCESS = 400  # pictures; starting a process costs about half a second


def write_world(
    out: str | os.PathLike[str],
    *,
    layout: str,
    train_ids: int | None = None,
    test_ids: int | None = None,
    val_ids: int | None = None,
    seed: int = 0,
    images: int | None = None,
    size: tuple[int, int] = (128, 64),
    correlation: float = 0.4,
    geometry: str = "small",
    sensor: str | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Writes a synthetic visible-infrared world in the layout of a published data set.

    The same parameters give the same bytes, whatever the number of processes. It appears under its name only when
    complete. A complete world of the same parameters is kept.

    Args:
      out: folder to make.
      layout: "sysu_mm01", "regdb" or "llcm".
      train_ids: identities to train on (RegDB: in each of the ten splits; SYSU-MM01: validation identities included).
      test_ids: identities to evaluate on.
      val_ids: SYSU-MM01: how many of `train_ids` are official validation identities; None: one in eight, at least 2.
      seed: another seed, other people, cameras and splits.
      images: images of an identity in each camera; None: 4, for RegDB 10.
      size: (height, width), pixels.
      correlation: share of luma in the near-infrared reflectance, 0..1; the rest is independent of colour.
      geometry: "small", or "full" for the identities, cameras and image counts of the real data set.
      sensor: "nir" (active near infrared) or "thermal"; None: thermal for RegDB.
      workers: processes; None: one a core.
      progress: shows a progress bar on standard error.

    Returns:
      The folder.

    Raises:
      BdfError: impossible parameters, `out` holds something else, or the disk cannot take it.
    """
    spec = make_spec(
        layout,
        train_ids,
        test_ids,
        val_ids=val_ids,
        seed=seed,
        images=images,
        size=size,
        correlation=correlation,
        geometry=geometry,
        sensor=sensor,
    )
    if workers is not None and workers < 1:
        raise BdfError(f"workers: expected at least 1, found {workers}")
    root = local_path(out, "--out").absolute()
    if _is_complete(root, spec):
        if progress:
            print(f"{root}: this world is already written, kept", file=sys.stderr)
        return root
    plan = make_plan(spec)
    partial = _make_partial(root, spec, plan)
    try:
        for folder in sorted({str(Path(shot.path).parent) for shot in plan.shots} | set(plan.folders)):
            (partial / folder).mkdir(parents=True, exist_ok=True)
        for name, content in plan.files().items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_bytes(content)
        with progress_bar(total=len(plan.shots), desc=f"world {root.name}", unit="image", disable=not progress) as bar:
            _write_images(spec, plan, partial, workers or _cores(), bar.update)
        (partial / RECORD).write_text(json.dumps(dataclasses.asdict(spec), indent=1) + "\n")
        partial.chmod(0o777 & ~_umask())  # temporary folders are private, data sets are not
        _take_name(partial, root, spec)
    except OSError as error:
        raise BdfError(f"{root}: cannot write the world: {error}; nothing was left behind") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return root


def _is_complete(root: Path, spec: WorldSpec) -> bool:
    """Whether `root` is this very world already; False when there is nothing.

    Raises:
      BdfError: `root` holds anything else.
    """
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        found = dict(json.loads((root / RECORD).read_text()))
    except (OSError, ValueError, TypeError) as error:
        refuse_trouble(error, f"{root / RECORD}: cannot be read")
        raise BdfError(
            f"{root}: expected nothing or a world written earlier ({RECORD}), found other content; name another folder"
        ) from None
    wanted = json.loads(json.dumps(dataclasses.asdict(spec)))
    if found == wanted:
        return True
    differs = [
        f"{key} {found.get(key)!r} instead of {value!r}" for key, value in wanted.items() if found.get(key) != value
    ]
    raise BdfError(f"{root}: holds another world, with {', '.join(differs)}; name another folder or delete this one")


def _make_partial(root: Path, spec: WorldSpec, plan: Plan) -> Path:
    """A temporary folder beside `root`, on the same disk, after a look at the space there."""
    bytes_each = spec.size[0] * spec.size[1] * (3 if spec.layout == "regdb" else 0.6) + 4096
    needed = int(len(plan.shots) * bytes_each)
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(root.parent).free
        if free < needed:
            raise BdfError(
                f"{root.parent}: {len(plan.shots):,} images need about {needed / 2**20:,.1f} MiB, "
                f"free are {free / 2**20:,.1f} MiB; use another disk or fewer identities"
            )
        return Path(tempfile.mkdtemp(prefix=f".{root.name}.partial-", dir=root.parent))
    except OSError as error:
        raise BdfError(f"{root}: cannot write there: {error}") from error


def _take_name(partial: Path, root: Path, spec: WorldSpec) -> None:
    try:
        partial.rename(root)
    except OSError:
        # Another process may have finished the same world in the meantime; its bytes are ours.
        if not _is_complete(root, spec):
            raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _write_images(spec: WorldSpec, plan: Plan, root: Path, workers: int, report: Callable[[int], object]) -> None:
    shares = max(1, min(workers, -(-len(plan.shots) // WORTH_A_PROCESS)))
    if shares == 1:
        for written in write_share(spec, plan, root, 0, 1):
            report(written)
        return
    # Not multiprocessing: fork is unsafe beside JAX's threads, and spawn would import the caller's main module
    # (JAX, Flax and all) once more in every worker.
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(_process(spec, root, share, shares)) for share in range(shares)]
        pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(shares))
        for process in processes:
            stack.callback(process.terminate)  # leaving early (Ctrl-C, a full disk) ends them all
        for done in concurrent.futures.as_completed([pool.submit(_follow, process, report) for process in processes]):
            done.result()


def _process(spec: WorldSpec, root: Path, share: int, shares: int) -> subprocess.Popen[str]:
    package_parent = str(Path(__file__).resolve().parents[3])
    paths = [package_parent, os.environ.get("PYTHONPATH", "")]
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "bdf_jax.data.world.worker"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    task = {"spec": dataclasses.asdict(spec), "root": str(root), "share": share, "shares": shares}
    process.stdin.write(json.dumps(task))
    process.stdin.close()
    return process


def _follow(process: subprocess.Popen[str], report: Callable[[int], object]) -> None:
    assert process.stdout is not None
    assert process.stderr is not None
    for line in process.stdout:
        report(int(line))
    complaint = process.stderr.read().strip()
    if process.wait() != 0:
        raise OSError(complaint.splitlines()[-1] if complaint else f"a worker ended with code {process.returncode}")
