"""What a file is, told by its first bytes: for the message when it is not the file that was asked for."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path

from bdf_jax.names import printable

HEAD = 1024  # bytes that are looked at
# (offset, bytes, what such a file is); the first that fits is taken.
SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"version https://git-lfs", "a Git LFS pointer: `git lfs pull` fetches the file itself"),
    (0, b"MATLAB 7.3", "a MATLAB 7.3 file (.mat, HDF5 inside)"),
    (0, b"MATLAB 5.0", "a MATLAB 5 file (.mat)"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file (.h5, or .mat of MATLAB 7.3)"),
    (512, b"\x89HDF\r\n\x1a\n", "an HDF5 file (.h5, or .mat of MATLAB 7.3)"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (0, b"GIF8", "a GIF image"),
    (0, b"II*\0", "a TIFF image"),
    (0, b"MM\0*", "a TIFF image"),
    (8, b"WEBP", "a WebP image"),
    (8, b"AVI ", "a film (.avi)"),
    (4, b"ftyp", "a film or an image (MP4, HEIC)"),
    (0, b"\x1f\x8b", "a gzip archive (.gz, .tgz): unpack it first"),
    (0, b"BZh", "a bzip2 archive: unpack it first"),
    (0, b"\xfd7zXZ\0", "an xz archive: unpack it first"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it first"),
    (0, b"Rar!", "a RAR archive: unpack it first"),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard archive: unpack it first"),
    (257, b"ustar", "a tar archive: unpack it first"),
    (0, b"%PDF", "a PDF document"),
    (0, b"PAR1", "a Parquet table"),
    (0, b"ARROW1", "an Arrow table"),
    (0, b"SQLite format 3", "an SQLite database"),
    (0, b"\x7fELF", "a program"),
    # A pickle of protocol 2 or later: what torch.save wrote before 1.6, and pickle.dump writes.
    *((0, b"\x80" + bytes([n]), "a pickle (.pkl, or a .pt/.pth of an old PyTorch)") for n in (2, 3, 4, 5)),
)
CHECKPOINT_PARTS = ("checkpoints", "metadata.json", "config.json", "metrics.jsonl")


def what_file_is(path: Path) -> str:
    """In words: "a JPEG image", "an empty file", "a folder", "nothing".

    Raises:
      OSError: it cannot be read.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "nothing"
    if stat.S_ISDIR(mode):
        return _folder(path)
    if not stat.S_ISREG(mode):
        return "a pipe or a device, no file on a disk"
    with path.open("rb") as file:
        head = file.read(HEAD)
        if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            return _zip(path)
        return _bytes(head, path.stat().st_size)


def _folder(path: Path) -> str:
    names = sorted(entry.name for entry in path.iterdir())
    if any(name in CHECKPOINT_PARTS for name in names):
        return "a folder of a training run or of a checkpoint"
    return f"a folder ({', '.join(map(printable, names[:3])) or 'empty'}{', ...' * (len(names) > 3)})"


def _zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return "a zip archive (such as .npz) that is cut off: not wholly written or copied"
    if not names:
        return "an empty zip archive"
    if any(name == "data.pkl" or name.endswith("/data.pkl") for name in names):
        return "a PyTorch file (.pt/.pth by torch.save)"
    arrays = [name.removesuffix(".npy") for name in names if name.endswith(".npy")]
    if arrays:
        return f"an .npz with the arrays {_first(arrays)}"
    if "[Content_Types].xml" in names:
        return "an Office document"
    return f"a zip archive of other files ({_first(names)})"


def _first(names: list[str]) -> str:
    return ", ".join(map(printable, names[:6])) + (f" and {len(names) - 6:,} more" if len(names) > 6 else "")


def _bytes(head: bytes, size: int) -> str:
    if not head:
        return "an empty file"
    if not head.strip(b"\0"):
        return "a file that begins with zeros only: not wholly written or copied"
    if head.startswith(b"\x93NUMPY"):
        return f"a single NumPy array (.npy){_header(head)}"
    for offset, signature, kind in SIGNATURES:
        if head[offset:].startswith(signature):
            return kind
    if head.startswith(b"BM") and int.from_bytes(head[2:6], "little") == size:
        return "a BMP image"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < size:
        return "a safetensors file"
    return _text(head) or f"a file of an unknown kind that begins with {head[:16]!r}"


def _header(head: bytes) -> str:
    start = head.find(b"{")
    end = head.find(b"}", start)
    return f" with the header {head[start : end + 1].decode('latin-1')}" if 0 <= start < end else ""


def _text(head: bytes) -> str:
    """Empty where the bytes are no text."""
    for encoding in ("utf-16", "utf-8"):
        if encoding == "utf-16" and not head.startswith((b"\xff\xfe", b"\xfe\xff")):
            continue
        try:
            text = head[: len(head) // 2 * 2].decode(encoding)
        except UnicodeDecodeError as error:
            if error.start < len(head) - 6:  # not a character that the end of the head has cut
                return ""
            text = head[: error.start].decode(encoding)
        if any(not c.isprintable() and c not in "\r\n\t\f\ufeff" for c in text):
            return ""
        shown = text.lstrip("\ufeff \r\n\t")
        kind = {"<": "a web page or XML, perhaps of a failed download", "{": "JSON", "[": "JSON"}.get(shown[:1])
        return f"{kind or 'text'} (it begins with {shown[:40]!r})"
    return ""
