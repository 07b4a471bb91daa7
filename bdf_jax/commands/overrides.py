"""`--config=FILE --config.SECTION.FIELD=VALUE` for the commands of `python -m bdf_jax`, as `train.py` reads them."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from bdf_jax.config import Config, field_names, from_dict, unknown_field
from bdf_jax.errors import BdfError
from bdf_jax.paths import local_path


def read_config_file(file: str, overrides: Sequence[str]) -> Config:
    """The validated configuration of a file with some fields changed.

    Args:
      file: `configs/demo.py`, or `configs/ablation_a.py:sysu_mm01` for a file that takes an argument.
      overrides: `--config.loss.mdl_weight=0.1` and so on.

    Raises:
      BdfError: no such file, one that fails, an unknown field, a value that does not fit.
    """
    for override in overrides:
        name, equals, _ = override.partition("=")
        if not name.startswith("--config.") or not equals:
            raise BdfError(f"{override}: expected --config.SECTION.FIELD=VALUE")
        if name.removeprefix("--config.") not in field_names():
            raise unknown_field(name.removeprefix("--config."))
    name, colon, argument = file.partition(":")
    path = local_path(name, "--config") if name else Path(name)
    if not path.is_file():
        raise BdfError(f"--config={file}: no such file; the project's own are in configs/")
    package = path.resolve().parent
    if (package / "__init__.py").exists() and str(package.parent) not in sys.path:
        sys.path.append(str(package.parent))  # a configuration may vary another of its folder, from wherever it is used
    argv = [os.path.basename(sys.argv[0]), f"--config={path}{colon}{argument}", *overrides]
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", None, flag_values=values, sys_argv=argv)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"the load_module\(\) method is deprecated", DeprecationWarning)
            values(argv)  # ml_collections imports the file in an old way
    except flags.Error as error:
        raise BdfError(f"--config={file}: {error}") from error
    except BdfError:
        raise
    except Exception as error:  # a configuration file is a program, and can fail like one
        raise BdfError(f"--config={file}: the configuration file failed: {type(error).__name__}: {error}") from error
    return from_dict(holder.value)


def reject_set(overrides: Sequence[str], field: str, why: str) -> None:
    """Refuses to have a field set that the command sets itself.

    Raises:
      BdfError: saying why.
    """
    if any(override.startswith(f"--config.{field}=") for override in overrides):
        raise BdfError(f"--config.{field}: {why}")
