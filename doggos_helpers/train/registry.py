"""MLflow's registry: the versions of a classifier, and which of them is champion.

The driver asks the registry; workers and replicas read the champion's folder, which
lies on storage that every node sees.
"""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from upath import UPath

from doggos_helpers.errors import ModelError, StorageError
from doggos_helpers.settings import Settings
from doggos_helpers.train.classifier import LABELS, describe
from doggos_helpers.train.tracking import explained, open_tracking

CHAMPION, PREVIOUS = "champion", "previous"  # aliases
TRAIN_FIRST = "Run notebook 04_training or `python -m doggos_helpers.train` first"


@dataclass(frozen=True)
class Version:
    """A registered version of the classifier and its folder on shared storage."""

    version: int
    folder: UPath
    run_id: str
    alias: str = ""
    verdict: str = ""

    @property
    def champion(self) -> bool:
        """Whether it is the one in use."""
        return self.alias == CHAMPION


def register(
    settings: Settings, run_id: str, folder: UPath, others: Iterable[UPath] = ()
) -> Version:
    """Register a saved classifier, and make it champion unless it is worse.

    It is worse if the present champion has a lower validation loss on the same data
    and labels; figures of other data or labels don't compare, and the new one wins.

    Args:
        settings: Which registry, which model name.
        run_id: The MLflow run that made it, still open.
        folder: With the safetensors and JSON file of the classifier.
        others: Folders of classifiers to keep beside it.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model, infer_signature

    client, about = open_tracking(settings.tracking), describe(folder)
    name, loss = settings.registered_model, about["val_loss"]
    verdict, wins = _compare(about, named(settings, CHAMPION))
    takes = np.zeros((1, about["dimension"]), np.float32)
    gives = np.zeros((1, len(about["classes"])), np.float32)
    Model(signature=infer_signature(takes, gives)).save(str(folder / "MLmodel"))
    with explained(settings.tracking):
        for one in (folder, *others):
            client.log_artifacts(run_id, str(one), one.name)
        client.log_metric(run_id, "best_val_loss", loss, step=about["epoch"])
        with contextlib.suppress(MlflowException):  # it exists from the second time on
            client.create_registered_model(name)
        source = f"{client.get_run(run_id).info.artifact_uri}/{folder.name}"
        tags = {"val_loss": str(loss), "fingerprint": about["fingerprint"]}
        made = client.create_model_version(name, source, run_id, tags=tags)
    version = int(made.version)
    if wins:
        promote(settings, version)
    alias = CHAMPION if wins else ""
    return Version(version, _folder(made), run_id, alias, verdict)


def promote(settings: Settings, version: int) -> None:
    """Give a registered version the alias `champion`, and the old one `previous`.

    Raises:
        ModelError: There is no such version.
    """
    name, known = settings.registered_model, versions(settings)
    if version not in (numbers := [v.version for v in known]):
        fix = f"Choose one of {numbers}" if numbers else TRAIN_FIRST
        raise ModelError(f"there is no version {version}", name, fix)
    with explained(settings.tracking):
        client = open_tracking(settings.tracking)
        for before in known:
            if before.champion and before.version != version:
                client.set_registered_model_alias(name, PREVIOUS, str(before.version))
        client.set_registered_model_alias(name, CHAMPION, str(version))


def rollback(settings: Settings) -> Version:
    """Make the champion before the present one champion again, and return it.

    Raises:
        ModelError: There is none.
    """
    if before := named(settings, PREVIOUS):
        promote(settings, before.version)
        return before
    what = "there was no champion before the present one"
    raise ModelError(what, settings.registered_model, "Promote a version by its number")


def versions(settings: Settings) -> list[Version]:
    """List the registered versions, the newest first."""
    client = open_tracking(settings.tracking)
    only = f"name = '{settings.registered_model}'"
    with explained(settings.tracking):
        found = client.search_model_versions(only)
        models = client.search_registered_models(only)
    aliases = {int(v): name for one in models for name, v in one.aliases.items()}
    numbered = sorted(((int(v.version), v) for v in found), key=lambda v: -v[0])
    return [
        Version(number, _folder(v), v.run_id or "", aliases.get(number, ""))
        for number, v in numbered
    ]


def named(settings: Settings, alias: str) -> Version | None:
    """Return the version of an alias, or None."""
    return next((v for v in versions(settings) if v.alias == alias), None)


def champion(settings: Settings) -> Version:
    """Return the champion of this data set and model pair. For the driver alone.

    Raises:
        StorageError: There is none yet, or its folder is gone.
    """
    found = named(settings, CHAMPION)
    if found and (found.folder / LABELS).is_file():
        return found
    raise StorageError(
        "the champion's folder is gone" if found else "no champion is registered yet",
        str(found.folder) if found else f"{settings.registered_model}@{CHAMPION}",
        TRAIN_FIRST,
    )


def record(settings: Settings, version: Version, metrics: dict[str, Any]) -> None:
    """Log the metrics of an evaluation to the MLflow run of a version."""
    client = open_tracking(settings.tracking)
    with explained(settings.tracking):
        client.log_dict(version.run_id, metrics, "evaluation/metrics.json")
        client.set_tag(version.run_id, "predictions", str(settings.evaluation_dir))
        for name, value in metrics.items():
            if isinstance(value, float):
                client.log_metric(version.run_id, f"test/{name}", value)


def _folder(version: Any) -> UPath:
    """Turn a version's source (file:///..., s3://...) into a path."""
    source = urlsplit(version.source)
    return UPath(unquote(source.path) if source.scheme == "file" else version.source)


def _compare(new: dict[str, Any], current: Version | None) -> tuple[str, bool]:
    """Say whether a new classifier becomes champion, and why."""
    if current is None:
        return "the first champion", True
    name, old = f"version {current.version}", {}
    with contextlib.suppress(ModelError):  # a training must not be lost to an old one
        old = describe(current.folder)
    same = ("fingerprint", "encoder", "classes", "dimension")
    if "val_loss" not in old or any(old.get(key) != new.get(key) for key in same):
        return f"champion: {name} can't be read, or is of other data or labels", True
    losses = f"validation loss {new['val_loss']:.4f}, {name} has {old['val_loss']:.4f}"
    wins = new["val_loss"] <= old["val_loss"]
    return (f"champion: {losses}" if wins else f"not promoted: {losses}"), wins
