"""A real browser without a network: what it makes of a page."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)  # fmt: skip


def dump_dom(page: Path, profile: Path) -> str:
    """The page as it stands after its scripts ran."""
    return _run("--dump-dom", page, profile)


def screenshot(page: Path, out: Path, profile: Path, size: tuple[int, int], *flags: str) -> None:
    """A PNG of the upper left (width, height) of a page."""
    _run(f"--screenshot={out}", page, profile, f"--window-size={size[0]},{size[1]}", *flags)


def _run(what: str, page: Path, profile: Path, *flags: str) -> str:
    chromium = next(filter(None, map(shutil.which, NAMES)), None)
    if chromium is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed (Debian: apt-get install chromium)")
    command = [chromium, *FLAGS, f"--user-data-dir={profile}", *flags, what, page.absolute().as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
