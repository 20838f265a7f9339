"""Where things are: what follows from the data set, model and storage of settings."""

import hashlib
import os
import re

from pydantic import Field
from pydantic_settings import BaseSettings
from upath import UPath

from doggos_helpers.environment import local_home
from doggos_helpers.stores import at

SAMPLE = "sample"


class Places(BaseSettings):
    """The part of the settings that says where everything is."""

    dataset: str = Field(SAMPLE, description="sample, a folder, or a URI (s3://...)")
    model: str = Field(SAMPLE, description="sample, a folder, or a hub id")
    model_revision: str = Field("", description="commit or tag of a hub model")
    storage: str = Field("", description="folder or URI, seen by all nodes")
    tracking_uri: str = Field("", description="MLflow server or database")

    @property
    def storage_root(self) -> UPath:
        """The absolute folder or bucket under which every artefact lies."""
        if self.storage:
            return at(self.storage)
        shared = UPath("/mnt/cluster_storage")  # Anyscale's documented mount
        if os.environ.get("ANYSCALE_CLUSTER_ID") and shared.is_dir():
            return shared / "doggos"
        return UPath(local_home() / "storage")

    @property
    def dataset_root(self) -> str:
        """The folder or URI of the images."""
        if self.dataset != SAMPLE:
            return self.dataset
        from doggos_sample import VERSION

        return str(self.storage_root / "datasets" / f"sample-{VERSION}")

    @property
    def pair(self) -> str:
        """A name for this data set and model together, safe in a path."""
        model = f"{self.model}@{self.model_revision}" if self.model_revision else ""
        return f"{_slug(self.dataset)}--{_slug(model or self.model)}"

    @property
    def artefacts(self) -> UPath:
        """The folder of this data set and model pair."""
        return self.storage_root / self.pair

    @property
    def embeddings_dir(self) -> UPath:
        """Where `embed` writes its table and run.json."""
        return self.artefacts / "embeddings"

    @property
    def training_dir(self) -> UPath:
        """Where `train` writes checkpoints, the champion and run.json."""
        return self.artefacts / "training"

    @property
    def evaluation_dir(self) -> UPath:
        """Where `evaluate` writes predictions.parquet, metrics.json and run.json."""
        return self.artefacts / "evaluation"

    @property
    def serving_dir(self) -> UPath:
        """Where `loadtest` writes its report and run.json."""
        return self.artefacts / "serving"

    @property
    def registered_model(self) -> str:
        """The classifier's name in the MLflow registry: one a pair."""
        return f"doggos--{self.pair}"

    @property
    def tracking(self) -> str:
        """The MLflow tracking URI; by default a database on this machine's disk."""
        default = f"sqlite:///{local_home() / 'mlflow.db'}"
        return self.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or default


def _slug(value: str) -> str:
    """Shorten a URI, folder or hub id to a readable, unique, path-safe name."""
    if value == SAMPLE:
        return SAMPLE
    name = re.sub(r"[^a-z0-9]+", "-", value.rstrip("/").split("/")[-1].lower())
    return f"{name.strip('-')[:40]}-{hashlib.sha256(value.encode()).hexdigest()[:8]}"
