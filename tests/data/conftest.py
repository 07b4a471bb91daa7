from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from published_trees import write_llcm, write_regdb, write_sysu

from bdf_jax.config import DataConfig

WRITERS: dict[str, Callable[[Path], Path]] = {"sysu_mm01": write_sysu, "regdb": write_regdb, "llcm": write_llcm}


@pytest.fixture
def sysu(tmp_path: Path) -> Path:
    return write_sysu(tmp_path / "SYSU-MM01")


@pytest.fixture
def regdb(tmp_path: Path) -> Path:
    return write_regdb(tmp_path / "RegDB")


@pytest.fixture
def llcm(tmp_path: Path) -> Path:
    return write_llcm(tmp_path / "LLCM")


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., DataConfig]:
    """Configurations of shared, read-only trees; their records are written once a session."""
    home = tmp_path_factory.mktemp("prepared")

    def config(dataset: str = "sysu_mm01", **fields: object) -> DataConfig:
        root = home / dataset
        if not root.exists():
            WRITERS[dataset](root)
        values = {"image_size": (16, 20), "identities": 3, "images": 2, **fields}
        return DataConfig(dataset=dataset, root=str(root), dir=str(home / "dir"), **values)  # type: ignore[arg-type]

    return config
