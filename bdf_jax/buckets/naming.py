"""Messages about a copy on this machine, which speak of the place in the bucket that it is a copy of."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from bdf_jax.errors import BdfError


@contextlib.contextmanager
def named(folder: Path, address: str) -> Iterator[None]:
    """A block whose errors and warnings name `address` where they would name `folder`."""

    def translate(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if str(folder) in text:
            record.msg, record.args = text.replace(str(folder), address), ()
        return True

    logger = logging.getLogger("bdf_jax")
    logger.addFilter(translate)
    try:
        yield
    except BdfError as error:
        error.args = tuple(a.replace(str(folder), address) if isinstance(a, str) else a for a in error.args)
        raise
    finally:
        logger.removeFilter(translate)
