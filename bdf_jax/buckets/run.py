"""A run whose work folder is in a bucket: claimed there, written here, copied as it is written."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from bdf_jax.buckets.claim import claimed_place
from bdf_jax.buckets.mirror import Mirror
from bdf_jax.buckets.naming import named
from bdf_jax.buckets.store import open_store
from bdf_jax.config import Config
from bdf_jax.errors import BdfError
from bdf_jax.locks import locked
from bdf_jax.paths import UNWRITABLE, bucket_address, check_name, local_path
from bdf_jax.training.workdir import claimed


def staging(address: str, config: Config) -> Path:
    """Where a run of this machine writes what is copied to `address`; its last name is the run's."""
    scheme, _, place = address.partition("://")
    return local_path(config.data.dir, "data.dir", utf8=True).absolute() / "buckets" / scheme / place


@contextlib.contextmanager
def claimed_bucket(
    workdir: str, config: Config, check: Callable[[Path], None] = lambda folder: None
) -> Iterator[tuple[Path, Mirror]]:
    """The folder of this machine that stands for a work folder in a bucket, with what the bucket has of the run.

    When the block ends, however it ends, the bucket has everything that was finished in it.

    Args:
      workdir: the address.
      config: of the run.
      check: refuses what the bucket has, before the folder becomes this run's.

    Raises:
      BdfError: another run uses the place, or it belongs to another configuration or program.
      Trouble: the storage refuses.
    """
    address = bucket_address(workdir, "--workdir")
    store, folder = open_store(address, "--workdir"), staging(address, config)
    check_name(folder, UNWRITABLE, "--workdir")
    with contextlib.ExitStack() as stack:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder.parent / f".{folder.name}.lock", _busy(address), _impossible))
            shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed; the bucket counts
            folder.mkdir()
        except OSError as error:
            raise BdfError(
                f"data.dir={config.data.dir}: a run in a bucket is written there first, which cannot be done: "
                f"{error.strerror or error}"
            ) from error
        mirror = Mirror(store, folder, stack.enter_context(claimed_place(store, "--workdir")))
        mirror.pull()
        with named(folder, address):
            check(folder)
            try:
                with claimed(folder, config):
                    mirror.start()
                    yield folder, mirror
            finally:
                mirror.close()
                mirror.settle()
        shutil.rmtree(folder, ignore_errors=True)


def _busy(address: str) -> Callable[[], None]:
    def busy() -> None:
        raise BdfError(
            f"--workdir={address}: another run on this machine is using this folder; wait for it to end, stop it, or "
            "name another folder"
        )

    return busy


def _impossible(error: OSError) -> None:
    """Without locks on this disk the claim in the bucket counts alone."""
