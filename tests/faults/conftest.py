"""One Ray for everything here that needs one."""

from collections.abc import Iterator, Mapping

import pytest

from tools.local_cluster import local_cluster


@pytest.fixture(scope="session")
def cluster_variables(tmp_path_factory) -> Iterator[Mapping[str, str]]:
    """The environment with which a command joins a Ray of one node."""
    with local_cluster(tmp_path_factory.mktemp("cluster"), workers=0) as cluster:
        yield cluster.environment
