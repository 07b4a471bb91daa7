"""A small network in a checkpoint, and people in folders, without any training."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_run import save_run

import bdf_jax


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Path:
    return save_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="session")
def model(run):
    return bdf_jax.load(run)


@pytest.fixture(scope="session")
def people(tmp_path_factory) -> Path:
    """Five people, two images of each in a folder of their name, in several formats and sizes."""
    folder, random = tmp_path_factory.mktemp("people"), np.random.default_rng(0)
    for person in range(5):
        colour = random.integers(0, 256, (4, 2, 3))
        for number, kind in enumerate(("jpg", "png")):
            height = 40 + 13 * person + number
            pixels = np.clip(np.kron(colour, np.ones((height // 4, 12, 1))) + random.normal(0, 9, 3), 0, 255)
            path = folder / f"person {person}" / f"{number}.{kind}"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    return folder
