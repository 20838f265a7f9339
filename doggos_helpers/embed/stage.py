"""Embedding as a stage: check its inputs, run the pipeline, record what came out."""

import dataclasses
import time
from collections import Counter
from typing import Any

from doggos_helpers.artefacts import alone, check_storage, write_run, writing
from doggos_helpers.clip.files import model_fingerprint
from doggos_helpers.clip.model import check_model
from doggos_helpers.cluster.connect import Cluster
from doggos_helpers.cluster.waiting import wait_for
from doggos_helpers.data.manifest import Manifest, build_manifest
from doggos_helpers.embed.pipeline import TableSink, build_pipeline, check_bad_share
from doggos_helpers.embed.settle import begin_table, encoder_of, settle
from doggos_helpers.embed.table import read_record, table_folder
from doggos_helpers.errors import StorageError, unwrapped
from doggos_helpers.settings import Settings


@dataclasses.dataclass(frozen=True)
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
        manifest = build_manifest(settings, encoder_of(settings).get("parts", 0))
    check_model(settings)
    model = model_fingerprint(settings.model, settings.model_revision)
    return EmbedInputs(settings, manifest, model)


def embed(inputs: EmbedInputs, cluster: Cluster) -> dict[str, Any]:
    """Embed every image of the data set that isn't embedded yet; return the record.

    Writes `embeddings_dir`/table, one row a manifest path with either `embedding` or
    `reason` null, and run.json. An interrupted run is continued by the next one;
    images that changed are embedded again, those that are gone are dropped.

    Raises:
        DataError, ModelError, ClusterError, StorageError: See their messages.
    """
    started, settings, manifest = time.time(), inputs.settings, inputs.manifest
    plan, table, root = cluster.plan, table_folder(settings), settings.embeddings_dir
    left = dataclasses.replace(manifest, folder=str(root / "left"))
    made = {"model": inputs.model, "dtype": plan.embed.dtype, "parts": manifest.parts}
    with alone(settings, "embed"), writing(root, "the embeddings"), unwrapped():
        encoder = begin_table(settings, made)
        reasons, nodes = settle(manifest, table, left, retry=True)
        if (before := reasons.total()) < manifest.rows:
            wait_for(plan.embed, cluster, settings)
            build_pipeline(left, settings, plan).write_datasink(
                TableSink(left, table, plan.embed),
                ray_remote_args={"num_cpus": plan.embed.task_cpus},
            )
            reasons, nodes = settle(manifest, table, left, retry=False)
        elif (root / "run.json").is_file():
            record = read_record(settings)
            if record["fingerprint"] == manifest.fingerprint:
                return record
        if lacking := manifest.rows - reasons.total():
            raise StorageError(f"{lacking} rows were not stored", table, "Run it again")
        also = {"nodes": dict(sorted(nodes.items())), "encoder": encoder}
        return _record(inputs, reasons, before, started=started, **also)


def _record(
    inputs: EmbedInputs, reasons: Counter[str], before: int, **also: Any
) -> dict[str, Any]:
    """Write run.json; only then complain where most images are bad."""
    settings, manifest = inputs.settings, inputs.manifest
    record: dict[str, Any] = {
        "fingerprint": manifest.fingerprint,
        "counts": {
            "manifest": manifest.rows,
            "embedded": reasons[""],
            "errors": reasons.total() - reasons[""],
            "computed": reasons.total() - before,
            "ignored_files": manifest.ignored,
        },
        "classes": list(manifest.classes),
        "reasons": {r: n for r, n in reasons.most_common() if r},
    }
    run = write_run(settings.embeddings_dir, "embed", settings, **record, **also)
    check_bad_share(reasons, settings.max_bad_share)
    return run
