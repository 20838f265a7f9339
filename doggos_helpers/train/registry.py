"""MLflow's registry: the versions of a classifier, and which of them is champion.

The driver asks the registry; workers and replicas read the champion's folder, which
lies on storage that every node sees.
"""

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from upath import UPath

from doggos_helpers.errors import ModelError, StorageError
from doggos_helpers.settings import Settings
from doggos_helpers.train.classifier import LABELS, WEIGHTS, describe
from doggos_helpers.train.tracking import explained, open_tracking

if TYPE_CHECKING:
    from mlflow import MlflowClient


CHAMPION = "champion"
ARTIFACT = "classifier"


@dataclass(frozen=True)
class Version:
    """A registered version of the classifier and its folder on shared storage."""

    version: int
    folder: UPath
    champion: bool
    verdict: str = ""


def register(settings: Settings, run_id: str, folder: UPath) -> Version:
    """Register a saved classifier, and make it champion unless it is worse.

    It is worse if the present champion has a lower validation loss on the same data
    and labels; figures of other data or labels don't compare, and the new one wins.

    Args:
        settings: Which registry, which model name.
        run_id: The MLflow run that made it, still open.
        folder: With the safetensors and JSON file of the classifier.
    """
    from mlflow.exceptions import MlflowException

    client, about = open_tracking(settings.tracking), describe(folder)
    name, loss = settings.registered_model, about["val_loss"]
    with explained(settings.tracking):
        for file in (WEIGHTS, LABELS):
            client.log_artifact(run_id, str(folder / file), ARTIFACT)
        client.log_metric(run_id, "best_val_loss", loss, step=about["epoch"])
        with contextlib.suppress(MlflowException):  # it exists from the second time on
            client.create_registered_model(name)
        made = client.create_model_version(
            name,
            source=f"{client.get_run(run_id).info.artifact_uri}/{ARTIFACT}",
            run_id=run_id,
            tags={"val_loss": str(loss), "fingerprint": about["fingerprint"]},
        )
    verdict, wins = _compare(about, _champion(client, settings))
    if wins:
        promote(settings, int(made.version))
    return Version(int(made.version), _folder(made), wins, verdict)


def promote(settings: Settings, version: int) -> None:
    """Give a registered version the alias `champion`; the way back, too.

    Raises:
        ModelError: There is no such version.
    """
    name, known = settings.registered_model, [v.version for v in versions(settings)]
    if version not in known:
        fix = f"Choose one of {known}" if known else "Run notebook 04_training first"
        raise ModelError(f"there is no version {version}", name, fix)
    with explained(settings.tracking):
        client = open_tracking(settings.tracking)
        client.set_registered_model_alias(name, CHAMPION, str(version))


def versions(settings: Settings) -> list[Version]:
    """List the registered versions, the newest first."""
    client = open_tracking(settings.tracking)
    current = _champion(client, settings)
    with explained(settings.tracking):
        found = client.search_model_versions(f"name = '{settings.registered_model}'")
    number = current.version if current else None
    made = [
        Version(int(v.version), _folder(v), int(v.version) == number) for v in found
    ]
    return sorted(made, key=lambda v: -v.version)


def champion(settings: Settings) -> Version:
    """Return the champion of this data set and model pair. For the driver alone.

    Raises:
        StorageError: There is none yet, or its folder is gone.
    """
    found = _champion(open_tracking(settings.tracking), settings)
    if found and (found.folder / LABELS).is_file():
        return found
    raise StorageError(
        "the champion's folder is gone" if found else "no champion is registered yet",
        str(found.folder) if found else f"{settings.registered_model}@{CHAMPION}",
        "Run notebook 04_training or `python -m doggos_helpers.train` first",
    )


def _champion(client: "MlflowClient", settings: Settings) -> Version | None:
    name = settings.registered_model
    with explained(settings.tracking):
        registered = client.search_registered_models(f"name = '{name}'")
        if not any(CHAMPION in model.aliases for model in registered):
            return None
        found = client.get_model_version_by_alias(name, CHAMPION)
    return Version(int(found.version), _folder(found), champion=True)


def _folder(version: Any) -> UPath:
    """Turn a version's source (file:///..., s3://...) into a path."""
    source = urlsplit(version.source)
    return UPath(unquote(source.path) if source.scheme == "file" else version.source)


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
