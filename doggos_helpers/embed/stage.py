"""Embedding as a stage: check its inputs, run the pipeline, record what came out."""

import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from doggos_helpers.artefacts import alone, check_storage, write_run, writing
from doggos_helpers.clip.files import model_fingerprint
from doggos_helpers.clip.model import check_model
from doggos_helpers.cluster.connect import Cluster
from doggos_helpers.cluster.waiting import wait_for
from doggos_helpers.data.manifest import Manifest, build_manifest
from doggos_helpers.embed.pipeline import build_pipeline, check_bad_share
from doggos_helpers.embed.table import (
    PENDING,
    REASON,
    commit,
    forget_other_encoder,
    in_several_splits,
    read_record,
    unfinished_rows,
)
from doggos_helpers.errors import unwrapped
from doggos_helpers.settings import Settings


@dataclass(frozen=True)
class EmbedInputs:
    """What an embedding needs: the images, and which model embeds them."""

    settings: Settings
    manifest: Manifest
    model: str


def check(settings: Settings) -> EmbedInputs:
    """Find out without Ray what would stop an embedding.

    Raises:
        StorageError, DataError, ModelError: See their messages.
    """
    check_storage(settings)
    manifest = build_manifest(settings)
    check_model(settings)
    model = model_fingerprint(settings.model, settings.model_revision)
    return EmbedInputs(settings, manifest, model)


def embed(inputs: EmbedInputs, cluster: Cluster) -> dict[str, Any]:
    """Embed every image of the data set that isn't embedded yet.

    Writes `embeddings_dir`/table, one row a manifest path with either `embedding` or
    `reason` null, and run.json. An interrupted run is continued by the next one;
    images that changed, and bad ones, are tried again.

    Returns:
        The run record; `counts` holds manifest, embedded and errors.

    Raises:
        DataError, ModelError, ClusterError, StorageError: See their messages.
    """
    started, settings, manifest = time.time(), inputs.settings, inputs.manifest
    folder, plan = settings.embeddings_dir, cluster.plan
    encoder = {"model": inputs.model, "dtype": plan.embed.dtype}
    with alone(settings, "embed"), writing(folder, "the embeddings"), unwrapped():
        forget_other_encoder(folder, encoder)
        rows = unfinished_rows(folder, manifest)
        if rows.num_rows:
            wait_for(plan.embed, cluster, settings)
            build_pipeline(rows, manifest.root, settings, plan).write_parquet(
                str(folder / PENDING), ray_remote_args={"num_cpus": plan.task_cpus}
            )
        elif (folder / "run.json").is_file():
            before = read_record(settings)
            if before["fingerprint"] == manifest.fingerprint:
                return before
        table, nodes = commit(folder, manifest)
        made = {"nodes": nodes, "encoder": encoder}
        return _record(inputs, table, rows.num_rows, started, **made)


def _record(
    inputs: EmbedInputs, table: pa.Table, computed: int, started: float, **made: Any
) -> dict[str, Any]:
    """Write run.json; only then complain where most images are bad."""
    settings, manifest = inputs.settings, inputs.manifest
    reasons = Counter(r for r in table[REASON].to_pylist() if r)
    counts = {
        "manifest": manifest.table.num_rows,
        "embedded": table[REASON].null_count,
        "errors": reasons.total(),
        "computed": computed,
        "ignored_files": manifest.ignored,
        "in_several_splits": in_several_splits(table),
    }
    run = write_run(
        settings.embeddings_dir,
        "embed",
        settings,
        started,
        fingerprint=manifest.fingerprint,
        counts=counts,
        classes=list(manifest.classes),
        reasons=dict(reasons.most_common()),
        **made,
    )
    check_bad_share(table.num_rows, reasons, settings.max_bad_share)
    return run
