"""The application: what its replicas are given, and building it from settings."""

import dataclasses
from typing import Any

from ray import serve
from upath import UPath

from doggos_helpers.artefacts import write_json
from doggos_helpers.cluster.connect import Cluster, connect
from doggos_helpers.cluster.plan import fits
from doggos_helpers.embed.table import read_record
from doggos_helpers.errors import ModelError
from doggos_helpers.search.index import open_index
from doggos_helpers.serve.api import Api
from doggos_helpers.serve.guard import RETRY_AFTER_S
from doggos_helpers.serve.stages import Encoder, Served, ServeSettings

API_CPUS = 0.25  # of a replica that leaves the encoder to another one
ONGOING_REQUESTS = 64  # of a replica: most of them wait for somebody's web server
QUEUED_REQUESTS = 100  # more than that are answered 503 at once
HELP = 4  # another replica comes before a batch is full: at this part of one
# Ray Serve's default of 0.5 s leaves full replicas idle while requests are queued.
LOOK_AGAIN_S = 0.05
# A replica that is overloaded for 2 s gets help; it is let go after a quiet minute.
SCALING = {"upscale_delay_s": 2, "downscale_delay_s": 60, "metrics_interval_s": 1}


def application(served: Served, cluster: Cluster) -> serve.Application:
    """Bind the deployments to one application, sized by the plan.

    With GPUs the encoder is a deployment of its own, so that nothing else holds one;
    on CPUs it is a part of the API's replicas, and a request makes no hop.
    """
    plan, stage, settings = cluster.plan, cluster.plan.serve, served.settings
    model = {
        "num_cpus": stage.cpus,
        "num_gpus": stage.gpus,
        "memory": stage.memory,
        "accelerator_type": plan.accelerator_type or None,
    }
    one_more = dataclasses.replace(stage, per_node=stage.workers + 1)
    options: dict[str, Any] = {
        "num_replicas": stage.workers,
        "ray_actor_options": model,
        # Ray Serve's default of 5 would keep batches from filling.
        "max_ongoing_requests": max(ONGOING_REQUESTS, 2 * stage.batch_size),
        "max_queued_requests": QUEUED_REQUESTS,
        "backpressure_config": {"retry_after_s": RETRY_AFTER_S},
        "request_router_config": {"max_backoff_s": LOOK_AGAIN_S},
        "health_check_period_s": 2,  # when a replica looks for a new champion, too
        # An update starts a new replica before it ends an old one, where there is room.
        "max_surge_percent": int(fits(cluster.nodes, one_more) > stage.workers),
    }
    if settings.max_replicas:
        limits = {"min_replicas": stage.workers, "max_replicas": settings.max_replicas}
        target = {"target_ongoing_requests": stage.batch_size // HELP}
        options["autoscaling_config"] = limits | target | SCALING
        del options["num_replicas"]
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

    embedded = read_record(settings)
    chosen: dict[str, Any] = {"folder": settings.champion, "version": 0}
    if not settings.champion:
        registered = champion(settings)
        chosen = {"folder": str(registered.folder), "version": registered.version}
    now = model_fingerprint(settings.model, settings.model_revision)
    if embedded["encoder"]["model"] != now:
        what = f"the embeddings were made with other weights than {settings.model} has"
        fix = "Run notebooks 03_embedding and 04_training again"
        raise ModelError(what, str(settings.embeddings_dir), fix)
    dimension = open_index(settings).dimension
    check_fits(UPath(chosen["folder"]), now, dimension)
    preprocessing = load_preprocessing(settings.model, settings.model_revision)
    return Served(settings, chosen, dimension, preprocessing)


def roll_out(served: Served) -> None:
    """Tell the replicas which champion to serve: those to come, and those that run.

    They look every two seconds, and go on with the present one until they have loaded
    the new one; no request fails.
    """
    write_json(served.settings.champion_file, served.champion)


def build_app(args: ServeSettings) -> serve.Application:
    """Build the application from settings alone; a Serve YAML names this function.

    Ray Serve runs it on the cluster, and takes `args` from the YAML.
    """
    cluster, served = connect(args), check_artefacts(args)
    roll_out(served)
    return application(served, cluster)
