"""Embedding: from a manifest of images to one Parquet table, on Ray Data."""

import math
import threading
import uuid
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.data import Dataset, Datasink
from ray.data.block import Block, BlockAccessor

from doggos_helpers.clip.encoder import ClipEncoder, load_preprocessing
from doggos_helpers.cluster.nodes import NODE, this_node
from doggos_helpers.cluster.plan import StagePlan, WorkerPlan
from doggos_helpers.data.files import read_bytes, write_parquet
from doggos_helpers.data.images import BadImage, Preprocessing, decode
from doggos_helpers.data.listing import PATH, SCHEMA
from doggos_helpers.data.manifest import Manifest, part_of, read_part
from doggos_helpers.embed.table import EMBEDDING, READERS, REASON
from doggos_helpers.environment import environment
from doggos_helpers.errors import DataError
from doggos_helpers.settings import Settings

PIXELS = "pixels"
BLOCKS, MAX_BLOCK_ROWS = 8, 4096  # of a worker; of each
SURE_ROWS = 64  # after so many a worker knows whether most images are bad


def read_and_decode(
    batch: dict[str, np.ndarray], root: str, preprocessing: Preprocessing
) -> dict[str, np.ndarray]:
    """Read and decode a batch of manifest rows. Runs in Ray Data tasks.

    Both in one task, so that the files' bytes never travel. Several files are read at
    a time, for a store answers late, and one is decoded.

    Args:
        batch: Manifest columns, n rows.
        root: The data set's folder or URI.
        preprocessing: Of the model.

    Returns:
        The batch with `pixels` uint8 [n, height, width, 3] and `reason`: empty where
        the image is good; where it is bad, its pixels are zeros.
    """
    count, decoding = len(batch[PATH]), threading.Lock()
    pixels = np.zeros((count, *preprocessing.crop, 3), np.uint8)
    reasons = np.array([""] * count, object)

    def read_one(i: int) -> None:
        try:
            data = read_bytes(root, batch[PATH][i])
            with decoding:
                pixels[i] = decode(data, preprocessing)
        except BadImage as error:
            reasons[i] = str(error)

    with ThreadPoolExecutor(READERS) as pool:
        list(pool.map(read_one, range(count)))  # raises what one of them raised
    return batch | {PIXELS: pixels, REASON: reasons}


class Embedder:
    """Embed batches of pixels. Ray Data keeps one in each worker of its actor pool."""

    def __init__(self, settings: Settings, plan: WorkerPlan) -> None:
        """Load the image tower once; every batch of this worker then uses it."""
        stage, model = plan.embed, (settings.model, settings.model_revision)
        # Threads of PyTorch that wait for each other leave their core to what decodes.
        with environment(OMP_WAIT_POLICY="PASSIVE"):
            self.encoder = ClipEncoder(*model, plan.device, stage.dtype, stage.threads)
        self.node, self.max_bad_share = this_node(), settings.max_bad_share
        self.reasons = Counter[str]()

    def __call__(self, batch: dict[str, np.ndarray]) -> pa.Table:
        """Replace `pixels` by `embedding`, null where the row has a reason."""
        self.reasons.update(batch[REASON])
        if self.reasons.total() >= SURE_ROWS:  # a wrong data set ends here, not later
            check_bad_share(self.reasons, self.max_bad_share)
        vectors, reasons = self.encoder.encode_images(batch[PIXELS]), batch[REASON]
        lists = [None if r else v for v, r in zip(vectors, reasons, strict=True)]
        columns = {f.name: pa.array(batch[f.name], f.type) for f in SCHEMA}
        # Not a fixed-size list: Parquet can't read one back that holds nulls.
        columns[EMBEDDING] = pa.array(lists, pa.list_(pa.float32()))
        columns[REASON] = pa.array([r or None for r in reasons], pa.string())
        return pa.table(columns | {NODE: [self.node] * len(reasons)})


def check_bad_share(reasons: Counter[str], most: float) -> None:
    """Raise a `DataError` where more than a share of the images have a reason."""
    rows, bad = reasons.total(), reasons.total() - reasons[""]
    if bad > most * rows:
        first = [f"{n} x {reason}" for reason, n in reasons.most_common(4) if reason]
        what = f"{bad} of {rows} images are bad, more than max_bad_share = {most:g}"
        fix = "Mend the files or the dataset setting; what is embedded is kept"
        raise DataError(what, "; ".join(first), fix)


def build_pipeline(manifest: Manifest, settings: Settings, plan: WorkerPlan) -> Dataset:
    """Build the lazy pipeline: shares of a manifest to rows, pixels, embeddings."""
    stage, parts = plan.embed, manifest.part_rows()
    size = block_rows(sum(parts), stage)
    shares = [
        {"part": part, "first": first}
        for part, rows in enumerate(parts)
        for first in range(0, rows, size)
    ]

    def read_rows(share: dict[str, int]) -> list[dict[str, Any]]:
        part = read_part(manifest.folder, share["part"])
        return part.slice(share["first"], size).to_pylist()

    rows = ray.data.from_items(shares, override_num_blocks=len(shares)).flat_map(
        read_rows, num_cpus=stage.task_cpus
    )
    preprocessing = load_preprocessing(settings.model, settings.model_revision)
    pixels = rows.map_batches(
        read_and_decode,  # type: ignore[arg-type]  # it takes more than the batch
        fn_kwargs={"root": manifest.root, "preprocessing": preprocessing},
        batch_size=stage.batch_size,
        num_cpus=stage.task_cpus,
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


class TableSink(Datasink[None]):
    """Write rows into a folder for each part, a file at a time, whole or not at all.

    Ray Data's own `write_parquet` writes in place, so that readers meet half a file.
    """

    min_rows_per_write = 1  # of a file; below, so many as a block has

    def __init__(self, manifest: Manifest, folder: str, stage: StagePlan) -> None:
        """Remember where to write."""
        self.parts, self.folder, self.job = manifest.parts, folder, uuid.uuid4().hex
        self.min_rows_per_write = block_rows(sum(manifest.part_rows()), stage)

    def write(self, blocks: Iterable[Block], ctx: Any) -> None:
        """Write blocks into files named by their task, which Ray may run again."""
        table = pa.concat_tables(BlockAccessor.for_block(b).to_arrow() for b in blocks)
        where = part_of(table[PATH], self.parts)
        for part in pc.unique(where).to_pylist():
            rows = table.filter(pc.equal(where, part)).sort_by(PATH)
            name = f"{self.job}-{ctx.task_idx:06}.parquet"
            write_parquet(rows, f"{self.folder}/{part:05}", name)
