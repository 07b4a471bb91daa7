"""A folder in a bucket: the few things that are asked of it, and what its refusals mean."""

from __future__ import annotations

import contextlib
import importlib
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from bdf_jax.errors import BdfError
from bdf_jax.paths import bucket_address
from bdf_jax.trouble import Trouble

CONNECT_SECONDS, READ_SECONDS = 20, 120  # after which a call is tried again, or has failed
PACKAGES = {"gs": "gcsfs", "s3": "s3fs"}


class Unreachable(Trouble):
    """The storage did not answer, or not in a way that makes sense; a later attempt may succeed."""


class Store:
    """A folder in a bucket. Names are relative to it, with "/" between their parts.

    Every method raises `Trouble` that names the address where the storage refuses: no such bucket, no permission, no
    credentials; and `Unreachable` where it cannot be reached.

    Attributes:
      address: such as gs://bucket/runs/a.
    """

    def __init__(self, address: str, files: Any):
        self.address = address
        self._files = files  # of fsspec
        self._root = address.partition("://")[2]

    def list(self, below: str = "") -> dict[str, int]:
        """The objects in the folder, or in a folder of it: name -> bytes; empty where there are none."""
        with self._asked("be listed"):
            found = self._files.find(self._path(below) if below else self._root, detail=True)
        names = {path.removeprefix(f"{self._root}/"): int(about["size"]) for path, about in found.items()}
        # Names that a disk cannot have are not ours, and "a/" is how some programs write that there is a folder a.
        return {name: size for name, size in names.items() if all(p not in ("", ".", "..") for p in name.split("/"))}

    def fetch(self, names: Collection[str], folder: Path) -> None:
        """Copies objects to files of the same names below `folder`."""
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if names:
            with self._asked("be read"):
                self._files.get([self._path(name) for name in names], [str(folder / name) for name in names])

    def send(self, folder: Path, names: Collection[str]) -> None:
        """Copies files below `folder` to objects of the same names; each appears whole or not at all."""
        if names:
            with self._asked("be written to"):
                self._files.put([str(folder / name) for name in names], [self._path(name) for name in names])

    def read(self, name: str) -> bytes | None:
        """The bytes of an object; None where there is none of that name."""
        try:
            with self._asked("be read"):
                return self._files.cat_file(self._path(name))
        except Trouble as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise

    def write(self, name: str, content: bytes) -> None:
        """Writes an object, whole or not at all; one of that name is replaced."""
        with self._asked("be written to"):
            self._files.pipe_file(self._path(name), content)

    def create(self, name: str, content: bytes) -> bool:
        """Writes an object where there is none of that name; of several that do so at once one succeeds.

        Returns:
          Whether this one has.
        """
        try:
            with self._asked("be written to"):
                self._files.pipe_file(self._path(name), content, mode="create")
        except Trouble as error:
            if isinstance(error.__cause__, FileExistsError):
                return False
            raise
        return True

    def remove(self, names: Collection[str]) -> None:
        """Removes objects; one that is not there is not missed."""
        for name in names:
            with contextlib.suppress(FileNotFoundError), self._asked("be written to", passing=FileNotFoundError):
                self._files.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextlib.contextmanager
    def _asked(self, what: str, passing: type[Exception] | tuple[()] = ()) -> Iterator[None]:
        try:
            yield
        except BdfError:
            raise
        except Exception as error:  # each library has kinds of its own
            if isinstance(error, passing):
                raise
            kind, reason = _meaning(error, self.address)
            raise kind(f"{self.address}: this place cannot {what}: {reason}") from error


def open_store(place: str, what: str = "") -> Store:
    """The folder at an address; nothing is asked of the storage yet.

    Args:
      place: from `bucket_address`.
      what: the flag that it was given to, for messages.

    Raises:
      BdfError: the package that opens such addresses is not installed, or its settings make no sense.
    """
    address = bucket_address(place, what)
    scheme = address.partition(":")[0]
    try:
        return Store(address, OPENERS[scheme]())
    except ImportError as error:
        raise BdfError(
            f"{what}{'=' * bool(what)}{address}: {scheme}:// is opened by the package {PACKAGES[scheme]}, which cannot "
            f"be imported ({error}); pip install -r requirements-buckets.txt, or pip install {PACKAGES[scheme]}"
        ) from error
    except Exception as error:
        kind, reason = _meaning(error, address)
        raise kind(f"{what}{'=' * bool(what)}{address}: cannot be opened: {reason}") from error


def _open_gs() -> Any:
    import aiohttp
    from gcsfs.core import GCSFileSystem

    # Its retries end in an error that we tell; it would log a traceback as well.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    timeout = aiohttp.ClientTimeout(sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS)
    return GCSFileSystem(session_kwargs={"timeout": timeout}, use_listings_cache=False, skip_instance_cache=True)


def _open_s3() -> Any:
    from s3fs import S3FileSystem

    settings = {"connect_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS, "retries": {"max_attempts": 2}}
    return S3FileSystem(config_kwargs=settings, use_listings_cache=False, skip_instance_cache=True)


OPENERS: Mapping[str, Callable[[], Any]] = {"gs": _open_gs, "s3": _open_s3}


def _meaning(error: Exception, address: str) -> tuple[type[Trouble], str]:
    """What an error of the libraries means."""
    scheme, _, path = address.partition("://")
    if isinstance(error, FileNotFoundError):
        return Trouble, f"there is no bucket {path.partition('/')[0]}, or an object went away while it was read"
    # gcsfs says "forbidden" with an OSError that is of no kind and has no number.
    forbidden = type(error) is OSError and error.errno is None and scheme == "gs"
    if forbidden or isinstance(error, PermissionError) or getattr(error, "code", None) in (401, 403, "401", "403"):
        return Trouble, f"no permission ({_short(error)}); ask for the right to list, read, write and delete there"
    if isinstance(error, _of_credentials()):
        return Trouble, f"no credentials that are accepted ({_short(error)}); {LOGIN[scheme]}"
    if isinstance(error, ValueError):
        return Trouble, _short(error)
    return Unreachable, f"the storage cannot be reached ({_short(error)})"


LOGIN = {
    "gs": "gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS",
    "s3": "aws configure, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
}


def _of_credentials() -> tuple[type[Exception], ...]:
    """Kinds of errors that say that nobody is logged in."""
    kinds: list[type[Exception]] = []
    for module, names in (
        ("google.auth.exceptions", ("DefaultCredentialsError",)),
        ("botocore.exceptions", ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError")),
    ):
        with contextlib.suppress(ImportError):
            kinds += [getattr(importlib.import_module(module), name) for name in names]
    return tuple(kinds)


def _short(error: Exception) -> str:
    """An error of a library on one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {' '.join(lines)[:200]}" if lines else type(error).__name__
