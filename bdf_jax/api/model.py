"""A trained network, ready to use."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from tqdm import tqdm

from bdf_jax.api import show
from bdf_jax.api.folders import from_here, join
from bdf_jax.api.pictures import Images, gather, pillow_silent
from bdf_jax.api.warned import check_some_left, warn_of
from bdf_jax.archive import load_network
from bdf_jax.checkpoints import Metadata
from bdf_jax.config import Retrieved, vary
from bdf_jax.data.images import cores
from bdf_jax.data.levels import Levels
from bdf_jax.errors import BdfError
from bdf_jax.evaluation.features import depends_on_modality, flags_of, make_embed
from bdf_jax.models.metrics import check_fitted
from bdf_jax.models.network import Network, derive
from bdf_jax.parts import to_dict
from bdf_jax.paths import bucket_address, local_path
from bdf_jax.pixels import denormalise, normalise
from bdf_jax.progress import bar
from bdf_jax.trouble import IN_EMBEDDING, enough_memory
from bdf_jax.views import BASES, base_of
from bdf_jax.xla import avoid_wrong_sums

if TYPE_CHECKING:
    from bdf_jax.api.gallery import Gallery

MODALITIES = ("visible", "infrared")
Modality = Literal["visible", "infrared"]
OnError = Literal["raise", "skip"]

AHEAD = 3  # batches that are decoded or waiting, beside the one on the device

Decoded = tuple[range, np.ndarray, dict[int, str]]  # rows, their pixels, why some could not be read


def load(
    workdir: str | os.PathLike[str],
    step: int | None = None,
    *,
    feature: Retrieved | None = None,
    use: Literal["base", "derivative", "concat", "sum4", "max4", "min4"] | None = None,
    flip_tta: bool | None = None,
    batch_size: int | None = None,
) -> Model:
    """A trained network from its work folder, one of its checkpoints or an export, whatever machine it was trained on.

    Args:
      workdir: of a training run, its `checkpoints` folder, one checkpoint (also in a bucket), or an export that has its
        weights; or a file that the authors of a method published (see `published.convert`).
      step: which checkpoint; None: the best on the validation identities where there was validation, else the last.
      feature: after or before the neck; None: as in training. Likewise:
      use: which views represent an image, see `make_embed`.
      flip_tta: mean feature of the image and its mirror image.
      batch_size: images on the devices at a time.

    Raises:
      BdfError: no such folder, no checkpoint in it, a damaged one, or a wrong setting.
    """
    avoid_wrong_sums()
    metadata, variables, found = load_network(workdir, step)
    given = {
        "retrieve.feature": feature,
        "retrieve.use": use,
        "retrieve.flip_tta": flip_tta,
        "evaluation.batch_size": batch_size,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    config = vary(metadata.config, changes)
    check_fitted(config.retrieve.feature, variables, workdir)
    source = bucket_address(workdir) or os.path.abspath(local_path(workdir))
    return Model(dataclasses.replace(metadata, config=config), variables, found, source)


class Model:
    """A trained network on all devices of this process; made by `load`.

    Attributes:
      config: of its training, with the settings given to `load`.
      step: of the checkpoint.
      source: the path or the address that it was loaded from.
      num_classes: identities it was trained on.
      converted: the published file that it was made of, if any.
      image_size: (height, width) that it sees, pixels.
      variables: `params` and `batch_stats`.
    """

    def __init__(self, metadata: Metadata, variables: Mapping[str, Any], step: int, source: str):
        self.config, self.num_classes, self.converted = metadata.config, metadata.num_classes, metadata.converted
        self.step, self.source = step, source
        self.image_size = self.config.data.image_size
        self._devices = jax.local_devices()
        axis = (AxisType.Auto,)
        mesh = jax.make_mesh((len(self._devices),), ("images",), axis_types=axis, devices=self._devices)
        self._shared_out = NamedSharding(mesh, PartitionSpec("images"))
        self.variables = jax.device_put(dict(variables), NamedSharding(mesh, PartitionSpec()))
        self._network = Network.of(self.config, self.num_classes)
        self._embed = make_embed(self._network, self.config.retrieve)
        self._derive = jax.jit(self._derivative, static_argnums=2)

    @property
    def settings(self) -> dict[str, Any]:
        """Which feature `embed` returns: `feature`, `use`, `flip_tta`."""
        return flags_of(self.config.retrieve)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hexadecimal; equal for models whose features can be compared: parameters, architecture and settings."""
        network = {k: v for k, v in to_dict(self.config.network).items() if k not in ("pretrained", "remat")}
        model = {"views": to_dict(self.config.views), "network": network, "size": self.image_size, **self.settings}
        digest = hashlib.sha256(json.dumps(model).encode())  # in order: the order of views is part of the network
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.variables):
            array = np.asarray(leaf)
            digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def paths(self, images: str | os.PathLike[str]) -> list[str]:
        """The files of a folder in the order of `embed`'s rows: all images below it, sorted by name.

        Raises:
          BdfError: no image there, or a folder that cannot be read.
        """
        found = gather(images)
        return [join(found.folder, name) if found.folder else name for name in found.names]

    def embed(
        self,
        images: Any,
        modality: Modality,
        *,
        white: float | None = None,
        black: float | None = None,
        on_error: OnError = "raise",
        progress: bool = True,
    ) -> np.ndarray:
        """Feature vectors of any images; the cosine of two of them says how alike the people are.

        Args:
          images: a folder (its images, also in folders inside it, in the order of `paths`), a path, an array (H, W, 3)
            or (H, W) in uint8, uint16 or float 0..1, a stack (N, H, W, 3), a Pillow image, or a list of any of these.
          modality: of all of them: "visible" or "infrared".
          white: of images of more than 8 bits, the value that is white: 1023 of a camera of 10 bits whose files have
            16; None: as in training, or else what the type says. Images that use little of their range are warned of
            (`NarrowRange`).
          black: likewise the value that is black; None: 0.
          on_error: "raise" refuses an image that cannot be read by name; "skip" warns with the names (`SkippedImages`)
            and leaves rows of NaN, so that rows and images still belong together.
          progress: whether to draw a bar.

        Returns:
          (N, D) float32, rows of length 1 (with `use="sum4"`: of other length, compared by their dot product).

        Raises:
          BdfError: no image, an image or a modality that is none, or nothing left after skipping.
        """
        gathered, features_ND, failed = self.embed_images(
            images, modality, white=white, black=black, on_error=on_error, progress=progress
        )
        warn_of(gathered, failed)
        return features_ND

    @enough_memory(IN_EMBEDDING)
    def embed_images(
        self,
        images: Any,
        modality: Modality,
        *,
        white: float | None = None,
        black: float | None = None,
        on_error: OnError = "raise",
        progress: bool = True,
    ) -> tuple[Images, np.ndarray, dict[int, str]]:
        """As `embed`, with more to say: the images, their features, and why a row could not be read."""
        base, gathered = self._checked(images, modality, white, black, on_error)
        # Where the network treats both bases alike, one compiled program serves both.
        program = base if depends_on_modality(self._network, self.config.retrieve) else 0
        features_ND = np.empty((0, 0), np.float32)
        failed: dict[int, str] = {}
        with self._shown(gathered, "embedding", progress) as shown, self._batches(gathered, on_error) as batches:
            for rows, pixels_NHWC, problems in batches:
                device_images = jax.device_put(pixels_NHWC, self._shared_out)
                vectors_ND = np.array(self._embed(self.variables, device_images, program))[: len(rows)]
                vectors_ND[[row - rows.start for row in problems]] = np.nan
                if not len(features_ND):
                    features_ND = np.empty((len(gathered), vectors_ND.shape[1]), np.float32)
                features_ND[rows.start : rows.stop] = vectors_ND
                failed |= problems
                shown.update(len(rows))
        check_some_left(gathered, failed)
        return gathered, features_ND, failed

    @enough_memory(IN_EMBEDDING)
    def derive(
        self,
        images: Any,
        modality: Modality,
        *,
        view: str = "",
        white: float | None = None,
        black: float | None = None,
        on_error: OnError = "raise",
        progress: bool = True,
    ) -> show.Pictures:
        """A view of images, such as their derivatives, as pictures.

        Args:
          images: as for `embed`.
          modality: of all of them: "visible" or "infrared".
          view: which of the network's views of this modality; empty: the first that is made of the base.
          white, black: as for `embed`.
          on_error: as for `embed`; a skipped image has a black view.
          progress: whether to draw a bar.

        Returns:
          (N, height, width, 3) uint8 at the size that the network sees: an array that a notebook shows as a strip of
          pictures, below the images they were made of (`.bases`, of the same shape).

        Raises:
          BdfError: as `embed`; a network that makes no such view of this modality.
        """
        base, gathered = self._checked(images, modality, white, black, on_error)
        known = self._network.derived(base, alone=True)
        name = view or (known[0] if known else "")
        if name not in known:
            raise BdfError(
                f"derive: this network makes no {f'view {view!r}' if view else 'other view'} of {modality} images; its "
                f"views of them are {', '.join([BASES[base], *known])}"
            )
        made = np.empty((len(gathered), *self.image_size, 3), np.uint8)
        bases = np.empty_like(made)
        failed: dict[int, str] = {}
        with self._shown(gathered, "deriving", progress) as shown, self._batches(gathered, on_error) as batches:
            for rows, pixels_NHWC, problems in batches:
                device_images = jax.device_put(pixels_NHWC, self._shared_out)
                derived_NHWC = np.array(self._derive(self.variables, device_images, name))[: len(rows)]
                derived_NHWC[[row - rows.start for row in problems]] = 0
                made[rows.start : rows.stop] = derived_NHWC
                bases[rows.start : rows.stop] = pixels_NHWC[: len(rows)]
                failed |= problems
                shown.update(len(rows))
        check_some_left(gathered, failed)
        warn_of(gathered, failed)
        return show.Pictures.of(made, bases, gathered.names, title=f"{modality} images and their derivatives")

    def gallery(self, images: Any, modality: Modality = "visible", **options: Any) -> Gallery:
        """Embeds images to search in; `options` are those of `Gallery.build`: `ids`, `white`, `on_error`, ..."""
        from bdf_jax.api.gallery import Gallery

        return Gallery.build(self, images, modality, **options)

    def open_gallery(self, path: str | os.PathLike[str]) -> Gallery:
        """Opens a gallery that this model has embedded; see `bdf_jax.open_gallery`."""
        from bdf_jax.api.gallery import open_gallery

        return open_gallery(path, model=self)

    def levels(self, white: float | None = None, black: float | None = None) -> Levels:
        """What is black and white in images of more than 8 bits; where nothing is given, as in training."""
        data = self.config.data
        return Levels.of(data.white if white is None else white, data.black if black is None else black)

    def _checked(
        self, images: Any, modality: str, white: float | None, black: float | None, on_error: str
    ) -> tuple[int, Images]:
        base = modality_number(modality)
        if on_error not in ("raise", "skip"):
            raise BdfError(f"on_error: expected 'raise' or 'skip', found {on_error!r}")
        return base, gather(images, skip=on_error == "skip", levels=self.levels(white, black))

    def _derivative(self, variables: Mapping[str, Any], images_NHWC: jax.Array, view: str) -> jax.Array:
        """A view as pixels."""
        images = {BASES[base_of(view, self.config.views)]: normalise(images_NHWC)}
        return denormalise(derive(self._network, variables, images, (view,))[view])

    @contextlib.contextmanager
    def _batches(self, images: Images, on_error: OnError) -> Generator[Generator[Decoded, None, None], None, None]:
        """`_decoded`, whose threads end with the block, however it ends."""
        with pillow_silent(), contextlib.closing(self._decoded(images, on_error)) as decoded:
            yield decoded

    def _decoded(self, images: Images, on_error: OnError) -> Generator[Decoded, None, None]:
        """Rows, their pixels padded to a size that was compiled before, and why some could not be read (black).

        Threads read a few batches ahead of the devices, no more, so that memory does not grow with the folder.
        """
        devices = len(self._devices)
        size = -(-self.config.evaluation.batch_size // devices) * devices
        if len(images) < size:  # a few images are not worth a whole batch; powers of two keep the programs few
            size = min(size, -(-(1 << (len(images) - 1).bit_length()) // devices) * devices)
        starts = iter(range(0, len(images), size))
        waiting: collections.deque[tuple[range, list[Future[np.ndarray]]]] = collections.deque()
        pool = ThreadPoolExecutor(cores(), thread_name_prefix="read")
        try:
            while True:
                while len(waiting) < AHEAD and (start := next(starts, None)) is not None:
                    rows = range(start, min(start + size, len(images)))
                    waiting.append((rows, [pool.submit(images.pixels, row, self.image_size) for row in rows]))
                if not waiting:
                    return
                rows, futures = waiting.popleft()
                pixels_NHWC, problems = np.zeros((size, *self.image_size, 3), np.uint8), {}
                for i, future in enumerate(futures):
                    try:
                        pixels_NHWC[i] = future.result()
                    except BdfError as error:
                        if on_error == "raise":
                            hint = 'on_error="skip" (--on-error=skip) leaves such images out, and says which'
                            raise BdfError(f"{error}; {hint}") from error
                        problems[rows[i]] = str(error)
                del futures
                yield rows, pixels_NHWC, problems
        finally:
            pool.shutdown(cancel_futures=True)

    def _shown(self, images: Images, what: str, progress: bool) -> tqdm:
        quiet = not progress or images.single
        return bar(total=len(images), desc=what, unit="image", disable=quiet, leave=False)

    def __repr__(self) -> str:
        facts = ", ".join(f"{name} {value}" for name, value in self._facts().items())
        return f"<bdf_jax.Model {facts}>"

    def _repr_html_(self) -> str:
        return show.facts_table("bdf_jax.Model", self._facts())

    def _facts(self) -> dict[str, str]:
        count = sum(leaf.size for leaf in jax.tree.leaves(self.variables["params"]))
        height, width = self.image_size
        return {
            "source": from_here(self.source),
            **({"converted from": self.converted} if self.converted else {"step": f"{self.step:,}"}),
            "network": f"{self.config.network.trunk.name}, {count:,} parameters, {self.num_classes} identities",
            "images": f"{height} x {width} pixels",
            "views": ", ".join([*BASES, *self.config.views]),
            "features": ", ".join(f"{name} {value}" for name, value in self.settings.items()),
            "devices": f"{len(self._devices)} {self._devices[0].device_kind}",
        }


def modality_number(modality: str) -> int:
    """0 for "visible", 1 for "infrared"; raises BdfError for anything else."""
    if not isinstance(modality, str) or modality not in MODALITIES:
        raise BdfError(f"modality: expected 'visible' or 'infrared', found {modality!r}")
    return MODALITIES.index(modality)
