"""Prepared records: random access to the original encoded images, from any thread or process."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bdf_jax.data.images import verify
from bdf_jax.data.index import INFRARED, VISIBLE, ImageIndex
from bdf_jax.data.levels import AS_STORED, Levels, Notes
from bdf_jax.errors import BdfError
from bdf_jax.names import as_bytes, from_bytes, printable
from bdf_jax.trouble import check_readable, refuse_trouble

INDEX = "index.npz"
LOOKED_AT = 16  # images of a modality, for a warning


def write_index(folder: Path, parts: dict[str, ImageIndex]) -> None:
    """Writes what the records hold, in their order, beside them: names, identities, cameras, modalities, parts."""
    indices = list(parts.values())
    np.savez_compressed(
        folder / INDEX,
        parts=np.array(list(parts)),
        lengths=np.array([len(index) for index in indices], dtype=np.int64),
        names=np.concatenate([index.names for index in indices]),
        pids=np.concatenate([index.pids for index in indices]),
        cams=np.concatenate([index.cams for index in indices]),
        modalities=np.concatenate([index.modalities for index in indices]),
    )


class Records:
    """The images of one prepared data set by position. Pickles as a path, so worker processes open their own.

    Attributes:
      folder: where the ArrayRecord files and `index.npz` lie.
      root: the tree they were made from, for messages.
      index: of every record, in the order of the records.
      key: which tree they were made from: the name of the folder.
      levels: what is black and white in them where they have more than 8 bits.
    """

    def __init__(self, folder: Path, root: str, levels: Levels = AS_STORED):
        self.folder = folder
        self.root = root
        self.key = folder.name
        self.levels = levels
        self._source: Any = None
        self._parse: Any = None
        self._lock = threading.Lock()
        try:
            with open(folder / INDEX, "rb") as file, np.load(file, allow_pickle=False) as stored:
                self._parts = [str(part) for part, n in zip(stored["parts"], stored["lengths"], strict=True) if n > 0]
                self.index = ImageIndex(stored["names"], stored["pids"], stored["cams"], stored["modalities"])
        except Exception as error:  # a damaged zip file raises many types
            refuse_trouble(error, f"prepared records {folder}: {INDEX} cannot be read")
            raise self._damaged(f"{INDEX} cannot be read ({error})") from error

    def positions(self, names: np.ndarray) -> np.ndarray:
        """Where the images of these names lie, (N,) int64."""
        order = np.argsort(self.index.names, kind="stable")
        places = np.searchsorted(self.index.names, names, sorter=order)
        found = order[np.minimum(places, len(order) - 1)]
        if not np.array_equal(self.index.names[found], names):
            raise self._damaged("it lacks images of the tree")
        return found

    def encoded(self, position: int) -> bytes:
        """The image file at a position of `index`, byte for byte.

        Raises:
          BdfError: the records were damaged after preparation; names the image.
        """
        name = str(self.index.names[position])
        try:
            if self._source is None:
                self._open()
            feature = self._parse(self._source[int(position)]).features.feature
            if feature["path"].bytes_list.value[0] == as_bytes(name):
                return feature["image"].bytes_list.value[0]
            found = "another image"
        except Exception as error:  # ArrayRecord and protobuf raise many types on damaged files
            refuse_trouble(error, f"prepared records {self.folder}: image {self._shown(position)}")
            found = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise self._damaged(f"the record of image {self._shown(position)} holds {found}")

    def encoded_all(self, positions: Sequence[int] | np.ndarray) -> list[bytes]:
        """`encoded` of several positions, at a quarter of the cost of each: a look-up costs more than an image."""
        wanted = [int(position) for position in positions]
        with contextlib.suppress(Exception):  # a damaged record among them: below, its image is named
            if self._source is None:
                self._open()
            features = [self._parse(record).features.feature for record in self._source.__getitems__(wanted)]
            names = [from_bytes(feature["path"].bytes_list.value[0]) for feature in features]
            if names == self.index.names[wanted].tolist():
                return [feature["image"].bytes_list.value[0] for feature in features]
        return [self.encoded(position) for position in wanted]

    def tell_narrow(self) -> None:
        """Warns of images whose values use little of their range, after a look at a few of each modality.

        They are read from the tree, which is at hand whenever records are opened: what reads records starts slowly.
        """
        notes = Notes()
        for modality in (VISIBLE, INFRARED):
            rows = np.flatnonzero(self.index.modalities == modality)
            for row in rows[np.unique(np.linspace(0, len(rows) - 1, min(LOOKED_AT, len(rows))).astype(int))].tolist():
                name = str(self.index.names[row])
                with contextlib.suppress(BdfError, OSError):  # damage is told by whoever needs the image
                    verify((Path(self.root) / name).read_bytes(), printable(name), self.levels, notes)
        if str(notes):
            logging.getLogger("bdf_jax").warning("of %d images of each modality: %s", LOOKED_AT, notes)

    def damaged(self, position: int, found: str) -> BdfError:
        """The error for a record that can be read but not used."""
        return self._damaged(f"the record of image {self._shown(position)}: {found}")

    def _shown(self, position: int) -> str:
        return printable(str(Path(self.root) / str(self.index.names[position])))

    def _open(self) -> None:
        with self._lock:
            if self._source is not None:
                return
            import tensorflow_datasets as tfds
            from tensorflow_datasets.core.decode import DeserializeMethod
            from tensorflow_datasets.proto import tf_example_pb2

            builder = tfds.builder_from_directory(self.folder)
            # TFDS's own parsing takes four times as long as protobuf's, a tenth of the decoding of a small JPEG.
            self._parse = tf_example_pb2.Example.FromString
            source = builder.as_data_source("+".join(self._parts), deserialize_method=DeserializeMethod.RAW_BYTES)
            if len(source) != len(self.index):
                raise ValueError(f"{len(source)} records where the index has {len(self.index)}")
            self._source = source

    def _damaged(self, what: str) -> BdfError:
        """The error for records that are damaged; raises Trouble where it is the machine that refuses them."""
        check_readable(self.folder)
        return BdfError(
            f"prepared records {self.folder}: {what}. Delete that folder; the next run prepares it again from the tree."
        )

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "root": self.root, "levels": self.levels}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]
