"""Embedding: from a manifest of images to one Parquet table, on Ray Data."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import ray

from doggos_helpers.cluster.nodes import NODE, this_node
from doggos_helpers.cluster.plan import StagePlan, WorkerPlan
from doggos_helpers.data.files import read_bytes
from doggos_helpers.data.images import BadImage, Preprocessing, decode
from doggos_helpers.data.listing import PATH, SCHEMA
from doggos_helpers.data.manifest import Manifest
from doggos_helpers.embed.sink import stored_files, unfinished_rows
from doggos_helpers.embed.table import DIGEST, EMBEDDING, REASON
from doggos_helpers.errors import DataError
from doggos_helpers.settings import Settings

if TYPE_CHECKING:
    from ray.data import Dataset


PIXELS = "pixels"
BLOCKS, MAX_BLOCK_ROWS = 8, 4096  # of a worker; of each
SURE_ROWS = 64  # after so many a worker knows whether most images are bad
DIGEST_BYTES = 16


def read_and_decode(
    batch: dict[str, np.ndarray], root: str, preprocessing: Preprocessing
) -> dict[str, np.ndarray]:
    """Read and decode a batch of manifest rows. Runs in Ray Data tasks.

    Reading and decoding share a task so that the files' bytes never travel; Ray's
    own `download` expression would give None for an unreadable file, without why.

    Args:
        batch: Manifest columns, n rows.
        root: The data set's folder or URI.
        preprocessing: Of the model.

    Returns:
        The batch with `pixels` uint8 [n, height, width, 3], `reason` (empty where
        the image is good; where it is bad, the pixels are zeros) and `digest`, a
        hash of the file's bytes (empty where they can't be read).
    """
    count = len(batch[PATH])
    pixels = np.zeros((count, *preprocessing.crop, 3), np.uint8)
    reasons, digests = [""] * count, [""] * count
    for i, path in enumerate(batch[PATH]):
        try:
            data = read_bytes(root, path)
            digests[i] = hashlib.blake2b(data, digest_size=DIGEST_BYTES).hexdigest()
            pixels[i] = decode(data, preprocessing)
        except BadImage as error:
            reasons[i] = str(error)
    text = {REASON: np.array(reasons, object), DIGEST: np.array(digests, object)}
    return batch | {PIXELS: pixels} | text


def read_share(
    share: pa.Table, manifest: str, batch_size: int, **arguments: Any
) -> Iterator[dict[str, np.ndarray]]:
    """Read and decode a share of the manifest, batch by batch. Runs in Ray Data tasks.

    Args:
        share: One row: the number of a part, the files that the table had of it when
            the job began, and the first and number of the rows that are left.
        manifest: The manifest's folder.
        batch_size: Rows of a batch.
        **arguments: Of `read_and_decode`.
    """
    [row] = share.to_pylist()
    rows = unfinished_rows(manifest, row["part"], tuple(row["files"]))
    rows = rows.slice(row["first"], row["rows"])
    for batch in rows.to_pandas().groupby(np.arange(len(rows)) // batch_size):
        columns = {name: column.to_numpy() for name, column in batch[1].items()}
        yield read_and_decode(columns, **arguments)


class Embedder:
    """Embed batches of pixels. Ray Data keeps one in each worker of its actor pool.

    Args:
        settings: For the model.
        plan: For device, dtype and threads.
    """

    def __init__(self, settings: Settings, plan: WorkerPlan) -> None:
        """Load the image tower once; every batch of this worker then uses it."""
        from doggos_helpers.clip.encoder import ClipEncoder

        self.encoder = ClipEncoder(
            settings.model,
            settings.model_revision,
            device=plan.device,
            dtype=plan.embed.dtype,
            threads=plan.embed.threads,
        )
        self.node = this_node()
        self.max_bad_share = settings.max_bad_share
        self.rows, self.reasons = 0, Counter[str]()

    def __call__(self, batch: dict[str, np.ndarray]) -> pa.Table:
        """Replace `pixels` by `embedding`, null where the row has a reason."""
        self._give_up_if_most_are_bad(batch[REASON])
        bad = np.array([bool(r) for r in batch[REASON]])
        vectors = np.zeros((len(bad), self.encoder.dimension), np.float32)
        if not bad.all():
            vectors[~bad] = self.encoder.encode_images(batch[PIXELS][~bad])
        # Not a fixed-size list: Parquet can't read one back that holds nulls.
        lists = [None if b else v for v, b in zip(vectors, bad, strict=True)]
        columns = {f.name: pa.array(batch[f.name], f.type) for f in SCHEMA}
        columns[DIGEST] = pa.array(batch[DIGEST], pa.string())
        columns[EMBEDDING] = pa.array(lists, pa.list_(pa.float32()))
        columns[REASON] = pa.array([r or None for r in batch[REASON]], pa.string())
        return pa.table(columns | {NODE: [self.node] * len(bad)})

    def _give_up_if_most_are_bad(self, reasons: np.ndarray) -> None:
        """Stop a plainly misconfigured job early; what is written stays."""
        self.rows += len(reasons)
        self.reasons.update(r for r in reasons if r)
        if self.rows >= SURE_ROWS:
            check_bad_share(self.rows, self.reasons, self.max_bad_share)


def check_bad_share(rows: int, reasons: Counter[str], most: float) -> None:
    """Raise a `DataError` where more than a share of the images are bad."""
    bad = reasons.total()
    if bad > most * rows:
        first = "; ".join(f"{n} x {reason}" for reason, n in reasons.most_common(3))
        raise DataError(
            f"{bad} of {rows} images are bad, more than max_bad_share = {most:g}",
            first,
            "Mend the files or the dataset setting; what is embedded is kept",
        )


def build_pipeline(
    manifest: Manifest, folder: str, settings: Settings, plan: WorkerPlan
) -> "Dataset":
    """Build the lazy pipeline: manifest rows to pixels to embeddings.

    Args:
        manifest: Of the images.
        folder: Of the table; the rows that it has are left out.
        settings: For the model.
        plan: Workers, batch size and the CPUs of the small tasks.
    """
    from doggos_helpers.clip.encoder import load_preprocessing

    stage, size = plan.embed, block_rows(manifest.rows, plan.embed)
    shares = []
    for part, rows in enumerate(manifest.part_rows()):
        files, there = stored_files(folder, part)
        of_part = {"part": [part], "files": pa.array([files], pa.list_(pa.string()))}
        shares += [
            pa.table({**of_part, "first": [first], "rows": [size]})
            for first in range(0, max(1, rows - there), size)
        ]
    read: Any = read_share  # Ray's types know no arguments beside the batch
    kwargs = {
        "manifest": manifest.folder,
        "batch_size": stage.batch_size,
        "root": manifest.root,
        "preprocessing": load_preprocessing(settings.model, settings.model_revision),
    }
    pixels = ray.data.from_arrow(shares).map_batches(
        read,
        fn_kwargs=kwargs,
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=plan.embed.task_cpus,
    )
    return pixels.map_batches(
        Embedder,
        fn_constructor_args=(settings, plan),
        compute=ray.data.ActorPoolStrategy(size=stage.workers),
        batch_size=stage.batch_size,
        num_cpus=stage.cpus,
        num_gpus=stage.gpus,
        memory=stage.memory or None,
        accelerator_type=plan.accelerator_type or None,
    )


def block_rows(rows: int, stage: StagePlan) -> int:
    """Return how many rows make a block: what is lost when a process is killed."""
    batches = math.ceil(rows / (stage.workers * BLOCKS * stage.batch_size))
    return max(1, min(MAX_BLOCK_ROWS // stage.batch_size, batches)) * stage.batch_size
