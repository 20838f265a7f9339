"""The application: what its replicas are given, and building it from settings."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field
from ray import serve

from doggos_helpers.cluster.connect import connect
from doggos_helpers.cluster.plan import StagePlan, WorkerPlan
from doggos_helpers.embed.table import embeddings_file, read_record
from doggos_helpers.errors import ModelError
from doggos_helpers.serve.deployments import (
    ONGOING_REQUESTS,
    QUEUED_REQUESTS,
    Encoder,
    Ingress,
    Predictor,
)
from doggos_helpers.settings import Settings

if TYPE_CHECKING:
    from ray.serve import Application


def beside(stage: StagePlan) -> float:
    """Return the CPUs of an `Ingress` or `Predictor` replica.

    One of each fits beside an `Encoder`, which the plan gives half of its node.
    """
    return min(0.25, stage.cpus / 2)


def application(settings: Settings, plan: WorkerPlan, champion: Path) -> "Application":
    """Bind the three deployments to one application, sized by the plan.

    Args:
        settings: For the model, the embeddings and what is allowed.
        plan: Replicas, and what each gets.
        champion: The classifier's folder, on storage that every node sees.

    Raises:
        ModelError: The embeddings are of other weights, or the model can't be loaded.
        StorageError: There are no embeddings.
    """
    from doggos_helpers.clip.encoder import load_preprocessing

    check_artefacts(settings, champion)
    stage = plan.serve
    common: dict[str, Any] = {
        "num_replicas": stage.workers,
        "max_replicas_per_node": stage.per_node,
        # Ray Serve's default of 5 would keep batches from filling. Twice a batch:
        # one is computed while the next one collects.
        "max_ongoing_requests": 2 * stage.batch_size,
    }
    waiting = common | {
        "max_ongoing_requests": ONGOING_REQUESTS,
        "max_queued_requests": QUEUED_REQUESTS,
    }
    small = {"num_cpus": beside(stage)}
    model: dict[str, Any] = {"num_cpus": stage.cpus, "num_gpus": stage.gpus}
    if stage.memory:
        model["memory"] = stage.memory
    if plan.accelerator_type:
        model["accelerator_type"] = plan.accelerator_type
    encoder = serve.deployment(ray_actor_options=model, **common)(Encoder)
    predictor = serve.deployment(ray_actor_options=small, **common)(Predictor)
    ingress = serve.deployment(ray_actor_options=small, **waiting)(
        serve.ingress()(Ingress)
    )
    return ingress.bind(
        settings,
        load_preprocessing(settings.model, settings.model_revision),
        encoder.bind(settings, plan),
        predictor.bind(settings, str(champion)),
    )


def check_artefacts(settings: Settings, champion: Path) -> None:
    """Find out on the driver what would keep the replicas from starting.

    Embeddings or a champion of other CLIP weights are refused, too: the answers would
    be noise.

    Raises:
        StorageError: There are no embeddings.
        ModelError: The champion can't be loaded, or the weights differ.
    """
    from doggos_helpers.clip.files import model_fingerprint
    from doggos_helpers.train.classifier import check_fits

    file = embeddings_file(settings)
    embedded = read_record(settings)
    now = model_fingerprint(settings.model, settings.model_revision)
    if embedded["encoder"]["model"] != now:
        raise ModelError(
            f"the embeddings were made with other weights than {settings.model} has",
            str(file),
            "Run notebooks 03_embedding and 04_training again",
        )
    check_fits(champion, now)


class ServeSettings(Settings):
    """Serve the champion over HTTP, until Ctrl-C."""

    champion: str = Field("", description="classifier's folder; empty: the registry's")


def build_app(args: ServeSettings) -> "Application":
    """Build the application from settings alone; a Serve YAML names this function.

    Ray Serve runs it on the cluster, and takes `args` from the YAML.
    """
    return application(args, connect(args).plan, _champion(args))


def _champion(settings: Settings) -> Path:
    embeddings_file(settings)  # of two missing artefacts the earlier one is named
    if isinstance(settings, ServeSettings) and settings.champion:
        return Path(settings.champion)
    from doggos_helpers.train.registry import champion

    return champion(settings).folder
