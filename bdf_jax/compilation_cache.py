"""Compiled programs on the disk, so that a second start loads what the first one compiled.

The cache is JAX's own; this module gives it a place. Whoever can write into the folder can run code as the user who
starts JAX, so it is a private folder below the user's cache folder (`$XDG_CACHE_HOME`, or `~/.cache`), and one that
belongs to somebody else, or that others may write, is not used. A user's own `JAX_COMPILATION_CACHE_DIR` is left alone,
and `JAX_ENABLE_COMPILATION_CACHE=0` switches the cache off.

A cache must never stand in the way: what cannot be read or written is told once, and the program is compiled.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import re
import stat
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

LIMIT_BYTES = 2 << 30  # what is used least goes first
FAILED = re.compile(r"Error (reading|writing) persistent compilation cache entry for '([^']+)': (.*)", re.DOTALL)


def use_compilation_cache() -> Path | None:
    """Gives JAX a compilation cache, unless the user chose or declined one. Call it before JAX is imported.

    Returns:
      The folder; None where this process has no cache, or one that the user named.
    """
    declined = os.environ.get("JAX_ENABLE_COMPILATION_CACHE", "1").lower() in ("0", "false", "no", "off", "n", "f")
    if declined or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return None
    home = _cache_home()
    if home is None:
        return None
    folder = home / "bdf_jax" / "compiled" / machine()
    try:
        problem = _prepare(folder)
    except OSError as error:
        problem = f"cannot be written: {error.strerror}"
    if problem:
        _say(f"{folder} {problem}; it is not used, and programs are compiled at every start")
        return None
    with contextlib.suppress(OSError):
        _prune(folder)
    _configure("jax_compilation_cache_dir", str(folder))
    # A program that compiles in 30 ms is loaded in 3, and a start has dozens of them.
    _configure("jax_persistent_cache_min_compile_time_secs", 0.0)
    warnings.showwarning = functools.partial(_show_warning, warnings.showwarning, folder, [])
    return folder


def machine() -> str:
    """A name for processors of one kind: programs for a CPU use its instructions, and a home may be shared."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            found = re.search(r"^(?:flags|Features)\s*:(.*)$", file.read(1 << 16), re.MULTILINE)
        features = found.group(1) if found else ""
    except OSError:  # not Linux
        features = platform.processor()
    return f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:8]}"


def _cache_home() -> Path | None:
    """The user's folder for caches, as the XDG base directory specification says; None for a user without a home."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    path = Path(named if os.path.isabs(named) else os.path.expanduser("~/.cache"))
    return path if path.is_absolute() else None


def _prepare(folder: Path) -> str | None:
    """Makes the folder; returns why it cannot be trusted or used."""
    private = (folder.parent, folder)
    folder.parent.parent.mkdir(parents=True, exist_ok=True)
    for path in private:
        path.mkdir(mode=0o700, exist_ok=True)
    for path in private:
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode):
            return "is a link, and where that leads may change"
        if found.st_uid != os.geteuid():
            return f"belongs to another user ({found.st_uid}), who could make this process run any code"
        if found.st_mode & 0o022:
            return (
                f"can be written by others (mode {stat.S_IMODE(found.st_mode):o}), who could make this process run any "
                "code: remove it, and it is made anew"
            )
    for path in folder.parent.resolve().parents:
        mode = path.stat().st_mode
        if mode & 0o002 and not mode & stat.S_ISVTX:
            return f"lies in {path}, where every user can replace it"
    return None if os.access(folder, os.W_OK | os.X_OK) else "cannot be written"


def _prune(folder: Path) -> None:
    """Keeps the folder below its limit. JAX's own eviction locks and rewrites files at every look-up."""
    with os.scandir(folder) as found:
        entries = [(entry.stat(), entry.path) for entry in found if entry.is_file(follow_symlinks=False)]
    excess = sum(status.st_size for status, _ in entries) - LIMIT_BYTES
    for status, path in sorted(entries, key=lambda entry: max(entry[0].st_atime, entry[0].st_mtime)):
        if excess <= 0:
            break
        os.unlink(path)
        excess -= status.st_size


def _configure(name: str, value: Any) -> None:
    """Through the environment, so that nothing is imported here; an option the user has set stays."""
    if name.upper() in os.environ:
        return
    os.environ[name.upper()] = str(value)
    if "jax" in sys.modules:
        sys.modules["jax"].config.update(name, value)


def _show_warning(
    before: Callable[..., None], folder: Path, told: list[str], message: Warning | str, *arguments: Any, **options: Any
) -> None:
    """What `warnings` calls to show a warning: JAX's about a cache entry are one line, and the entry is removed.

    JAX neither writes an entry atomically nor ever replaces one, so one cut short by a full disk or a kill would be
    found, refused and kept at every start.
    """
    match = FAILED.match(str(message))
    if not match:
        before(message, *arguments, **options)
        return
    doing, program, reason = match.groups()
    for entry in folder.glob(f"{re.sub(r'[^A-Za-z0-9_]', '_', program)}-*"):
        with contextlib.suppress(OSError):
            entry.unlink()
    if doing not in told:
        told.append(doing)
        _say(f"{folder}: {program}: error {doing} it: {reason.splitlines()[0][:200]}; it is compiled without")


def _say(what: str) -> None:
    print(
        f"compilation cache: {what}. Name a private folder in JAX_COMPILATION_CACHE_DIR, or set "
        "JAX_ENABLE_COMPILATION_CACHE=0 to do without.",
        file=sys.stderr,
        flush=True,
    )
