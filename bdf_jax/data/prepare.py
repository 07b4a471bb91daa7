"""Published tree -> ArrayRecord files under `data.dir`, once for all runs.

    python -m bdf_jax.data.prepare --dataset=sysu_mm01 --root=TREE --dir=DIR

Records lie in DIR/prepared/<dataset>/<key>/, where the key follows from the names, sizes and modification times of the
images, from the contents of some or all of them (`trees/key.py`) and from the split they belong to: another tree, or
the same tree mended, gets records of its own. They are written elsewhere and renamed when complete, so an interrupted
preparation leaves nothing that is taken for one.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISDIR

from bdf_jax import locks
from bdf_jax.config import DataConfig
from bdf_jax.data.levels import AS_STORED, Levels
from bdf_jax.data.records import INDEX, Records, write_index
from bdf_jax.data.trees.tree import Tree
from bdf_jax.datasets import find, read_tree
from bdf_jax.errors import BdfError
from bdf_jax.paths import local_path

OVERHEAD = 1.02  # bytes of records for a byte of images, with a little air


def prepare(tree: Tree, data_dir: str | os.PathLike[str], *, levels: Levels = AS_STORED, progress: bool = True) -> Path:
    """Makes sure that the tree's records are there.

    Several processes may ask at once: one writes, the others wait for it.

    Args:
      tree: whose images are stored as they are, after each was decoded once.
      data_dir: `data.dir`.
      levels: what is white in images of more than 8 bits, for the decoding.
      progress: whether to draw a bar.

    Returns:
      The folder of the ArrayRecord files.

    Raises:
      BdfError: an image that cannot be decoded, a full disk, a folder that cannot be written.
    """
    home = Path(os.path.abspath(local_path(data_dir, "data.dir", utf8=True))) / "prepared" / tree.dataset
    done = home / tree.key
    if (done / INDEX).is_file():
        return done
    with disk_errors(home):
        home.mkdir(parents=True, exist_ok=True)
        with locked(home / f".{tree.key}.lock", progress=progress):
            if not (done / INDEX).is_file():
                _write(tree, home, done, levels, progress)
    return done


@contextlib.contextmanager
def locked(path: Path, *, progress: bool = True) -> Iterator[None]:
    """Holds a lock; waits for one that is held elsewhere."""
    path.parent.mkdir(parents=True, exist_ok=True)

    def busy() -> None:
        if progress:
            print(f"waiting for another process that is writing {path.parent}", file=sys.stderr, flush=True)

    # Without locks both write, each in a folder of its own, and one rename wins.
    with locks.locked(path, busy, impossible=lambda error: None):
        yield


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turns a full or unwritable disk into a message for the user."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise full_disk(folder, str(error)) from error
        raise BdfError(f"data.dir: cannot write {folder}: {error}. Set --config.data.dir to another folder.") from error


def _write(tree: Tree, home: Path, done: Path, levels: Levels, progress: bool) -> None:
    needed = int(OVERHEAD * tree.total_bytes) + (1 << 20)
    free = shutil.disk_usage(home).free
    if free < needed:
        raise full_disk(home, f"{needed >> 20} MiB needed, {free >> 20} MiB free")
    for left in home.glob(f".{tree.key}.incomplete-*"):  # of a run that was killed; the lock is ours
        shutil.rmtree(left, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=f".{tree.key}.incomplete-", dir=home))
    try:
        folder = _build(tree, work, levels, progress)
        write_index(folder, tree.parts)
        with contextlib.suppress(OSError):
            folder.chmod(0o755)  # data.dir may be shared between users
        shutil.rmtree(done, ignore_errors=True)  # without an index: not one of ours that is complete
        try:
            folder.rename(done)
        except OSError:
            if not (done / INDEX).is_file():  # else another process was first (file system without locks)
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _build(tree: Tree, work: Path, levels: Levels, progress: bool) -> Path:
    # Imported here: TensorFlow Datasets takes most of a second, which only a preparation needs.
    import tensorflow_datasets as tfds

    from bdf_jax.data.builder import builder_of

    builder = builder_of(tree.dataset)(data_dir=work)
    builder.progress, builder.levels = progress, levels
    _ask_no_names()
    config = tfds.download.DownloadConfig(manual_dir=Path(tree.root), try_download_gcs=False)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces a download
            builder.download_and_prepare(
                file_format="array_record", download_config=config, download_dir=work / "downloads"
            )
    except (BdfError, OSError):
        raise
    except Exception as error:  # ArrayRecord reports a full disk as a RuntimeError of its own
        free = shutil.disk_usage(work).free
        if free < (64 << 20) or "space" in str(error).lower() or "too large" in str(error).lower():
            raise full_disk(work.parent, str(error)) from error
        raise
    _check(builder, tree)
    return Path(builder.data_dir)


def _ask_no_names() -> None:
    """Lets the sizes of files be asked for where their owner or group has only a number.

    The library for paths below TensorFlow Datasets looks both names up with every size, and fails where there is none:
    in a container of another user, say. Nothing here uses them, so the numbers serve.
    """
    from etils.epath import backend, stat_utils

    local = backend.os_backend
    named = type(local).stat

    def stat(path: str | os.PathLike[str]) -> stat_utils.StatResult:
        try:
            return named(local, path)
        except KeyError:
            found = os.stat(path)
            return stat_utils.StatResult(
                is_directory=S_ISDIR(found.st_mode),
                length=found.st_size,
                mtime=int(found.st_mtime),
                owner=str(found.st_uid),
                group=str(found.st_gid),
                mode=found.st_mode,
            )

    local.stat = stat  # of this one object, which all local paths share


def _check(builder: object, tree: Tree) -> None:
    """The tree must not have changed while it was read, and every record must have arrived."""
    info = builder.info  # type: ignore[attr-defined]
    written = {name: split.num_examples for name, split in info.splits.items()}
    expected = {part: len(index) for part, index in tree.parts.items() if len(index)}
    if {part: written.get(part, 0) for part in expected} != expected:
        raise BdfError(
            f"preparing {tree.root}: expected {expected} images, wrote {written}; the tree changed meanwhile. "
            "Run again."
        )


def full_disk(folder: Path, found: str, also: str = "") -> BdfError:
    """The error for a disk without space; `also` is a further remedy."""
    return BdfError(
        f"data.dir: no space left to write {folder}: {found}. Free some space or set --config.data.dir to a folder on "
        f"another disk{also}; nothing incomplete was kept."
    )


def main(dataset: str, root: str, data_dir: str, levels: Levels = AS_STORED, progress: bool = True) -> Path:
    """What the command does: reads and checks the whole tree (of RegDB, every trial), then prepares it."""
    local_path(data_dir, "--dir", utf8=True)  # before the whole tree is read
    tree = read_tree(dataset, root)
    folder = prepare(tree, data_dir, levels=levels, progress=progress)
    Records(folder, tree.root, levels).tell_narrow()
    counts = ", ".join(f"{len(index):,} {part}" for part, index in tree.parts.items())
    print(f"{find(dataset).layout.title}: {counts} images in {folder}")
    return folder


if __name__ == "__main__":
    from bdf_jax.process import run_command

    parser = argparse.ArgumentParser(prog="python -m bdf_jax.data.prepare", description=__doc__)
    parser.add_argument("--dataset", required=True, help="which data set the tree is")
    parser.add_argument("--root", required=True, metavar="TREE", help="folder of the published tree")
    parser.add_argument("--dir", default=DataConfig.dir, help="where the records go (data.dir of the configuration)")
    parser.add_argument("--white", type=float, help="of images of more than 8 bits: what is white (data.white)")
    parser.add_argument("--black", type=float, help="likewise: what is black")
    given = parser.parse_args()

    def command() -> None:
        """Flags to `main`."""
        main(given.dataset, given.root, given.dir, Levels.of(given.white, given.black, "--"))

    sys.exit(run_command(command))
