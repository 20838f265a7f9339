"""Embedding: from a manifest of images to one Parquet table, on Ray Data."""

import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from doggos_helpers.cluster import Cluster, connect, disconnect
from doggos_helpers.config import (
    CLASS,
    EMBEDDING,
    NODE,
    PATH,
    REASON,
    SIZE,
    SPLIT,
    Settings,
)
from doggos_helpers.dataset import build_manifest, read_bytes
from doggos_helpers.errors import run_command
from doggos_helpers.images import BadImage, Preprocessing, decode
from doggos_helpers.nodes import this_node, wait_for
from doggos_helpers.plan import WorkerPlan
from doggos_helpers.runs import read_json, write_run
from doggos_helpers.table import (
    PART,
    PENDING,
    TABLE,
    commit,
    forget_other_encoder,
    unfinished_rows,
)

if TYPE_CHECKING:
    import pyarrow as pa
    from ray.data import Dataset

PIXELS = "pixels"
MAX_BLOCK_ROWS = 512


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
        The batch with `pixels` uint8 [n, height, width, 3] and `reason` (empty where
        the image is good; where it is bad, the pixels are zeros).
    """
    pixels = np.zeros((len(batch[PATH]), *preprocessing.crop, 3), np.uint8)
    reasons = []
    for i, path in enumerate(batch[PATH]):
        try:
            pixels[i] = decode(read_bytes(root, path), preprocessing)
            reasons.append("")
        except BadImage as error:
            reasons.append(str(error))
    return batch | {PIXELS: pixels, REASON: np.array(reasons, dtype=object)}


class Embedder:
    """Embed batches of pixels. Ray Data keeps one in each worker of its actor pool.

    Args:
        settings: For the model.
        plan: For device, dtype and threads.
    """

    def __init__(self, settings: Settings, plan: WorkerPlan) -> None:
        """Load the image tower once; every batch of this worker then uses it."""
        from doggos_helpers.clip import ClipEncoder

        self.encoder = ClipEncoder(
            settings.model,
            settings.model_revision,
            device=plan.device,
            dtype=plan.embed.dtype,
            threads=plan.embed.threads,
        )
        self.node = this_node()

    def __call__(self, batch: dict[str, np.ndarray]) -> "pa.Table":
        """Replace `pixels` by `embedding`, null where the row has a reason."""
        import pyarrow as pa

        bad = np.array([bool(r) for r in batch[REASON]])
        vectors = np.zeros((len(bad), self.encoder.dimension), np.float32)
        if not bad.all():
            vectors[~bad] = self.encoder.encode_images(batch[PIXELS][~bad])
        # Not a fixed-size list: Parquet can't read one back that holds nulls.
        lists = [None if b else v for v, b in zip(vectors, bad, strict=True)]
        embedding = pa.array(lists, pa.list_(pa.float32()))
        kept = {name: pa.array(batch[name]) for name in (PATH, CLASS, SPLIT, SIZE)}
        reasons = [reason or None for reason in batch[REASON]]
        return pa.table(
            kept
            | {
                EMBEDDING: embedding,
                REASON: pa.array(reasons, pa.string()),
                NODE: pa.array([self.node] * len(bad)),
            }
        )


def build_pipeline(
    rows: "pa.Table", root: str, settings: Settings, plan: WorkerPlan
) -> "Dataset":
    """Build the lazy pipeline: manifest rows to pixels to embeddings.

    Args:
        rows: Manifest rows.
        root: The data set's folder or URI.
        settings: For the model.
        plan: Workers, batch size and the CPUs of the small tasks.
    """
    import ray

    from doggos_helpers.clip import load_preprocessing

    stage = plan.embed
    blocks = -(-rows.num_rows // (stage.workers * 8))
    size = min(MAX_BLOCK_ROWS, -(-blocks // stage.batch_size) * stage.batch_size)
    tables = [rows.slice(i, size) for i in range(0, rows.num_rows, size)]
    kwargs = {
        "root": root,
        "preprocessing": load_preprocessing(settings.model, settings.model_revision),
    }
    decode_rows: Any = read_and_decode  # Ray's types know no arguments beside the batch
    pixels = ray.data.from_arrow(tables).map_batches(
        decode_rows,
        fn_kwargs=kwargs,
        batch_size=stage.batch_size,
        num_cpus=plan.task_cpus,
    )
    return pixels.map_batches(
        Embedder,
        fn_constructor_args=(settings, plan),
        compute=ray.data.ActorPoolStrategy(size=stage.workers),
        batch_size=stage.batch_size,
        num_cpus=stage.cpus,
        num_gpus=stage.gpus,
        accelerator_type=plan.accelerator_type or None,
    )


def embed(settings: Settings, cluster: Cluster) -> dict[str, Any]:
    """Embed every image of the data set that isn't embedded yet.

    Writes `embeddings_dir`/table, one row a manifest path with either `embedding` or
    `reason` null, and run.json. An interrupted run is continued by the next one;
    images that changed, and bad ones, are tried again.

    Returns:
        The run record; `counts` holds manifest, embedded and errors.

    Raises:
        DataError, ModelError, ClusterError, StorageError: See their messages.
    """
    from doggos_helpers.clip import model_fingerprint

    started = time.time()
    folder, plan = settings.embeddings_dir, cluster.plan
    manifest = build_manifest(settings)
    encoder = {
        "model": model_fingerprint(settings.model, settings.model_revision),
        "dtype": plan.embed.dtype,
    }
    forget_other_encoder(folder, encoder)
    rows = unfinished_rows(folder, manifest)
    if rows.num_rows:
        wait_for(plan.embed, cluster, settings)
        build_pipeline(rows, manifest.root, settings, plan).write_parquet(
            str(folder / PENDING), ray_remote_args={"num_cpus": plan.task_cpus}
        )
    elif (folder / "run.json").is_file():
        record = read_json(folder / "run.json", "03_embedding")
        if record["fingerprint"] == manifest.fingerprint:
            return record
    table, nodes = commit(folder, manifest)
    good = table[REASON].null_count
    reasons = Counter(r for r in table[REASON].to_pylist() if r)
    counts = {
        "manifest": manifest.table.num_rows,
        "embedded": good,
        "errors": table.num_rows - good,
        "computed": rows.num_rows,
        "ignored_files": manifest.ignored,
    }
    return write_run(
        folder,
        "embed",
        settings,
        started,
        fingerprint=manifest.fingerprint,
        counts=counts,
        nodes=nodes,
        encoder=encoder,
        classes=list(manifest.classes),
        reasons=dict(reasons.most_common()),
    )


def main(arguments: Sequence[str]) -> int:
    """Embed the data set of the settings."""
    settings = Settings.from_command("doggos_helpers.embed", list(arguments))
    cluster = connect(settings)
    try:
        run = embed(settings, cluster)
    finally:
        disconnect()
    counts = run["counts"]
    print(
        f"{counts['embedded']} embedded + {counts['errors']} bad = {counts['manifest']}"
    )
    for reason, count in list(run["reasons"].items())[:10]:
        print(f"  {count} x {reason}")
    print(f"{settings.embeddings_dir / TABLE / PART} ({run['seconds']} s)")
    return 0


if __name__ == "__main__":
    run_command(main)
