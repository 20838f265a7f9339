"""The application: what its replicas are given, and building it from settings."""

from typing import Any

from ray import serve
from upath import UPath

from doggos_helpers.cluster.connect import connect
from doggos_helpers.cluster.plan import WorkerPlan
from doggos_helpers.embed.table import read_record
from doggos_helpers.errors import ModelError
from doggos_helpers.search.index import open_index
from doggos_helpers.serve.api import Api
from doggos_helpers.serve.stages import Encoder, Served, ServeSettings

API_CPUS = 0.25  # of a replica that leaves the encoder to another one
ONGOING_REQUESTS = 64  # of a replica: most of them wait for somebody's web server
QUEUED_REQUESTS = 256  # more than that are answered 503 at once


def application(served: Served, plan: WorkerPlan) -> serve.Application:
    """Bind the deployments to one application, sized by the plan.

    With GPUs the encoder is a deployment of its own, so that nothing else holds one;
    on CPUs it is a part of the API's replicas, and a request makes no hop.
    """
    stage, settings = plan.serve, served.settings
    model = {
        "num_cpus": stage.cpus,
        "num_gpus": stage.gpus,
        "memory": stage.memory,
        "accelerator_type": plan.accelerator_type or None,
    }
    options: dict[str, Any] = {
        "num_replicas": stage.workers,
        "max_replicas_per_node": stage.per_node,
        "ray_actor_options": model,
        # Ray Serve's default of 5 would keep batches from filling.
        "max_ongoing_requests": max(ONGOING_REQUESTS, 2 * stage.batch_size),
        "max_queued_requests": QUEUED_REQUESTS,
    }
    if (settings.encoder_apart or ("yes" if stage.gpus else "no")) == "no":
        return serve.deployment(**options)(Api).bind(served, plan)
    encoder = serve.deployment(**options)(Encoder).bind(served, plan)
    options["ray_actor_options"] = {"num_cpus": API_CPUS}
    return serve.deployment(**options)(Api).bind(served, plan, encoder)


def check_artefacts(settings: ServeSettings) -> Served:
    """Find out on the driver what would keep the replicas from starting.

    Embeddings or a champion of other CLIP weights are refused, too: the answers would
    be noise.

    Raises:
        StorageError: There are no embeddings, or no champion.
        ModelError: The model or the champion can't be loaded, or the weights differ.
    """
    from doggos_helpers.clip.encoder import load_preprocessing
    from doggos_helpers.clip.files import model_fingerprint
    from doggos_helpers.train.classifier import check_fits
    from doggos_helpers.train.registry import champion

    given, embedded = settings.champion, read_record(settings)
    folder = UPath(given) if given else champion(settings).folder
    now = model_fingerprint(settings.model, settings.model_revision)
    if embedded["encoder"]["model"] != now:
        what = f"the embeddings were made with other weights than {settings.model} has"
        fix = "Run notebooks 03_embedding and 04_training again"
        raise ModelError(what, str(settings.embeddings_dir), fix)
    dimension = open_index(settings).dimension
    check_fits(folder, now, dimension)
    preprocessing = load_preprocessing(settings.model, settings.model_revision)
    return Served(settings, str(folder), dimension, preprocessing)


def build_app(args: ServeSettings) -> serve.Application:
    """Build the application from settings alone; a Serve YAML names this function.

    Ray Serve runs it on the cluster, and takes `args` from the YAML.
    """
    return application(check_artefacts(args), connect(args).plan)
