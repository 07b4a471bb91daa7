"""Weight files from the Hugging Face hub, kept in its own cache."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from bdf_jax.errors import BdfError
from bdf_jax.paths import local_path

# In the order of preference: safetensors first.
FILENAMES = ("model.safetensors", "pytorch_model.bin")


def is_hub_name(source: str) -> bool:
    """Whether this is written like OWNER/NAME, and not like a path to a weight file."""
    return bool(re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", source)) and not source.endswith(
        (".pth", ".pt", ".safetensors", ".bin")
    )


def download(name: str, *, progress: bool = True) -> Path:
    """The weight file of a repository; what is in the hub's cache is used without asking the network.

    Args:
      name: OWNER/NAME of a repository, such as 'timm/resnet50.tv_in1k'.
      progress: show a bar while downloading.

    Raises:
      BdfError: no `huggingface_hub`, no network and nothing cached, no such repository or no weight file in it.
    """
    if not any(os.environ.get(variable) for variable in ("HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME")):
        # What the library would choose itself; but without a home that would be a folder called "~".
        os.environ["HF_HOME"] = str(local_path("~/.cache/huggingface", "HF_HOME"))
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise BdfError(
            f"network.pretrained: there is no file {name!r}, and to look for it on the Hugging Face hub a package is "
            "needed: pip install huggingface_hub"
        ) from error

    for filename in FILENAMES:
        try:
            return Path(huggingface_hub.hf_hub_download(name, filename, local_files_only=True))
        except errors.EntryNotFoundError:
            continue
        except errors.HFValidationError as error:
            raise BdfError(
                f"network.pretrained: neither a file nor a name of the hub's form: {name!r} ({error})"
            ) from error
    with _bars(progress):
        for filename in FILENAMES:
            try:
                return Path(huggingface_hub.hf_hub_download(name, filename))
            except errors.GatedRepoError as error:
                raise BdfError(
                    f"network.pretrained: {name!r} is given out on conditions; accept them on its page and log in with "
                    "`hf auth login`"
                ) from error
            except errors.RepositoryNotFoundError as error:
                raise BdfError(
                    f"network.pretrained: neither a file nor a public repository of the Hugging Face hub: {name!r}"
                ) from error
            except errors.LocalEntryNotFoundError as error:
                raise BdfError(
                    f"network.pretrained: {name!r} is no file here and not in the Hugging Face cache, and the hub "
                    "cannot be reached. Where there is a network, `hf download` fills the cache; or give the path of a "
                    "weight file"
                ) from error
            except errors.EntryNotFoundError:
                continue
            except OSError as error:
                reason = " ".join(str(error).split())[:300]
                raise BdfError(f"network.pretrained: downloading {name!r} failed ({reason})") from error
    raise BdfError(f"network.pretrained: {name!r} on the Hugging Face hub has none of {', '.join(FILENAMES)}")


@contextlib.contextmanager
def _bars(shown: bool) -> Iterator[None]:
    from huggingface_hub import utils

    if shown or utils.are_progress_bars_disabled():
        yield
        return
    utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.enable_progress_bars()
