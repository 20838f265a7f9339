"""MLflow: one run a training, opened and closed by the driver."""

import contextlib
import json
import logging
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray.train import UserCallback
from upath import UPath

from doggos_helpers.artefacts import alone, write_json
from doggos_helpers.environment import environment
from doggos_helpers.errors import StorageError, causes
from doggos_helpers.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient


UNFINISHED = "unfinished.json"
CONNECT_S = 10
SAMPLE_S = 5  # of CPU, memory, disk and network of the driver's node
# MLflow would try a server that doesn't answer for many minutes.
IMPATIENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": str(CONNECT_S),
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
}


def open_tracking(uri: str) -> "MlflowClient":
    """Return a client of an MLflow server or database; creates a SQLite file.

    A server or a locked database is given ten seconds.

    Raises:
        StorageError: The server or database doesn't answer, or is of another version.
    """
    # It logs the tables it makes, and a traceback of whatever it raises.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)
    from mlflow import MlflowClient

    with explained(uri), environment(**IMPATIENT):
        if uri.startswith("sqlite:///"):
            file = Path(uri.removeprefix("sqlite:///"))
            file.parent.mkdir(parents=True, exist_ok=True)
            if file.is_file():  # MLflow would try a locked one for minutes
                with contextlib.closing(sqlite3.connect(file, CONNECT_S)) as database:
                    database.execute("select count(*) from sqlite_master")
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)
    return client


@contextlib.contextmanager
def explained(uri: str) -> Iterator[None]:
    """Turn what MLflow and its database raise into a StorageError."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
        *_, first = causes(error)  # below what requests, urllib3 and MLflow say of it
        raise StorageError(
            f"MLflow can't be used ({str(first).splitlines()[0][:200]})",
            uri,
            "Check tracking_uri (DOGGOS_TRACKING_URI, MLFLOW_TRACKING_URI): what it"
            " names may be away, held by another program, or of another MLflow (run"
            f" `mlflow db upgrade {uri}`)",
        ) from error


@contextlib.contextmanager
def tracked_run(settings: Settings, **params: Any) -> Iterator[str]:
    """Open an MLflow run on the driver, give its id, and close it.

    It ends FINISHED, FAILED after an exception, KILLED after an interrupt. A run that
    was interrupted or whose driver was killed is opened again by the next one with the
    same parameters. Of two at a time, the second waits for the first.

    Args:
        settings: Which server, which experiment.
        **params: What to log about the training.

    Raises:
        StorageError: MLflow can't be used.
    """
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    client, note = open_tracking(settings.tracking), settings.training_dir / UNFINISHED
    with alone(settings, "train"):
        with explained(settings.tracking):
            run_id = _opened(client, settings, note, params)
        seen = SystemMetricsMonitor(
            run_id, SAMPLE_S, resume_logging=True, tracking_uri=settings.tracking
        )
        seen.start()
        ended = "FAILED"
        try:
            yield run_id
            ended = "FINISHED"
        except KeyboardInterrupt:
            ended = "KILLED"
            raise
        finally:
            seen.finish()
            if ended != "KILLED":
                note.unlink(missing_ok=True)
            # After an error it is that one that is to be told.
            hidden = () if ended == "FINISHED" else (StorageError,)
            with contextlib.suppress(*hidden), explained(settings.tracking):
                client.set_terminated(run_id, ended)


def experiment_name(settings: Settings) -> str:
    """Name the experiment: one a data set and model pair and storage."""
    return f"{settings.registered_model} in {settings.storage_root}"


def _opened(
    client: "MlflowClient", settings: Settings, note: UPath, params: dict[str, Any]
) -> str:
    """Open a run, or again the one that was to do the same and didn't end."""
    from mlflow.entities import Param
    from mlflow.exceptions import MlflowException
    from mlflow.utils.git_utils import get_git_commit

    told = {name: str(value) for name, value in params.items()}
    noted = json.loads(note.read_text()) if note.is_file() else {}
    if noted.get("params") == told:
        with contextlib.suppress(MlflowException):  # somebody deleted it
            client.update_run(noted["run_id"], "RUNNING")
            print(f"Going on with the training {noted['run_id']}.", flush=True)
            return noted["run_id"]
    name = experiment_name(settings)
    if found := client.get_experiment_by_name(name):
        experiment = found.experiment_id
    else:
        artifacts = (settings.training_dir / "mlflow").as_uri()
        experiment = client.create_experiment(name, artifact_location=artifacts)
    commit = get_git_commit(str(Path(__file__).parent)) or "unknown"
    tags = {"mlflow.source.git.commit": commit}
    run_id = client.create_run(experiment, tags=tags).info.run_id
    client.log_batch(run_id, params=[Param(*one) for one in told.items()])
    write_json(note, {"params": told, "run_id": run_id})
    return run_id


class EpochLogger(UserCallback):
    """Log the figures of each epoch to an MLflow run, while the training goes on.

    Runs in Ray Train's controller, another process on the driver's node. What a server
    that is away misses is logged at the end, see `log_epochs`.
    """

    def __init__(self, tracking: str, run_id: str) -> None:
        """Remember where to log; a connection could not travel."""
        self.tracking, self.run_id = tracking, run_id

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any
    ) -> None:
        """Log what rank 0 says, which is of all workers together."""
        with contextlib.suppress(StorageError), environment(**IMPATIENT):
            log_epochs(self.tracking, self.run_id, metrics[:1])


def log_epochs(uri: str, run_id: str, epochs: Iterable[dict[str, Any]]) -> None:
    """Log the figures of epochs: those that are there already change nothing.

    Raises:
        StorageError: MLflow can't be used.
    """
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    with explained(uri):
        client = MlflowClient(tracking_uri=uri)
        for metrics in epochs:
            step, at = metrics["epoch"], metrics["time_ms"]
            found = [
                Metric(f"{metrics['candidate']}/{name}", value, at, step)
                for name, value in metrics.items()
                if isinstance(value, float)
            ]
            client.log_batch(run_id, metrics=found)
