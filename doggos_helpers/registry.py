"""MLflow: one run a training, and the registry that knows the champion.

The driver asks the registry; workers and replicas read the champion's folder, which
lies on storage that every node sees.
"""

import contextlib
import logging
import sqlite3
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
VARIABLE = "DOGGOS_TRACKING_URI"
OTHER_VERSION = ("out-of-date database schema", "Can't locate revision")
MISSING = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


def open_tracking(uri: str) -> "MlflowClient":
    """Return a client of an MLflow server or database; creates a SQLite file.

    A server or a locked database is given ten seconds.

    Raises:
        StorageError: The server or database doesn't answer, or is of another version.
    """
    # It logs the tables it makes, and a traceback of whatever it raises.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    from mlflow import MlflowClient

    with _explained(uri):
        if uri.startswith("sqlite:///"):
            file = Path(uri.removeprefix("sqlite:///"))
            file.parent.mkdir(parents=True, exist_ok=True)
            _check_reads(file)
        elif urlsplit(uri).scheme in ("http", "https"):
            _check_answers(uri)
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)
    return client


def _check_reads(file: Path) -> None:
    """Raise sqlite3.Error unless the database, if there is one, can be read."""
    if file.is_file():
        with contextlib.closing(sqlite3.connect(file, timeout=CONNECT_S)) as database:
            database.execute("select count(*) from sqlite_master")


def _check_answers(uri: str) -> None:
    """Raise OSError unless a server answers; MLflow would try for many minutes."""
    import httpx

    try:
        # Whether its certificate is good is for MLflow's own settings to say.
        reply = httpx.get(f"{uri.rstrip('/')}/health", timeout=CONNECT_S, verify=False)
    except httpx.TimeoutException:
        raise OSError(f"no answer within {CONNECT_S} s") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise OSError(str(error) or type(error).__name__) from None
    if reply.status_code >= 500:
        raise OSError(f"the server answered {reply.status_code}")


@contextlib.contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Turn what MLflow and its database raise into a StorageError."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
        text = str(error).splitlines()[0][:200]
        what = f"MLflow can't be used ({text})"
        fix = "Check tracking_uri (DOGGOS_TRACKING_URI, MLFLOW_TRACKING_URI)"
        if "database is locked" in str(error):
            what = "another program holds the MLflow database locked"
            fix = f"End that program, or set another database ({VARIABLE})"
        elif any(words in str(error) for words in OTHER_VERSION):
            what = "the MLflow database is of another version of MLflow"
            fix = f"Run `mlflow db upgrade {uri}`, or set another database ({VARIABLE})"
        raise StorageError(what, uri, fix) from error


@contextlib.contextmanager
def tracked_run(settings: Settings, name: str = "", **params: Any) -> Iterator[str]:
    """Open an MLflow run on the driver, give its id, and close it.

    It ends FINISHED, FAILED after an exception, KILLED after an interrupt.

    Args:
        settings: Which server, which experiment.
        name: Of the run; empty lets MLflow choose.
        **params: What to log about the training.

    Raises:
        StorageError: MLflow can't be used.
    """
    client = open_tracking(settings.tracking)
    with _explained(settings.tracking):
        experiment_id = _experiment(client, settings)
        run_id = client.create_run(experiment_id, run_name=name or None).info.run_id
    try:
        with _explained(settings.tracking):
            for key, value in params.items():
                client.log_param(run_id, key, value)
        yield run_id
    except BaseException as error:
        status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        # Should that fail too, the first error is the one to tell.
        with contextlib.suppress(StorageError), _explained(settings.tracking):
            client.set_terminated(run_id, status)
        raise
    with _explained(settings.tracking):
        client.set_terminated(run_id, "FINISHED")


def _experiment(client: "MlflowClient", settings: Settings) -> str:
    """Return the experiment's id: one a data set and model pair and storage."""
    from mlflow.exceptions import MlflowException

    name = f"{settings.registered_model} in {settings.storage_root}"
    artifacts = (settings.training_dir / "mlflow").as_uri()
    if not (found := client.get_experiment_by_name(name)):
        try:
            return client.create_experiment(name, artifact_location=artifacts)
        except MlflowException:
            # Another training, started at the same time, was a moment faster.
            if not (found := client.get_experiment_by_name(name)):
                raise
    return found.experiment_id


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
        with _explained(self.tracking):
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
    client = open_tracking(settings.tracking)
    new = describe(folder)
    with _explained(settings.tracking):
        made = _make_version(client, settings, run_id, folder, new)
    verdict, wins = _compare(new, _champion(client, settings))
    if wins:
        promote(settings, int(made.version))
    return Version(int(made.version), _folder(made), wins, verdict)


def _make_version(
    client: "MlflowClient",
    settings: Settings,
    run_id: str,
    folder: Path,
    about: dict[str, Any],
) -> Any:
    """Copy the files to the run, and register them once all are there."""
    from mlflow.exceptions import MlflowException

    for name in (WEIGHTS, LABELS):
        client.log_artifact(run_id, str(folder / name), ARTIFACT)
    client.log_metric(run_id, "best_val_loss", about["val_loss"], step=about["epoch"])
    with contextlib.suppress(MlflowException):  # it exists from the second time on
        client.create_registered_model(settings.registered_model)
    return client.create_model_version(
        settings.registered_model,
        source=f"{client.get_run(run_id).info.artifact_uri}/{ARTIFACT}",
        run_id=run_id,
        tags={"val_loss": str(about["val_loss"]), "fingerprint": about["fingerprint"]},
    )


def promote(settings: Settings, version: int) -> None:
    """Give a registered version the alias `champion`; the way back, too.

    Raises:
        ModelError: There is no such version.
    """
    client, name = open_tracking(settings.tracking), settings.registered_model
    try:
        with _explained(settings.tracking):
            client.set_registered_model_alias(name, CHAMPION, str(version))
    except StorageError as error:
        if getattr(error.__cause__, "error_code", "") not in MISSING:
            raise
        known = [v.version for v in versions(settings)]
        raise ModelError(
            f"there is no version {version}",
            name,
            f"Choose one of {known}" if known else "Run notebook 04_training first",
        ) from error


def versions(settings: Settings) -> list[Version]:
    """List the registered versions, the newest first."""
    client = open_tracking(settings.tracking)
    current = _champion(client, settings)
    wanted = f"name = '{settings.registered_model}'"
    with _explained(settings.tracking):
        found = client.search_model_versions(wanted)
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

    name = settings.registered_model
    with _explained(settings.tracking):
        try:
            found = client.get_model_version_by_alias(name, CHAMPION)
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
    try:
        old = describe(current.folder)
    except ModelError:  # a training must not be lost because an old one was
        return f"champion: {name} can't be read", True
    same = ("fingerprint", "encoder", "classes", "dimension")
    if "val_loss" not in old or any(old.get(key) != new.get(key) for key in same):
        return f"champion: {name} was trained on other data or labels", True
    losses = f"validation loss {new['val_loss']:.4f}, {name} has {old['val_loss']:.4f}"
    wins = new["val_loss"] <= old["val_loss"]
    return (f"champion: {losses}" if wins else f"not promoted: {losses}"), wins
