from types import SimpleNamespace

import pytest
from ray.exceptions import RayError

from doggos_helpers.cluster import alike
from doggos_helpers.cluster.plan import Node
from doggos_helpers.errors import ClusterError
from doggos_helpers.settings import Settings


def raw(name: str, alive: bool) -> dict:
    return {"NodeID": name * 56, "NodeManagerAddress": name, "Alive": alive}


def ray_of(second_lives: bool) -> SimpleNamespace:
    """Stand in for Ray: of two nodes the second gives no answer."""

    def get(answer: str, timeout: float) -> list[str]:
        if answer == "b" * 56:
            raise RayError("gone")
        return []

    class Task:
        def options(self, scheduling_strategy):
            node_id = scheduling_strategy.node_id
            return SimpleNamespace(remote=lambda *given: node_id)

    return SimpleNamespace(
        nodes=lambda: [raw("a", True), raw("b", second_lives)],
        remote=lambda **options: lambda function: Task(),
        wait=lambda answers, **options: (answers, []),
        get=get,
    )


@pytest.mark.parametrize("lives", [True, False])
def test_a_node_that_died_meanwhile_is_no_node_that_differs(
    lives, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(alike, "ray", ray_of(lives))
    nodes = [Node(f"{name}/{name * 6}", 2) for name in "ab"]
    settings = Settings(storage=str(tmp_path), dataset=str(tmp_path))
    if lives:
        with pytest.raises(ClusterError, match="b/bbbbbb: no answer: gone"):
            alike.check_alike(nodes, settings)
    else:
        alike.check_alike(nodes, settings)
    assert not list(tmp_path.iterdir())
