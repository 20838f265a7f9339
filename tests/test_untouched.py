"""Runs last: nothing of all that ran before wrote into the user's own storage."""

from pathlib import Path


def test_the_users_storage_is_untouched() -> None:
    default = Path.home() / ".doggos"  # where `local_home()` points
    assert [path.name for path in default.rglob("*")] == ["canary"]
