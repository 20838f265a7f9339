"""Runs last: nothing of all that ran before wrote into the user's own storage."""

from pathlib import Path


def test_the_users_storage_is_untouched(session_folder: Path) -> None:
    default = session_folder / "home" / ".doggos"  # where `local_home()` points
    assert [path.name for path in default.rglob("*")] == ["canary"]
