"""Embedding as a stage: check its inputs, run the pipeline, record what came out."""

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from doggos_helpers.artefacts import alone, check_storage, write_run, writing
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

if TYPE_CHECKING:
    import pyarrow as pa


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
    from doggos_helpers.clip.model import model_fingerprint

    started = time.time()
    folder, plan = settings.embeddings_dir, cluster.plan
    manifest = check_inputs(settings)
    encoder = {
        "model": model_fingerprint(settings.model, settings.model_revision),
        "dtype": plan.embed.dtype,
    }
    with alone(settings, "embed"), writing(folder, "the embeddings"), unwrapped():
        forget_other_encoder(folder, encoder)
        rows = unfinished_rows(folder, manifest)
        if rows.num_rows:
            wait_for(plan.embed, cluster, settings)
            build_pipeline(rows, manifest.root, settings, plan).write_parquet(
                str(folder / PENDING), ray_remote_args={"num_cpus": plan.task_cpus}
            )
        elif (folder / "run.json").is_file():
            record = read_record(settings)
            if record["fingerprint"] == manifest.fingerprint:
                return record
        table, nodes = commit(folder, manifest)
        reasons = Counter(r for r in table[REASON].to_pylist() if r)
        run = write_run(
            folder,
            "embed",
            settings,
            started,
            fingerprint=manifest.fingerprint,
            counts=_counts(manifest, table, rows.num_rows),
            nodes=nodes,
            encoder=encoder,
            classes=list(manifest.classes),
            reasons=dict(reasons.most_common()),
        )
    check_bad_share(table.num_rows, reasons, settings.max_bad_share)
    return run


def check_inputs(settings: Settings) -> Manifest:
    """Check, without Ray, what an embedding needs; return the manifest.

    Raises:
        StorageError, DataError, ModelError: See their messages.
    """
    from doggos_helpers.clip.model import check_model

    check_storage(settings)
    manifest = build_manifest(settings)
    check_model(settings)
    return manifest


def _counts(manifest: Manifest, table: "pa.Table", computed: int) -> dict[str, int]:
    good = table[REASON].null_count
    return {
        "manifest": manifest.table.num_rows,
        "embedded": good,
        "errors": table.num_rows - good,
        "computed": computed,
        "ignored_files": manifest.ignored,
        "in_several_splits": in_several_splits(table),
    }
