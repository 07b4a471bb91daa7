"""Trouble of the machine: permission, a disk, memory, a device. It says nothing against what was to be read.

Whoever reads files that may be damaged asks here first, so that a whole checkpoint is never called damaged, moved or
written again because a colleague's umask closed it or because memory ran out.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from bdf_jax.errors import BdfError

# What the system says of a path that does not lead to a file: the file is not there, or something else is.
OF_THE_PATH = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EINVAL, errno.ENAMETOOLONG, errno.ENXIO)
DENIED = (errno.EACCES, errno.EPERM)

IN_TRAINING = (
    "--config.network.remat=block, --config.training.slices=4 and --config.network.dtype=bfloat16 need less, and so "
    "does a smaller batch (--config.data.identities, --config.data.images)"
)
IN_EMBEDDING = "fewer images at a time need less: evaluation.batch_size, or --batch-size on the command line"


class Trouble(BdfError):
    """What the machine refused; the files in question may be whole."""


def trouble_of(error: BaseException) -> str:
    """What the machine refused; empty where the error is of another kind, such as bytes that make no sense."""
    if isinstance(error, Trouble):
        return str(error)
    if isinstance(error, BdfError):
        return ""
    if is_memory(error):
        first = str(error).strip().splitlines()[:1]
        return "out of memory" + (f" ({first[0][:200]})" if first else "")
    if not isinstance(error, OSError) or error.errno is None or error.errno in OF_THE_PATH:
        return ""
    who = f" for this user (uid {os.geteuid()})" if error.errno in DENIED else ""
    return f"{error.strerror or error}{who}"


def is_memory(error: BaseException) -> bool:
    """Whether memory ran out, of the host or of a device."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    jax = sys.modules.get("jax")
    kinds = (ValueError, RuntimeError) if jax is None else (ValueError, RuntimeError, jax.errors.JaxRuntimeError)
    return isinstance(error, MemoryError) or (isinstance(error, kinds) and status(error) == "RESOURCE_EXHAUSTED")


def status(error: BaseException) -> str:
    """What JAX and TensorStore begin their messages with ("NOT_FOUND: ..."); there is no other sign of it."""
    return str(error).partition(":")[0]


def refuse_trouble(error: BaseException, what: str) -> None:
    """Raises `Trouble` that names `what` where the error is of the machine; returns otherwise."""
    found = trouble_of(error)
    if found:
        raise Trouble(f"{what}: {found}") from error


@contextlib.contextmanager
def trouble_named(what: str) -> Iterator[None]:
    """A block in which trouble of the machine becomes an error that names `what`."""
    try:
        yield
    except BdfError:
        raise
    except Exception as error:
        refuse_trouble(error, what)
        raise


@contextlib.contextmanager
def enough_memory(remedy: str) -> Iterator[None]:
    """A block that may need more memory than there is; the error then says what needs less."""
    try:
        yield
    except Exception as error:
        if is_memory(error):
            raise Trouble(f"{trouble_of(error)}; {remedy}") from error
        raise


def check_readable(folder: Path) -> None:
    """Opens every file of a folder; raises `Trouble` where the machine refuses one."""

    def refuse(error: OSError) -> None:
        refuse_trouble(error, f"{error.filename}: cannot be read")

    for root, _, names in os.walk(folder, onerror=refuse):
        for name in names:
            try:
                with open(os.path.join(root, name), "rb") as file:
                    file.read(1)
            except OSError as error:
                refuse(error)


def check_platform() -> None:
    """Starts JAX's devices, which nothing of ours can do without.

    Raises:
      Trouble: there are none of the kind that was asked for; names those that could be.
    """
    import jax

    try:
        jax.devices()
    except Exception as error:  # the kind depends on what is missing: a package, a library, a device
        asked = os.environ.get("JAX_PLATFORMS", "")
        reason = next(iter(str(error).strip().splitlines()), "")[:300]
        start = f"JAX_PLATFORMS={asked}: JAX has no such device here" if asked else "JAX finds no device"
        raise Trouble(
            f"{start}{f' ({reason})' if reason else ''}; installed for {', '.join(platforms())}. "
            "Unset JAX_PLATFORMS for the best that is there, set JAX_PLATFORMS=cpu, or install JAX for that device"
        ) from error


def platforms() -> list[str]:
    """Kinds of devices that JAX is installed for, which need not be there."""
    plugins = {entry.name.rstrip("0123456789") for entry in importlib.metadata.entry_points(group="jax_plugins")}
    return ["cpu", *sorted(plugins), *(["tpu"] if importlib.util.find_spec("libtpu") else [])]
