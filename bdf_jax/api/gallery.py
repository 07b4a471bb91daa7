"""Images to search in: embedded once, kept in a file, memory-mapped when opened again."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bdf_jax.api import gallery_file, show
from bdf_jax.api.folders import from_here, join
from bdf_jax.api.identities import Ids, id_table, ids_of
from bdf_jax.api.model import MODALITIES, Modality, Model, OnError, load, modality_number
from bdf_jax.api.pictures import Images, pillow_silent
from bdf_jax.api.warned import skipped_lines, warn_of
from bdf_jax.data.images import read_pixels
from bdf_jax.data.levels import AS_STORED, Levels
from bdf_jax.errors import BdfError
from bdf_jax.evaluation.features import similarity_of
from bdf_jax.evaluation.rankable import check_vectors
from bdf_jax.evaluation.retrieval import top_k
from bdf_jax.evaluation.similarity import OF_TWO_VIEWS
from bdf_jax.names import printable, some

DEFAULT_K = 10
QUERIES_SHOWN = 5  # of a result, in a notebook and as text

ModelOrPath = Model | str | os.PathLike[str]


class Gallery:
    """Images that were embedded, in one modality; made by `Model.gallery`, opened by `open_gallery`.

    Attributes:
      model: that embedded them, and embeds queries.
      features_ND: (N, D) float32, in memory or mapped from the file.
      names: (N,) str; of images in a folder, their path inside it.
      ids: (N,) str, who is shown: see `build`.
      modality: "visible" or "infrared".
      folder: that `names` are relative to; empty where there is none.
      skipped: what could not be read and was left out, with the reason.
      levels: what is black and white in its images of more than 8 bits.
      note: of images that use little of their range; empty where there is nothing to say.
    """

    def __init__(
        self,
        model: Model,
        features_ND: np.ndarray,
        names: np.ndarray,
        ids: np.ndarray,
        modality: Modality,
        *,
        folder: str = "",
        skipped: Sequence[str] = (),
        levels: Levels = AS_STORED,
        note: str = "",
        images: Images | None = None,
    ):
        self.model, self.features_ND, self.names, self.ids = model, features_ND, names, ids
        self.modality: Modality = modality
        self.folder, self.skipped = folder, tuple(skipped)
        self.levels, self.note = levels, note
        self._images = images

    @classmethod
    def build(
        cls,
        model: Model,
        images: Any,
        modality: Modality = "visible",
        *,
        ids: Ids | None = None,
        white: float | None = None,
        black: float | None = None,
        on_error: OnError = "raise",
        progress: bool = True,
    ) -> Gallery:
        """Embeds images to search in.

        Args:
          model: that embeds them.
          images: as for `Model.embed`.
          modality: of all of them.
          ids: who is shown: a list in the order of the images, a dictionary or a function of the name, or a CSV file
            with the columns `name` and `id`. None: the name of the folder that an image lies in, or, directly in the
            gallery's folder, its own name without the suffix.
          white, black: as for `Model.embed`.
          on_error: "skip" leaves out images that cannot be read, warns, and lists them in `skipped`.
          progress: whether to draw a bar.

        Raises:
          BdfError: as `Model.embed`; ids that do not fit the images; features that have no similarity to any other.
        """
        if similarity_of(model.config.retrieve) in OF_TWO_VIEWS:
            use = model.config.retrieve.use
            raise BdfError(
                f"a gallery compares one vector of each image, and {use} two; load the model with use='sum4'"
            )
        table = id_table(ids)  # before the work
        gathered, features_ND, failed = model.embed_images(
            images, modality, white=white, black=black, on_error=on_error, progress=progress
        )
        ids_N = ids_of(table, gathered)
        lines = skipped_lines(gathered, failed)
        warn_of(gathered, failed)
        folder, note = os.path.abspath(gathered.folder) if gathered.folder else "", str(gathered.notes)
        if failed:
            kept = [row for row in range(len(gathered)) if row not in failed]
            gathered, features_ND, ids_N = gathered.select(kept), features_ND[kept], ids_N[kept]
        names = np.asarray(gathered.names, dtype=str)
        check_vectors(features_ND, names, similarity_of(model.config.retrieve))
        said: Any = {"folder": folder, "skipped": lines, "levels": gathered.levels, "note": note}
        return cls(model, features_ND, names, ids_N, modality, images=gathered, **said)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        model: Model | str | os.PathLike[str] | None = None,
        *,
        verify: bool | None = None,
    ) -> Gallery:
        """Opens a saved gallery; its features stay on the disk and are read as a search passes over them.

        Args:
          path: of the file.
          model: that embedded it, or the path to load it from; None: loaded again from where it was.
          verify: compare the features with their checksum, which reads them once; None: where the file is smaller than
            1 GiB.

        Raises:
          BdfError: no such file, a damaged one, or one that another model (or other feature settings) embedded.
        """
        stored = gallery_file.read(path, verify=verify)
        about = stored.about
        if isinstance(model, (str, os.PathLike)):
            model = load(model)
        if not isinstance(model, Model | None):
            raise BdfError(
                f"{path}: model: expected what bdf_jax.load returns, or a path, found {type(model).__name__}"
            )
        if model is None:
            try:
                model = load(about["source"], about["step"], **about.get("settings", {}))
            except BdfError as error:
                raise BdfError(
                    f"{path}: the model of this gallery cannot be loaded again ({error}); give it as model="
                ) from error
        if about["model"] != model.fingerprint:
            settings = ", ".join(f"{name} {value}" for name, value in model.settings.items())
            raise BdfError(
                f"{path}: this gallery was embedded by another model, of step {about['step']} in {about['source']} "
                f"with {about.get('settings')} (fingerprint {str(about['model'])[:12]}); the one given is of step "
                f"{model.step} in {model.source} with {settings} ({model.fingerprint[:12]}). Features of two models do "
                "not compare: load that model, or embed the images again"
            )
        if verify or (verify is None and stored.features_ND.nbytes < gallery_file.VERIFIED):
            similarity = similarity_of(model.config.retrieve)
            check_vectors(stored.features_ND, stored.names, similarity, f"{path}: damaged gallery: ")
        modality: Any = MODALITIES[stored.modality]
        said: Any = {"folder": str(about["folder"]), "levels": Levels(*about.get("levels", ()))}
        return cls(model, stored.features_ND, stored.names, stored.ids, modality, **said)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the gallery to one file (.npz, readable by `np.load`); one that was there stays whole until then.

        Raises:
          BdfError: the file cannot be written.
        """
        about = {
            "model": self.model.fingerprint,
            "source": self.model.source,
            "step": self.model.step,
            "settings": self.model.settings,
            "folder": self.folder,
            "levels": [self.levels.white, self.levels.black],
        }
        gallery_file.write(path, self.features_ND, self.names, self.ids, modality_number(self.modality), about)

    def search(
        self,
        images: Any,
        k: int | None = None,
        modality: Modality = "infrared",
        *,
        white: float | None = None,
        black: float | None = None,
        on_error: OnError = "raise",
        progress: bool = True,
    ) -> Ranked:
        """The images of the gallery that are most alike to each query.

        Args:
          images: the queries, as for `Model.embed`.
          k: how many of the gallery, 1..N; None: ten, or all where there are fewer.
          modality: of the queries.
          white, black: as for `Model.embed`, of the queries.
          on_error: "skip" leaves out queries that cannot be read, and warns.
          progress: whether to draw a bar while queries are embedded.

        Returns:
          `names, ids, scores = gallery.search(...)`, best first; ties by the order of the gallery. Each is (k,) where
          one image was given, (Q, k) for a folder, a list or a stack. A score is the dot product of the features: their
          cosine; for a model that compares by Euclidean distance, minus the distance.

        Raises:
          BdfError: as `Model.embed`; a k that is no number from 1 to N; features that have no similarity.
        """
        k = self._checked_k(k)
        gathered, queries_QD, failed = self.model.embed_images(
            images, modality, white=white, black=black, on_error=on_error, progress=progress
        )
        lines = skipped_lines(gathered, failed)
        warn_of(gathered, failed)
        single, note = gathered.single, str(gathered.notes)
        if failed:
            kept = [row for row in range(len(gathered)) if row not in failed]
            gathered, queries_QD = gathered.select(kept), queries_QD[kept]
        similarity = similarity_of(self.model.config.retrieve)
        check_vectors(queries_QD, np.asarray(gathered.names, dtype=str), similarity, "queries: ")
        scores_QK, rows_QK = top_k(queries_QD, self.features_ND, k, euclidean=similarity == "euclidean")
        names_QK, ids_QK = self.names[rows_QK], self.ids[rows_QK]
        found = (names_QK[0], ids_QK[0], scores_QK[0]) if single else (names_QK, ids_QK, scores_QK)
        ranked = Ranked(*found)
        ranked.queries, ranked.rows = gathered, rows_QK
        ranked.gallery, ranked.skipped, ranked.note = self, tuple(lines), note
        return ranked

    def _checked_k(self, k: Any) -> int:
        if k is None:
            return min(DEFAULT_K, len(self))
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or not 1 <= k <= len(self):
            raise BdfError(f"k: expected a number from 1 to the gallery's {len(self)} images, found {k!r}")
        return int(k)

    def picture(self, row: int) -> np.ndarray | None:
        """A small picture of an image, uint8; None where the file is no longer at hand."""
        height, width = self.model.image_size
        size = show.HEIGHT, max(1, round(show.HEIGHT * width / height))
        name = str(self.names[row])
        inside = not (self.folder and (os.path.isabs(name) or ".." in name.split("/")))
        with pillow_silent(), contextlib.suppress(BdfError):
            if self._images is not None:
                return self._images.pixels(row, size)
            return read_pixels(join(self.folder, name), printable(name), size, self.levels) if inside else None
        return None

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        facts = ", ".join(f"{name} {value}" for name, value in self._facts().items())
        return f"<bdf_jax.Gallery {facts}>"

    def _repr_html_(self) -> str:
        rows = range(min(len(self), show.MOST))
        tiles = [show.figure([self.picture(row)], show.caption(self.names[row], f"id {self.ids[row]}")) for row in rows]
        more = f"<div>and {len(self) - len(rows):,} more</div>" if len(self) > len(rows) else ""
        return show.facts_table("bdf_jax.Gallery", self._facts()) + show.strip(tiles) + more

    def _facts(self) -> dict[str, str]:
        facts = {
            "images": f"{len(self):,} {self.modality}",
            "ids": f"{len(set(self.ids.tolist())):,}",
            "features": f"{self.features_ND.shape[1]} numbers each"
            + (", mapped from a file" if isinstance(self.features_ND, np.memmap) else ""),
            "folder": from_here(self.folder) or "none",
        }
        if self.skipped:
            facts["skipped"] = f"{len(self.skipped)}: {some(self.skipped)}"
        return facts


class _Found(NamedTuple):
    names: np.ndarray
    ids: np.ndarray
    scores: np.ndarray


class Ranked(_Found):
    """What a search found: `names, ids, scores`, best first, (k,) for one query or (Q, k) for several.

    Attributes:
      queries: the images that were looked for.
      rows: (Q, k) int32, positions in the gallery.
      gallery: that was searched.
      skipped: queries that could not be read and were left out, with the reason.
      note: of queries that use little of their range; empty where there is nothing to say.
    """

    queries: Images
    rows: np.ndarray
    gallery: Gallery
    skipped: tuple[str, ...]
    note: str

    def lists(self) -> list[dict[str, Any]]:
        """JSON-ready: for each query its name and its results with rank, name, id and score."""
        columns = [np.atleast_2d(column) for column in self]
        return [
            {
                "query": query,
                "results": [
                    {"rank": rank, "name": str(name), "id": str(who), "score": float(score)}
                    for rank, (name, who, score) in enumerate(zip(*found, strict=True), start=1)
                ],
            }
            for query, found in zip(self.queries.names, zip(*columns, strict=True), strict=True)
        ]

    def __repr__(self) -> str:
        lists, lines = self.lists(), []
        for each in lists[:QUERIES_SHOWN]:
            lines.append(f"query {printable(each['query'])}")
            lines += [
                f"{found['rank']:>5}  {found['score']:7.4f}  id {printable(found['id'])}  {printable(found['name'])}"
                for found in each["results"]
            ]
        if len(lists) > QUERIES_SHOWN:
            lines.append(f"and {len(lists) - QUERIES_SHOWN:,} more queries")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return self.html(QUERIES_SHOWN)

    def html(self, most: int) -> str:
        """Picture strips of the first queries: the query, then what was found."""
        strips = []
        for q, each in enumerate(self.lists()[:most]):
            tiles = [show.figure([self._query_picture(q)], show.caption("query", each["query"]), frame="#8a94a0")]
            for row, found in zip(self.rows[q][: show.MOST].tolist(), each["results"], strict=False):
                below = show.caption(f"{found['rank']}.  {found['score']:.3f}", f"id {found['id']}", found["name"])
                tiles.append(show.figure([self.gallery.picture(row)], below))
            left = len(each["results"]) - show.MOST
            strips.append(show.strip(tiles) + (f"<div>and {left:,} more</div>" if left > 0 else ""))
        more = f"<div>and {len(self.rows) - most:,} more queries</div>" if len(self.rows) > most else ""
        return "".join(strips) + more

    def _query_picture(self, q: int) -> np.ndarray | None:
        height, width = self.gallery.model.image_size
        with pillow_silent(), contextlib.suppress(BdfError):
            return self.queries.pixels(q, (show.HEIGHT, max(1, round(show.HEIGHT * width / height))))
        return None


def open_gallery(
    path: str | os.PathLike[str], model: ModelOrPath | None = None, *, verify: bool | None = None
) -> Gallery:
    """Opens a saved gallery; see `Gallery.open`."""
    return Gallery.open(path, model, verify=verify)
