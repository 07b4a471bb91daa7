"""Decoded, resized images on the disk: a file beside the prepared records, for those who have more disk than cores.

A file holds the pixels of every record at one size, N x height x width x 3 bytes, and a checksum of each image. It lies
in DIR/decoded/<dataset>/<key>.images, where the key follows from the records, the size, the filter and the versions of
the decoders; the same is written in its first line and compared before anything is read. So a wrong size, another
tree, or pixels of another Pillow cannot be read by mistake. It is written beside and renamed when it is complete.

Images are read into the batch at their offset rather than through a memory map: no more than a batch is in memory, and
a file that is cut short or on a failing disk is an error of one image instead of the end of the process.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from bdf_jax.data.images import cores, decoder_version, read_pixels
from bdf_jax.data.prepare import disk_errors, full_disk, locked
from bdf_jax.data.records import Records
from bdf_jax.errors import BdfError
from bdf_jax.names import printable
from bdf_jax.paths import local_path
from bdf_jax.progress import bar

FORMAT = "bdf_jax decoded images, version 1"
HEADER_BYTES = 4096  # a line of JSON, filled up with spaces
BLOCK = 512  # images that are decoded before they are written: what the writing needs of memory
CHUNK = 8  # images a thread decodes at a time: long against the cost of handing them over


class DecodedImages:
    """Pixels of the records at one size. Pickles as a path, so worker processes open their own.

    Attributes:
      path: of the file.
      size: (height, width) in pixels.
    """

    def __init__(self, path: Path, size: tuple[int, int], header: bytes):
        self.path, self.size, self._header = path, size, header
        self._image_bytes = size[0] * size[1] * 3
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115  open for as long as images are read
        self._checksums = _checksums(self._file.fileno(), header, self._image_bytes)
        self._told = False

    def read_into(self, position: int, image_HWC: np.ndarray, name: str) -> bool:
        """Copies the pixels at a position of the records.

        Args:
          position: in the records.
          image_HWC: (height, width, 3) uint8, contiguous, filled if the pixels are whole.
          name: what a warning calls the image.

        Returns:
          Whether they are. If not, decode the image: that gives the same pixels. The first damaged image is told.
        """
        try:
            offset = HEADER_BYTES + position * self._image_bytes
            read = os.preadv(self._file.fileno(), [image_HWC], offset)  # type: ignore[list-item]
            found = f"{read} bytes" if read != self._image_bytes else "other pixels than were written"
            if read == self._image_bytes and zlib.crc32(image_HWC.data) == self._checksums[position]:
                return True
        except OSError as error:
            found = str(error)
        if not self._told:
            self._told = True
            logging.getLogger("bdf_jax").warning(
                "decoded images %s: %s is damaged (%s) and is decoded from the records, as every other that is found "
                "damaged. Delete that file; the next run writes it again.", self.path, name, found,
            )  # fmt: skip
        return False

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "size": self.size, "header": self._header}

    def __setstate__(self, state: dict[str, Any]) -> None:
        try:
            self.__init__(**state)  # type: ignore[misc]
        except (OSError, ValueError) as error:
            raise BdfError(f"decoded images {state['path']}: gone or written again meanwhile: {error}") from error

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()


def open_decoded(
    records: Records, size: tuple[int, int], data_dir: str | os.PathLike[str], dataset: str, *, progress: bool = True
) -> DecodedImages:
    """Opens the decoded images of these records, and writes them where they are missing or not whole.

    Several processes may ask at once: one writes, the others wait for it.

    Args:
      records: of the data set.
      size: (height, width) in pixels.
      data_dir: `data.dir`.
      dataset: its name, a folder under DIR/decoded.
      progress: whether to say how much disk it takes and to draw a bar.

    Raises:
      BdfError: too little space, a folder that cannot be written, a damaged record.
    """
    home = Path(os.path.abspath(local_path(data_dir, "data.dir"))) / "decoded" / dataset
    header = _header(records, size)
    path = home / f"{hashlib.sha256(header).hexdigest()[:16]}.images"

    def opened(*, tell: bool) -> DecodedImages | None:
        try:
            return DecodedImages(path, size, header)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            if tell:
                print(f"decoded images {path} are damaged ({error}) and are written again", flush=True)
            return None

    images = opened(tell=False)
    if images is None:
        with disk_errors(home):
            home.mkdir(parents=True, exist_ok=True)
            with locked(home / f".{path.stem}.lock", progress=progress):
                images = opened(tell=True)  # another process may have written it while we waited
                if images is None:
                    _write(path, header, records, size, progress)
                    images = DecodedImages(path, size, header)
    return images


def pixels(records: Records, position: int, encoded: bytes, size: tuple[int, int]) -> np.ndarray:
    """`images.read_pixels` of a record; raises BdfError naming records and image where it is damaged."""
    try:
        return read_pixels(encoded, printable(str(records.index.names[position])), size, records.levels)
    except BdfError as error:
        raise records.damaged(position, str(error)) from error


def disk_bytes(count: int, size: tuple[int, int]) -> int:
    """What the file of `count` images of (height, width) pixels takes."""
    return HEADER_BYTES + count * (size[0] * size[1] * 3 + 4) + 4


def _header(records: Records, size: tuple[int, int]) -> bytes:
    """The first bytes of the file: everything that its pixels follow from."""
    values = {
        "format": FORMAT,
        "records": records.key,
        "images": len(records.index),
        "size": list(size),
        "levels": [records.levels.black, records.levels.white],
        "decoder": decoder_version(),
    }
    return json.dumps(values, sort_keys=True).encode().ljust(HEADER_BYTES - 1) + b"\n"


def _checksums(file: int, header: bytes, image_bytes: int) -> np.ndarray:
    """(N,) uint32 of the images; raises ValueError where the file is not what the header says."""
    count = json.loads(header)["images"]
    start = HEADER_BYTES + count * image_bytes
    found, expected = os.fstat(file).st_size, start + 4 * count + 4
    if found != expected:
        raise ValueError(f"{found} bytes where {expected} are expected")
    if os.pread(file, HEADER_BYTES, 0) != header:
        raise ValueError("its first line tells of other images")
    table = os.pread(file, 4 * count + 4, start)
    if zlib.crc32(table[:-4]).to_bytes(4, "little") != table[-4:]:
        raise ValueError("its checksums are damaged")
    return np.frombuffer(table[:-4], "<u4")


def _write(path: Path, header: bytes, records: Records, size: tuple[int, int], progress: bool) -> None:
    for left in path.parent.glob(f".{path.stem}.incomplete-*"):  # of a run that was killed; the lock is ours
        left.unlink(missing_ok=True)
    count = len(records.index)
    needed, free = disk_bytes(count, size), shutil.disk_usage(path.parent).free
    amount = f"{count:,} images of {size[0]}x{size[1]} pixels take {_gib(needed)}, {_gib(free)} are free"
    if free < needed + (16 << 20):
        raise full_disk(path.parent, f"decoded, {amount}{_others(path)}", ", or set --config.data.decoded_cache=False")
    if progress:
        print(f"decoded images in {path.parent}: {amount}", flush=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}.incomplete-", dir=path.parent)
    try:
        with open(handle, "wb") as file:
            file.write(header)
            checksums = _write_pixels(file.write, records, size, progress)
            table = checksums.astype("<u4").tobytes()
            file.write(table + zlib.crc32(table).to_bytes(4, "little"))
        os.chmod(name, 0o644)  # data.dir may be shared between users
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def _write_pixels(write: Callable[[Any], Any], records: Records, size: tuple[int, int], progress: bool) -> np.ndarray:
    """Decodes all records in their order; returns the checksum of each image, (N,) uint32."""
    count = len(records.index)
    checksums = np.empty(count, np.uint32)
    block = np.empty((min(BLOCK, count), *size, 3), np.uint8)

    def decode_chunk(first: int, start: int, encoded: list[bytes]) -> None:
        for i in range(first, min(first + CHUNK, len(encoded))):
            block[i] = pixels(records, start + i, encoded[i], size)
            checksums[start + i] = zlib.crc32(block[i].data)

    with (
        ThreadPoolExecutor(cores()) as pool,
        bar(total=count, desc="decoding", unit=" images", disable=not progress) as shown,
    ):
        for start in range(0, count, len(block)):
            encoded = records.encoded_all(range(start, min(start + len(block), count)))
            for _ in pool.map(lambda first: decode_chunk(first, start, encoded), range(0, len(encoded), CHUNK)):  # noqa: B023
                pass
            write(block[: len(encoded)])
            shown.update(len(encoded))
    return checksums


def _others(path: Path) -> str:
    """What other files of this kind take, for a user in need of space."""
    sizes = [other.stat().st_size for other in path.parent.glob("*.images") if other != path]
    return f"; {len(sizes)} files of other sizes or trees in it take {_gib(sum(sizes))}" if sizes else ""


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
