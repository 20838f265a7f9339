"""Embedding: from a manifest of images to one Parquet table, on Ray Data."""

import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from doggos_helpers.cluster import Cluster, connect, disconnect, this_node, wait_for
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
from doggos_helpers.errors import StorageError, run_command
from doggos_helpers.images import (
    BadImage,
    Manifest,
    Preprocessing,
    build_manifest,
    decode,
    read_bytes,
)
from doggos_helpers.plan import WorkerPlan
from doggos_helpers.runs import missing, read_json, write_run

if TYPE_CHECKING:
    import pyarrow as pa
    from ray.data import Dataset

PIXELS = "pixels"
TABLE, PENDING, PART = "table", "pending", "embeddings.parquet"
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
    _forget_other_encoder(folder, encoder)
    rows = _unfinished(folder, manifest)
    if rows.num_rows:
        wait_for(plan.embed, cluster, settings)
        build_pipeline(rows, manifest.root, settings, plan).write_parquet(
            str(folder / PENDING), ray_remote_args={"num_cpus": plan.task_cpus}
        )
    elif (folder / "run.json").is_file():
        record = read_json(folder / "run.json", "03_embedding")
        if record["fingerprint"] == manifest.fingerprint:
            return record
    table, nodes = _commit(folder, manifest)
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


def _forget_other_encoder(folder: Path, encoder: dict[str, str]) -> None:
    """Drop rows that another model or precision embedded: they don't compare."""
    from doggos_helpers.runs import write_json

    note = folder / "encoder.json"
    if note.is_file() and read_json(note, "03_embedding") != encoder:
        shutil.rmtree(folder)
    write_json(note, encoder)


def _stored(folder: Path, manifest: Manifest) -> "pa.Table | None":
    """Read what is stored, finished or pending: one row a path of the manifest."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pieces = []
    for file in [
        *(folder / TABLE).glob("*.parquet"),
        *(folder / PENDING).rglob("*.parquet"),
    ]:
        try:
            pq.read_metadata(file)
        except pa.ArrowInvalid:  # no footer: half-written by an interrupted run
            file.unlink()
            continue
        piece = pq.read_table(file)
        if NODE not in piece.column_names:
            piece = piece.append_column(NODE, pa.nulls(piece.num_rows, pa.string()))
        pieces.append(piece)
    if not pieces:
        return None
    table = pa.concat_tables(pieces)
    sizes = dict(
        zip(
            manifest.table[PATH].to_pylist(),
            manifest.table[SIZE].to_pylist(),
            strict=True,
        )
    )
    best: dict[str, tuple[bool, int]] = {}
    columns = (PATH, SIZE, REASON)
    for i, (path, size, reason) in enumerate(
        zip(*(table[c].to_pylist() for c in columns), strict=True)
    ):
        if sizes.get(path) == size:  # later pieces are newer; a good row wins
            best[path] = max(best.get(path, (False, -1)), (reason is None, i))
    return table.take([i for _, (_, i) in sorted(best.items())])


def _unfinished(folder: Path, manifest: Manifest) -> "pa.Table":
    """Return the manifest rows that have no embedding yet."""
    import pyarrow as pa
    import pyarrow.compute as pc

    stored = _stored(folder, manifest)
    if stored is None:
        return manifest.table
    done = stored.filter(pc.is_null(stored[REASON]))[PATH]
    isin = pc.is_in(
        manifest.table[PATH], value_set=pa.array(done.to_pylist(), pa.string())
    )
    return manifest.table.filter(pc.invert(isin))


def _commit(folder: Path, manifest: Manifest) -> "tuple[pa.Table, dict[str, int]]":
    """Merge the pending rows into the table, sorted by path, and swap it in."""
    import pyarrow.parquet as pq

    table = _stored(folder, manifest)
    if table is None or table.num_rows != manifest.table.num_rows:
        found = 0 if table is None else table.num_rows
        raise StorageError(
            f"{found} of {manifest.table.num_rows} rows were stored",
            str(folder),
            "Run the same command again: it computes the missing rows",
        )
    nodes = Counter(n for n in table[NODE].to_pylist() if n)
    table = table.drop_columns([NODE])
    target = folder / TABLE
    target.mkdir(parents=True, exist_ok=True)
    draft = target / f".{PART}"
    pq.write_table(table, draft)
    draft.replace(target / PART)
    shutil.rmtree(folder / PENDING, ignore_errors=True)
    return table, dict(sorted(nodes.items()))


@dataclass(frozen=True)
class Embeddings:
    """The good rows of the table, in path order, as arrays of the same length n.

    `vectors` is float32 [n, d] with rows of length one; the others are str [n].
    """

    paths: np.ndarray
    classes: np.ndarray
    splits: np.ndarray
    vectors: np.ndarray

    def __len__(self) -> int:
        """Return n."""
        return len(self.paths)

    def select(self, mask: np.ndarray) -> "Embeddings":
        """Return the rows where `mask` (bool [n], or indices) holds."""
        columns = (self.paths, self.classes, self.splits, self.vectors)
        return Embeddings(*(c[mask] for c in columns))


def embeddings_file(settings: Settings) -> Path:
    """Return the Parquet file of the table.

    Raises:
        StorageError: It isn't there yet.
    """
    file = settings.embeddings_dir / TABLE / PART
    if not (file.is_file() and (settings.embeddings_dir / "run.json").is_file()):
        raise missing(file, "03_embedding")
    return file


def read_embeddings(settings: Settings, split: str = "") -> Embeddings:
    """Read the good rows of the table, of one split or of all.

    Raises:
        StorageError: There is no table yet, or it can't be read.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    file = embeddings_file(settings)
    try:
        table = pq.read_table(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise StorageError(
            f"can't read the embeddings ({error})",
            str(file),
            "Delete this file and run notebook 03_embedding again",
        ) from error
    keep = pc.is_null(table[REASON])
    if split:
        keep = pc.and_(keep, pc.equal(table[SPLIT], split))
    table = table.filter(keep).combine_chunks()
    flat = table[EMBEDDING].combine_chunks().flatten().to_numpy()
    vectors = flat.reshape(table.num_rows, len(flat) // max(1, table.num_rows))
    text = [np.array(table[c].to_pylist(), dtype=str) for c in (PATH, CLASS, SPLIT)]
    return Embeddings(text[0], text[1], text[2], vectors)


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
