"""What can go wrong: one case a cause, provoked for real by the command that meets it.

The cases are the rows of `docs/troubleshooting.md` as well: see `page.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

AREAS = ("Data sets", "Files", "Models", "Storage", "Settings", "Cluster", "Services")


@dataclass
class Place:
    """Where a case happens: an empty folder, and the environment of its command."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def storage(self) -> Path:
        """The storage root of the command."""
        return Path(self.environment["DOGGOS_STORAGE"])


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit code, what it printed, and how long it took."""

    code: int
    out: str
    err: str
    seconds: float


@dataclass(frozen=True)
class Case:
    """One thing that can go wrong.

    Args:
        area: One of `AREAS`.
        name: What is the matter, for the page and the test's name.
        provoke: Makes the cause real in a `Place`, and returns the command: the
            stage ("embed") and its options.
        code: The exit code; 0 where it is only warned of.
        message: A part of what is printed, as a reader would search for it.
        cause: A sentence for the page.
        fix: What to do; a part of what is printed where the command names the fix.
        printed_fix: Whether it does.
        cluster: Whether the command gets as far as a Ray cluster.
        own_process: Whether the command needs a process of its own though it doesn't,
            as where a library reads the environment when it is imported.
        after: Asserts what must hold afterwards, such as counts that reconcile.
        long: Whether it is left to `make test-long`.
    """

    area: str
    name: str
    provoke: Callable[[Place], Sequence[str]]
    code: int
    message: str
    cause: str
    fix: str
    printed_fix: bool = True
    cluster: bool = False
    own_process: bool = False
    after: Callable[[Place, Outcome], None] | None = None
    long: bool = False

    def __post_init__(self) -> None:
        """Refuse an area that the page doesn't have."""
        assert self.area in AREAS, self.area
