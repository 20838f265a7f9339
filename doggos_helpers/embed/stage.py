"""Embedding as a stage: check its inputs, run the pipeline, record what came out."""

import logging
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import ray

from doggos_helpers.artefacts import check_storage, write_run, writing
from doggos_helpers.clip.files import model_fingerprint
from doggos_helpers.clip.model import check_model
from doggos_helpers.cluster.connect import Cluster
from doggos_helpers.cluster.waiting import wait_for
from doggos_helpers.data.manifest import Manifest, build_manifest
from doggos_helpers.embed.pipeline import block_rows, build_pipeline, check_bad_share
from doggos_helpers.embed.sink import (
    Settled,
    TableSink,
    forget_other_encoder,
    in_several_splits,
    parts_of,
    settle,
)
from doggos_helpers.embed.table import LAYOUT, read_record, table_folder
from doggos_helpers.errors import StorageError, unwrapped
from doggos_helpers.lock import alone
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
    with writing(settings.artefacts, "the manifest"):
        manifest = build_manifest(settings, parts_of(settings.embeddings_dir))
    check_model(settings)
    model = model_fingerprint(settings.model, settings.model_revision)
    return EmbedInputs(settings, manifest, model)


def embed(inputs: EmbedInputs, cluster: Cluster) -> dict[str, Any]:
    """Embed every image of the data set that isn't embedded yet.

    Writes `embeddings_dir`/table, one row a manifest path with either `embedding` or
    `reason` null, and run.json. An interrupted run is continued by the next one;
    images that changed are embedded again, those that are gone are dropped.

    Returns:
        The run record; `counts` holds manifest, embedded and errors.

    Raises:
        DataError, ModelError, ClusterError, StorageError: See their messages.
    """
    started, settings, manifest = time.time(), inputs.settings, inputs.manifest
    plan, folder = cluster.plan, table_folder(settings)
    made = {"model": inputs.model, "dtype": plan.embed.dtype}
    encoder = made | {"layout": LAYOUT, "parts": manifest.parts}
    root = settings.embeddings_dir
    with alone(settings, "embed"), writing(root, "the embeddings"), unwrapped():
        encoder = forget_other_encoder(root, encoder, settings.dtype is None)
        settled = settle_parts(manifest, folder, unread=False)
        sink = TableSink(folder, manifest.parts, block_rows(manifest.rows, plan.embed))
        if settled.rows < manifest.rows:
            wait_for(plan.embed, cluster, settings)
            build_pipeline(manifest, folder, settings, plan).write_datasink(
                sink, ray_remote_args={"num_cpus": plan.embed.task_cpus}
            )
            settled = settle_parts(manifest, folder)
        elif (root / "run.json").is_file():
            before = read_record(settings)
            if before["fingerprint"] == manifest.fingerprint:
                return before
        if settled.rows < manifest.rows:
            raise StorageError(
                f"{settled.rows} of {manifest.rows} rows were stored",
                folder,
                "Run the same command again: it computes the missing rows",
            )
        return _record(inputs, settled, sink.written, started, encoder)


def settle_parts(manifest: Manifest, folder: str, unread: bool = True) -> Settled:
    """Settle all parts, as tasks on the cluster, and add up what they have."""
    task = ray.remote(num_cpus=0)(settle)
    parts = range(manifest.parts)
    asked = [task.remote(manifest.folder, folder, part, unread) for part in parts]
    total = Settled(0, Counter(), Counter(), {})
    for one in ray.get(asked):
        total.rows += one.rows
        total.reasons += one.reasons
        total.nodes += one.nodes
        for file, why in one.damaged.items():
            message = "The rows of %s are computed again: %s"
            logging.getLogger(__name__).warning(message, file, why)
    return total


def _record(
    inputs: EmbedInputs,
    settled: Settled,
    computed: int,
    started: float,
    encoder: dict[str, Any],
) -> dict[str, Any]:
    """Write run.json; only then complain where most images are bad."""
    settings, manifest = inputs.settings, inputs.manifest
    errors = settled.reasons.total()
    counts = {
        "manifest": manifest.rows,
        "embedded": settled.rows - errors,
        "errors": errors,
        "computed": computed,
        "ignored_files": manifest.ignored,
        "in_several_splits": in_several_splits(table_folder(settings), settled.rows),
    }
    run = write_run(
        settings.embeddings_dir,
        "embed",
        settings,
        started,
        fingerprint=manifest.fingerprint,
        counts=counts,
        classes=list(manifest.classes),
        reasons=dict(settled.reasons.most_common()),
        nodes=dict(sorted(settled.nodes.items())),
        encoder=encoder,
    )
    check_bad_share(settled.rows, settled.reasons, settings.max_bad_share)
    return run
