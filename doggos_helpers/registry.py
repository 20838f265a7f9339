"""MLflow: one run a training, and the registry that knows the champion.

The driver asks the registry; workers and replicas read the champion's folder, which
lies on storage that every node sees.
"""

import contextlib
import logging
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from ray.train import UserCallback

from doggos_helpers.classifier import LABELS, WEIGHTS, describe
from doggos_helpers.config import CHAMPION, Settings
from doggos_helpers.errors import ModelError, StorageError

if TYPE_CHECKING:
    from mlflow import MlflowClient

ARTIFACT = "classifier"
CONNECT_S = 10
MISSING = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


def open_tracking(uri: str) -> "MlflowClient":
    """Return a client of an MLflow server or database; creates a SQLite file.

    Raises:
        StorageError: The server or database doesn't answer.
    """
    # It announces at INFO that it creates and migrates the tables.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        if uri.startswith("sqlite:///"):
            file = Path(uri.removeprefix("sqlite:///"))
            file.parent.mkdir(parents=True, exist_ok=True)
        elif server := urlsplit(uri).hostname:
            # MLflow would try for minutes, without a word, to reach a server.
            port = urlsplit(uri).port or (443 if uri.startswith("https") else 80)
            socket.create_connection((server, port), timeout=CONNECT_S).close()
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)
    except (MlflowException, OSError) as error:
        raise StorageError(
            f"MLflow can't be used ({str(error).splitlines()[0][:200]})",
            uri,
            "Check tracking_uri (DOGGOS_TRACKING_URI, MLFLOW_TRACKING_URI)",
        ) from error
    return client


@contextlib.contextmanager
def tracked_run(settings: Settings, name: str = "", **params: Any) -> Iterator[str]:
    """Open an MLflow run on the driver, give its id, and close it.

    It ends FINISHED, FAILED after an exception, KILLED after an interrupt. The
    experiment is one a data set and model pair and storage; its artifacts lie there.

    Args:
        settings: Which server, which experiment.
        name: Of the run; empty lets MLflow choose.
        **params: What to log about the training.
    """
    client = open_tracking(settings.tracking)
    experiment = f"{settings.registered_model} in {settings.storage_root}"
    found = client.get_experiment_by_name(experiment)
    artifacts = (settings.training_dir / "mlflow").as_uri()
    experiment_id = (
        found.experiment_id
        if found
        else client.create_experiment(experiment, artifact_location=artifacts)
    )
    run_id = client.create_run(experiment_id, run_name=name or None).info.run_id
    status = "FAILED"
    try:
        for key, value in params.items():
            client.log_param(run_id, key, value)
        yield run_id
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        client.set_terminated(run_id, status)


class EpochLogger(UserCallback):
    """Log the figures of each epoch to an MLflow run.

    Runs in Ray Train's controller, another process on the driver's node: it gets the
    address and the run's id, not an open connection.
    """

    def __init__(self, tracking: str, run_id: str) -> None:
        """Remember where to log."""
        self.tracking, self.run_id = tracking, run_id
        self.client: MlflowClient | None = None

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any
    ) -> None:
        """Log the numbers of rank 0, which are those of all workers together."""
        self.client = self.client or open_tracking(self.tracking)
        for key, value in metrics[0].items():
            if isinstance(value, int | float) and key != "epoch":
                step = metrics[0]["epoch"]
                self.client.log_metric(self.run_id, key, value, step=step)


@dataclass(frozen=True)
class Version:
    """A registered version of the classifier and its folder on shared storage."""

    version: int
    folder: Path
    champion: bool
    verdict: str = ""


def register(settings: Settings, run_id: str, folder: Path) -> Version:
    """Register a saved classifier, and make it champion unless it is worse.

    It is worse if the present champion has a lower validation loss on the same data
    and labels; figures of other data or labels don't compare, and the new one wins.

    Args:
        settings: Which registry, which model name.
        run_id: The MLflow run that made it, still open.
        folder: With the safetensors and JSON file of the classifier.
    """
    from mlflow.exceptions import MlflowException

    client = open_tracking(settings.tracking)
    for name in (WEIGHTS, LABELS):
        client.log_artifact(run_id, str(folder / name), ARTIFACT)
    new = describe(folder)
    client.log_metric(run_id, "best_val_loss", new["val_loss"], step=new["epoch"])
    with contextlib.suppress(MlflowException):  # it exists from the second time on
        client.create_registered_model(settings.registered_model)
    made = client.create_model_version(
        settings.registered_model,
        source=f"{client.get_run(run_id).info.artifact_uri}/{ARTIFACT}",
        run_id=run_id,
        tags={"val_loss": str(new["val_loss"]), "fingerprint": new["fingerprint"]},
    )
    verdict, wins = _compare(new, _champion(client, settings))
    if wins:
        promote(settings, int(made.version))
    return Version(int(made.version), _folder(made), wins, verdict)


def promote(settings: Settings, version: int) -> None:
    """Give a registered version the alias `champion`; the way back, too.

    Raises:
        ModelError: There is no such version.
    """
    from mlflow.exceptions import MlflowException

    client = open_tracking(settings.tracking)
    try:
        client.set_registered_model_alias(
            settings.registered_model, CHAMPION, str(version)
        )
    except MlflowException as error:
        known = [v.version for v in versions(settings)]
        raise ModelError(
            f"there is no version {version}",
            settings.registered_model,
            f"Choose one of {known}" if known else "Run notebook 04_training first",
        ) from error


def versions(settings: Settings) -> list[Version]:
    """List the registered versions, the newest first."""
    client = open_tracking(settings.tracking)
    current = _champion(client, settings)
    found = client.search_model_versions(f"name = '{settings.registered_model}'")
    number = current.version if current else None
    return sorted(
        (Version(int(v.version), _folder(v), int(v.version) == number) for v in found),
        key=lambda v: -v.version,
    )


def champion(settings: Settings) -> Version:
    """Return the champion of this data set and model pair. For the driver alone.

    Raises:
        StorageError: There is none yet, or its folder is gone.
    """
    found = _champion(open_tracking(settings.tracking), settings)
    if found and (found.folder / LABELS).is_file():
        return found
    where = str(found.folder) if found else f"{settings.registered_model}@{CHAMPION}"
    raise StorageError(
        "the champion's folder is gone" if found else "no champion is registered yet",
        where,
        "Run notebook 04_training or `python -m doggos_helpers.train` first",
    )


def champion_folder(settings: Settings) -> Path:
    """Return the folder of the champion, which workers and replicas can read.

    Raises:
        StorageError: There is none yet, or its folder is gone.
    """
    return champion(settings).folder


def _champion(client: "MlflowClient", settings: Settings) -> Version | None:
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_model_version_by_alias(settings.registered_model, CHAMPION)
    except MlflowException as error:
        if error.error_code in MISSING:
            return None
        raise
    return Version(int(found.version), _folder(found), champion=True)


def _folder(version: Any) -> Path:
    """Turn a version's source (file:///...) into a path."""
    return Path(unquote(urlsplit(version.source).path))


def _compare(new: dict[str, Any], current: Version | None) -> tuple[str, bool]:
    """Say whether a new classifier becomes champion, and why."""
    if current is None:
        return "the first champion", True
    name = f"version {current.version}"
    if not (current.folder / LABELS).is_file():
        return f"champion: the files of {name} are gone", True
    old = describe(current.folder)
    same = ("fingerprint", "encoder", "classes", "dimension")
    if any(old.get(key) != new.get(key) for key in same):
        return f"champion: {name} was trained on other data or labels", True
    losses = f"validation loss {new['val_loss']:.4f}, {name} has {old['val_loss']:.4f}"
    wins = new["val_loss"] <= old["val_loss"]
    return (f"champion: {losses}" if wins else f"not promoted: {losses}"), wins
