"""The experiments in `configs/` are part of the package, as `bdf_jax.configs`; pyproject.toml has everything else."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["bdf_jax*"]), "bdf_jax.configs"], package_dir={"bdf_jax.configs": "configs"})
