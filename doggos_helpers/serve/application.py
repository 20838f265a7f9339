"""The application: what its replicas are given, and building it from settings."""

from typing import Any

from pydantic import Field
from ray import serve
from upath import UPath

from doggos_helpers.cluster.connect import connect
from doggos_helpers.cluster.plan import StagePlan, WorkerPlan
from doggos_helpers.embed.table import find_table, read_record
from doggos_helpers.errors import ModelError
from doggos_helpers.search.index import open_index
from doggos_helpers.serve.deployments import (
    ONGOING_REQUESTS,
    QUEUED_REQUESTS,
    Encoder,
    Ingress,
    Matcher,
)
from doggos_helpers.settings import Settings


def beside(stage: StagePlan) -> float:
    """Return the CPUs of an `Ingress` or `Matcher` replica.

    One of each fits beside an `Encoder`, which the plan gives half of its node.
    """
    return min(0.25, stage.cpus / 2)


def application(
    settings: Settings, plan: WorkerPlan, champion: UPath
) -> serve.Application:
    """Bind the three deployments to one application, sized by the plan.

    Args:
        settings: For the model, the embeddings and what is allowed.
        plan: Replicas, and what each gets.
        champion: The classifier's folder, on storage that every node sees.

    Raises:
        ModelError: The model can't be loaded.
    """
    from doggos_helpers.clip.encoder import load_preprocessing

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
    wanted: dict[str, Any] = {
        "num_cpus": stage.cpus,
        "num_gpus": stage.gpus,
        "memory": stage.memory,
        "accelerator_type": plan.accelerator_type,
    }
    model = {name: amount for name, amount in wanted.items() if amount}
    encoder = serve.deployment(ray_actor_options=model, **common)(Encoder)
    matcher = serve.deployment(ray_actor_options=small, **common)(Matcher)
    http = serve.ingress()(Ingress)
    ingress = serve.deployment(ray_actor_options=small, **waiting)(http)
    return ingress.bind(
        settings,
        load_preprocessing(settings.model, settings.model_revision),
        encoder.bind(settings, plan),
        matcher.bind(settings, str(champion)),
    )


class ServeSettings(Settings):
    """Serve the champion over HTTP, until Ctrl-C."""

    champion: str = Field("", description="classifier's folder; empty: the registry's")


def check_artefacts(settings: Settings) -> UPath:
    """Find out on the driver what would keep the replicas from starting.

    Embeddings or a champion of other CLIP weights are refused, too: the answers would
    be noise.

    Returns:
        The champion's folder.

    Raises:
        StorageError: There are no embeddings, or no champion.
        ModelError: The champion can't be loaded, or the weights differ.
    """
    from doggos_helpers.clip.files import model_fingerprint
    from doggos_helpers.train.classifier import check_fits
    from doggos_helpers.train.registry import champion

    file, embedded = find_table(settings), read_record(settings)
    given = settings.champion if isinstance(settings, ServeSettings) else ""
    folder = UPath(given) if given else champion(settings).folder
    now = model_fingerprint(settings.model, settings.model_revision)
    if embedded["encoder"]["model"] != now:
        raise ModelError(
            f"the embeddings were made with other weights than {settings.model} has",
            str(file),
            "Run notebooks 03_embedding and 04_training again",
        )
    check_fits(folder, now)
    open_index(settings)
    return folder


def build_app(args: ServeSettings) -> serve.Application:
    """Build the application from settings alone; a Serve YAML names this function.

    Ray Serve runs it on the cluster, and takes `args` from the YAML.
    """
    return application(args, connect(args).plan, check_artefacts(args))
