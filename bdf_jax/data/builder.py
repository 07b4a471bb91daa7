"""The TFDS builder of a tree: the features of a record, and the shards. It needs TensorFlow Datasets but no TensorFlow.

`bdf_jax.data.prepare` is the usual way in. By hand:

    from bdf_jax.data.builder import builder_of
    builder = builder_of("sysu_mm01")(data_dir=DIR)
    builder.download_and_prepare(
        file_format="array_record", download_config=tfds.download.DownloadConfig(manual_dir=TREE)
    )
    source = builder.as_data_source("train+val", decoders={"image": tfds.decode.SkipDecoding()})
"""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from bdf_jax.data.images import cores, verify
from bdf_jax.data.index import ImageIndex
from bdf_jax.data.levels import AS_STORED, Levels
from bdf_jax.data.trees.tree import Layout, Tree
from bdf_jax.datasets import find, read_tree
from bdf_jax.errors import BdfError
from bdf_jax.names import as_bytes, printable
from bdf_jax.progress import bar as progress_bar

SHARD_BYTES = 64 << 20  # TFDS keeps the examples of one shard in memory until the shard is written
READ_AHEAD = 256  # images read and checked ahead of the writer
Example = tuple[bytes, dict[str, Any]]


class _Builder(tfds.core.ShardBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """By shard, not `GeneratorBasedBuilder`: that one keeps a whole split in memory to shuffle it.

    Beyond 1 GB it would sort it on disk, with TensorFlow.

    Attributes:
      layout: of the tree.
      progress: whether to show a progress bar.
      levels: what is white in images of more than 8 bits, which are decoded once.
    """

    VERSION = tfds.core.Version("1.0.0")
    code_path = None  # only for files of checksums; to find it TFDS imports a package that it does not declare
    layout: Layout
    progress: bool = True
    levels: Levels = AS_STORED

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.layout.title,
            features=features(),
            citation=self.layout.citation,
            disable_shuffling=True,
        )

    def _shard_iterators_per_split(self, dl_manager: Any) -> Mapping[str, Sequence[Any]]:
        tree = read_tree(self.layout.dataset, dl_manager.manual_dir, trials=())
        return shards(tree, levels=self.levels, progress=self.progress)


def builder_of(dataset: str) -> type[_Builder]:
    """The builder class of a data set, whose splits are the parts of its tree."""
    layout = find(dataset).layout
    wanted = f"The folder with {layout.expected}. {layout.source}"
    members = {"name": dataset, "layout": layout, "MANUAL_DOWNLOAD_INSTRUCTIONS": wanted, "__doc__": layout.title}
    return types.new_class("Builder", (_Builder,), {"skip_registration": True}, lambda body: body.update(members))


def features() -> tfds.features.FeaturesDict:
    """A record: the image as its file holds it (JPEG, PNG or BMP) and what the tree says about it."""
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(),
            "id": np.int64,
            "camera": np.int32,
            "modality": tfds.features.ClassLabel(names=["visible", "infrared"]),
            "path": tfds.features.Text(),
        }
    )


def shards(tree: Tree, *, levels: Levels, progress: bool) -> dict[str, list[Callable[[], Iterator[Example]]]]:
    """Generators of the examples of every shard, in the order of the tree; each part of the tree is a TFDS split.

    Every image is decoded once on its way, in threads (Pillow releases the GIL). A bad one stops the writing but
    not the checking, so that the error names them all.

    Raises (from the generator of the last shard):
      BdfError: images that cannot be read or decoded.
    """
    per_shard = {part: _slices(tree, part, index) for part, index in tree.parts.items()}
    state = _Progress(tree, sum(map(len, per_shard.values())), levels, progress)
    return {
        part: [functools.partial(state.examples, index.select(rows)) for rows in per_shard[part]]
        for part, index in tree.parts.items()
    }


class _Progress:
    """The bar and the bad images of one preparation, across its shards."""

    def __init__(self, tree: Tree, shard_count: int, levels: Levels, progress: bool):
        self._root = Path(tree.root)
        self._left = shard_count
        self._levels = levels
        self._bad: list[str] = []
        self._bar = progress_bar(
            total=sum(map(len, tree.parts.values())),
            desc=f"preparing {tree.dataset}",
            unit=" images",
            disable=not progress,
        )

    def examples(self, index: ImageIndex) -> Iterator[Example]:
        with self._closed_on_error(), ThreadPoolExecutor(cores()) as pool:
            waiting: collections.deque[tuple[int, Future[bytes]]] = collections.deque()
            rows = iter(range(len(index)))
            while True:
                for row in itertools.islice(rows, READ_AHEAD - len(waiting)):
                    waiting.append((row, pool.submit(_read_checked, self._root, str(index.names[row]), self._levels)))
                if not waiting:
                    break
                row, result = waiting.popleft()
                try:
                    encoded = result.result()
                except BdfError as error:
                    self._bad.append(str(error))
                self._bar.update()
                if not self._bad:
                    yield as_bytes(str(index.names[row])), _example(index, row, encoded)
        self._left -= 1
        if self._left == 0:
            self._bar.close()
            if self._bad:
                raise BdfError(_describe(self._bad))

    @contextlib.contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._bar.close()  # or it would be drawn once more below the message
            raise


def _slices(tree: Tree, part: str, index: ImageIndex) -> list[np.ndarray]:
    # The sizes of a part's images vary little, so shards of equal counts serve; an empty part has no shard.
    mean = tree.total_bytes / max(1, sum(map(len, tree.parts.values())))
    count = max(1, int(SHARD_BYTES / max(mean, 1)))
    return np.split(np.arange(len(index)), range(count, len(index), count)) if len(index) else []


def _read_checked(root: Path, name: str, levels: Levels) -> bytes:
    path, shown = root / name, printable(str(root / name))
    try:
        encoded = path.read_bytes()
    except OSError as error:
        raise BdfError(f"{shown}: cannot be read: {error.strerror}") from error
    verify(encoded, shown, levels)
    return encoded


def _example(index: ImageIndex, row: int, encoded: bytes) -> dict[str, Any]:
    return {
        "image": encoded,
        "id": int(index.pids[row]),
        "camera": int(index.cams[row]),
        "modality": int(index.modalities[row]),
        "path": as_bytes(str(index.names[row])),
    }


def _describe(bad: list[str], limit: int = 10) -> str:
    lines = "".join(f"\n  {line}" for line in bad[:limit])
    more = f"\n  ... and {len(bad) - limit} more" if len(bad) > limit else ""
    return (
        f"{len(bad)} image{'s' * (len(bad) != 1)} of the tree cannot be used; restore them from the published archive "
        f"and run again (nothing was prepared):{lines}{more}"
    )
