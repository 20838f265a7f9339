"""What can go wrong for a user: what, where, the fix, and an exit code."""

import contextlib
import re
import sys
from collections.abc import Callable, Iterator


class DoggosError(Exception):
    """An error that a user can cause and mend.

    Args:
        what: What is wrong, a clause without a full stop.
        where: The file, setting or address concerned.
        fix: What to do about it, an imperative sentence without a full stop.
    """

    exit_code = 1

    def __init__(self, what: str, where: str = "", fix: str = "") -> None:
        """Keep the three parts, so that the error survives pickling."""
        what, where = without_secrets(what), without_secrets(where)
        super().__init__(what, where, fix)
        self.what, self.where, self.fix = what, where, fix

    def __str__(self) -> str:
        """Join the parts to one to three lines."""
        first = f"{self.what}: {self.where}" if self.where else self.what
        return f"{first}\n  Fix: {self.fix}." if self.fix else first

    def _render_traceback_(self) -> list[str]:
        """Show the message alone in IPython: the traceback is ours, not the user's."""
        return [f"{type(self).__name__}: {self}"]


class SettingsError(DoggosError):
    """A setting, option or parameter has a wrong name or value."""

    exit_code = 2


class DataError(DoggosError):
    """The data set can't be listed, read or used."""

    exit_code = 3


class ModelError(DoggosError):
    """The model can't be loaded or can't do what is asked of it."""

    exit_code = 4


class StorageError(DoggosError):
    """An artefact is missing, unreadable or can't be written."""

    exit_code = 5


class ClusterError(DoggosError):
    """The cluster can't be reached or can't hold what is asked of it."""

    exit_code = 6


class ServiceError(DoggosError):
    """A service can't be started or doesn't answer."""

    exit_code = 7


def without_secrets(text: str) -> str:
    """Return a text as it may be shown and recorded: URIs without ``key:secret@``."""
    return re.sub(r"://[^/@\s]*:[^/@\s]*@", "://", text)


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and all that it wraps, each once.

    Ray wraps what a worker raises (`RayTaskError.cause`), sometimes several times.
    """
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        current = queue.pop(0)
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        queue += [getattr(current, "cause", None), current.__cause__]
        queue.append(current.__context__)
        failures = getattr(current, "worker_failures", None)
        if isinstance(failures, dict):
            queue += list(failures.values())


def user_cause(error: BaseException) -> DoggosError | None:
    """Find the error of ours that a library wrapped, or None.

    What Ray raises for a worker's error is of both classes, Ray's and ours, with the
    worker's traceback as its text; ours alone is its `cause`.
    """
    ours = (e for e in causes(error) if isinstance(e, DoggosError))
    return next((e for e in ours if not hasattr(e, "cause")), None)


@contextlib.contextmanager
def unwrapped() -> Iterator[None]:
    """Let an error of ours that a worker raised arrive as itself.

    Ray wraps it into its own error, whose text is dozens of lines long.
    """
    try:
        yield
    except Exception as error:
        cause = user_cause(error)
        if cause is None or cause is error:
            raise
        raise cause from None


def run_command(main: Callable[[list[str]], int | None]) -> None:
    """Run a command's `main(arguments)`, and end the process with its exit code.

    A `DoggosError`, wrapped or not, becomes its message on standard error and its
    exit code; Ctrl-C becomes 130. `--debug` keeps the traceback.
    """
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    try:
        code = main([a for a in arguments if a != "--debug"]) or 0
    except KeyboardInterrupt:
        print("\nInterrupted. Run the same command to go on.", file=sys.stderr)
        code = 130
    except Exception as error:
        cause = user_cause(error)
        if debug or cause is None:
            raise
        print(f"error: {cause}", file=sys.stderr)
        code = cause.exit_code
    sys.exit(code)
