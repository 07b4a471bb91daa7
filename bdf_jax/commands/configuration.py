"""`--config=FILE:METHOD --config.SECTION.FIELD=VALUE`: the one reader of configurations on the command line."""

from __future__ import annotations

import argparse
import difflib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from bdf_jax.errors import BdfError
from bdf_jax.paths import local_path

if TYPE_CHECKING:
    from bdf_jax.config import Config

PREFIX = "--config."


def add_config(parser: argparse.ArgumentParser) -> None:
    """The flag --config."""
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE[:METHOD]",
        help="an experiment, such as configs/demo.py:xiv, or demo:xiv for one of the package's own; change its fields "
        "with --config.SECTION.FIELD=VALUE, and list them with --config=FILE --help",
    )


def add_retrieve(parser: argparse._ActionsContainer) -> None:
    """The flags for which feature stands for an image, the fields of `retrieve`; by default those of the training."""
    as_trained = "; default: as trained"
    parser.add_argument(
        "--feature",
        choices=("embedding", "pooled", "both", "stripes", "fitted"),
        help="after the neck, before it, both in one vector, stripes of length 1, or in the fitted metric" + as_trained,
    )
    parser.add_argument(
        "--use",
        choices=("base", "derivative", "concat", "sum4", "max4", "min4"),
        help="which views represent an image" + as_trained,
    )
    mean = argparse.BooleanOptionalAction
    parser.add_argument("--flip-tta", action=mean, help="mean feature of the image and its mirror image")


def read_config(file: str, overrides: Sequence[str]) -> Config:
    """The validated configuration of a file with some fields changed.

    Args:
      file: `configs/demo.py`, or `configs/demo.py:xiv` for another method; without `.py`, a file of the package.
      overrides: `--config.losses.mdl.weight=0.1` and so on.

    Raises:
      BdfError: no such file, one that fails, an unknown field, a value that does not fit.
    """
    from bdf_jax.config import Config, vary  # brings JAX, which a wrong flag should not wait for

    changes = changes_of(overrides)
    path, _, argument = file.partition(":")
    get_config = _function(_module(path, file), file)
    try:
        config = get_config(*([argument] if argument else []))
    except BdfError as error:
        raise BdfError(f"--config={file}: {error}") from error
    except Exception as error:  # a configuration file is a program, and can fail like one
        raise BdfError(f"--config={file}: the configuration file failed: {type(error).__name__}: {error}") from error
    if not isinstance(config, Config):
        raise BdfError(
            f"--config={file}: get_config() gave a {type(config).__name__}, expected a bdf_jax.config.Config"
        )
    config.check()
    return vary(config, changes, texts=True)


def changes_of(overrides: Sequence[str]) -> dict[str, str]:
    """`--config.SECTION.FIELD=VALUE` as path -> words; raises BdfError where one is something else."""
    changes = {}
    for override in overrides:
        name, equals, value = override.partition("=")
        if not name.startswith(PREFIX) or not equals:
            raise BdfError(f"{override}: expected {PREFIX}SECTION.FIELD=VALUE")
        changes[name.removeprefix(PREFIX)] = value
    return changes


def reject_set(overrides: Sequence[str], field: str, why: str) -> None:
    """Refuses to have a field set that the command sets itself.

    Raises:
      BdfError: saying why.
    """
    if any(override.startswith(f"{PREFIX}{field}=") for override in overrides):
        raise BdfError(f"{PREFIX}{field}: {why}")


def shipped() -> dict[str, Path]:
    """The package's own experiments by name."""
    package = Path(__file__).parents[1]
    folder = next((f for f in (package / "configs", package.parent / "configs") if f.is_dir()), package)
    return {path.stem: path for path in sorted(folder.glob("[a-z]*.py"))}


def _module(path: str, file: str) -> ModuleType:
    found = local_path(path, "--config")
    if not found.is_file() and "/" not in path and path in shipped():
        found = shipped()[path]
    if not found.is_file():
        near = difflib.get_close_matches(found.stem, shipped(), n=2, cutoff=0.5)
        hint = f"; did you mean {' or '.join(near)}?" if near else f"; the package's own are {', '.join(shipped())}"
        raise BdfError(f"--config={file}: no such file{hint}")
    # Under its own name: the kinds of parts that it defines are found again by it, in a notebook too.
    name, resolved = found.stem, found.resolve()
    held = sys.modules.get(name)
    if held is not None and Path(getattr(held, "__file__", None) or "").resolve() == resolved:
        return held
    if held is not None or (importlib.util.find_spec(name) is not None and not _is(name, resolved)):
        name = f"config_{name}"  # a file that is called like a module that is there
    spec = importlib.util.spec_from_file_location(name, resolved)
    if spec is None or spec.loader is None:
        raise BdfError(f"--config={file}: expected a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    folder = str(resolved.parent)
    if folder not in sys.path:
        sys.path.append(folder)  # it may import its neighbours
    try:
        spec.loader.exec_module(module)
    except BdfError:
        raise
    except Exception as error:
        del sys.modules[name]
        raise BdfError(f"--config={file}: the configuration file failed: {type(error).__name__}: {error}") from error
    return module


def _is(name: str, path: Path) -> bool:
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None and Path(spec.origin).resolve() == path


def _function(module: ModuleType, file: str) -> Callable[..., object]:
    function = getattr(module, "get_config", None)
    if not callable(function):
        raise BdfError(f"--config={file}: expected a function get_config in it")
    takes = len(inspect.signature(function).parameters)
    if ":" in file and not takes:
        raise BdfError(f"--config={file}: its get_config takes no method; leave {file[file.index(':') :]} out")
    return function
