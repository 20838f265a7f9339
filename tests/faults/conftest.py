"""One Ray for the tests of this folder, and none in this process."""

from collections.abc import Iterator, Mapping

import pytest

from doggos_helpers.cluster.connect import disconnect
from tools.local_cluster import local_cluster


@pytest.fixture(scope="module", autouse=True)
def no_ray_in_this_process() -> None:
    """Leave the Ray of the tests before: a command would find it and go on."""
    disconnect()


@pytest.fixture(scope="package")
def cluster_variables(tmp_path_factory) -> Iterator[Mapping[str, str]]:
    """The environment with which a command or a kernel joins a Ray of one node."""
    with local_cluster(tmp_path_factory.mktemp("cluster"), workers=0) as cluster:
        yield cluster.environment
