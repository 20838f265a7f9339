"""One local Ray for all tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from doggos_helpers.cluster.connect import Cluster, connect, disconnect
from doggos_helpers.serve.stages import ServeSettings
from doggos_helpers.settings import Settings
from tests.ray import serving


@pytest.fixture(scope="session")
def cluster(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Settings, Cluster]]:
    """Settings with a storage of their own, and a Ray started for them."""
    folder: Path = tmp_path_factory.mktemp("ray")
    settings = Settings(
        address="local",
        storage=str(folder / "storage"),
        tracking_uri=f"sqlite:///{folder}/mlflow.db",
    )
    yield settings, connect(settings)
    disconnect()


@pytest.fixture(scope="session")
def prepared(cluster, tmp_path_factory: pytest.TempPathFactory) -> ServeSettings:
    """What an app needs: images, their embeddings and a classifier."""
    return serving.prepare(tmp_path_factory.mktemp("serving"), cluster[1])
