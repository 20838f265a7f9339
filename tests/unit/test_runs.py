"""Two runs of a stage at a time, into one storage."""

import threading
import time

import pytest

from doggos_helpers.artefacts import alone
from doggos_helpers.errors import StorageError
from doggos_helpers.settings import Settings

HELD_S = 0.5


def test_the_second_run_waits_for_the_first_and_says_so(tmp_path, capsys) -> None:
    settings = Settings(storage=str(tmp_path))
    holds = threading.Event()

    def first() -> None:
        with alone(settings, "embed"):
            holds.set()
            time.sleep(HELD_S)

    other = threading.Thread(target=first)
    other.start()
    assert holds.wait(10)
    hurried = settings.model_copy(update={"wait_for_cluster_s": 0})
    with (
        pytest.raises(StorageError, match="another embed is writing here"),
        alone(hurried, "embed"),
    ):
        pytest.fail("both at once")
    with alone(settings, "embed"):
        other.join(0.1)
        assert not other.is_alive()
    assert f"Waiting for another embed, which writes to {tmp_path}" in (
        capsys.readouterr().out
    )
