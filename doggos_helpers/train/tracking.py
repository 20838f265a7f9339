"""MLflow: one run a training, opened and closed by the driver."""

import contextlib
import json
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray.train import UserCallback
from upath import UPath

from doggos_helpers.artefacts import read_json, write_json
from doggos_helpers.environment import environment
from doggos_helpers.errors import StorageError, causes
from doggos_helpers.lock import alone
from doggos_helpers.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient


UNFINISHED = "unfinished.json"
CONNECT_S = 10
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
    from mlflow import MlflowClient

    with explained(uri), environment(**IMPATIENT):
        if uri.startswith("sqlite:///"):
            _check_reads(Path(uri.removeprefix("sqlite:///")))
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)
    return client


def _check_reads(file: Path) -> None:
    """Raise sqlite3.Error unless the database, if there is one, can be read.

    MLflow would try a locked one fifteen times, for minutes.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.is_file():
        with contextlib.closing(sqlite3.connect(file, timeout=CONNECT_S)) as database:
            database.execute("select count(*) from sqlite_master")


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
    client, note = open_tracking(settings.tracking), settings.training_dir / UNFINISHED
    with alone(settings, "train"):
        with explained(settings.tracking):
            run_id = _unfinished(client, note, params)
        if not run_id:
            with explained(settings.tracking):
                experiment_id = _experiment(client, settings)
                run_id = client.create_run(experiment_id).info.run_id
                for key, value in params.items():
                    client.log_param(run_id, key, value)
            write_json(note, {"params": params, "run_id": run_id})
        try:
            yield run_id
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            if not interrupted:
                note.unlink(missing_ok=True)
            # Should that fail too, the first error is the one to tell.
            with contextlib.suppress(StorageError), explained(settings.tracking):
                client.set_terminated(run_id, "KILLED" if interrupted else "FAILED")
            raise
        note.unlink(missing_ok=True)
        with explained(settings.tracking):
            client.set_terminated(run_id, "FINISHED")


def _unfinished(client: "MlflowClient", note: UPath, params: dict[str, Any]) -> str:
    """Open the run again that was to do the same and didn't end; return its id."""
    from mlflow.exceptions import MlflowException

    if not note.is_file():
        return ""
    noted = read_json(note, "04_training")
    if noted["params"] != json.loads(json.dumps(params)):
        return ""
    with contextlib.suppress(MlflowException):  # somebody deleted it
        client.update_run(noted["run_id"], "RUNNING")
        print(f"Going on with the training {noted['run_id']}.", flush=True)
        return noted["run_id"]
    return ""


def _experiment(client: "MlflowClient", settings: Settings) -> str:
    """Return the experiment's id: one a data set and model pair and storage."""
    from mlflow.exceptions import MlflowException

    name = f"{settings.registered_model} in {settings.storage_root}"
    artifacts = (settings.training_dir / "mlflow").as_uri()
    # It exists from the second time on; of two at once, one makes it.
    with contextlib.suppress(MlflowException):
        client.create_experiment(name, artifact_location=artifacts)
    if found := client.get_experiment_by_name(name):
        return found.experiment_id
    return client.create_experiment(name, artifact_location=artifacts)


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
        with explained(self.tracking):
            for key, value in metrics[0].items():
                if isinstance(value, int | float) and key != "epoch":
                    step = metrics[0]["epoch"]
                    self.client.log_metric(self.run_id, key, value, step=step)
