"""What can go wrong for a user: what, where, the fix, and an exit code."""

import contextlib
import os
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


def reason(error: BaseException) -> str:
    """Return what an error says, in a line: the system's words, or Amazon's."""
    if number := getattr(error, "errno", None):
        return os.strerror(number)
    return str(error).split("AWS Error ")[-1].partition("\n")[0][:200]


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and all that it wraps, in Ray's ways and Python's, each once."""
    found = [error]
    for one in found:
        yield one
        more = [getattr(one, "cause", None), one.__cause__, one.__context__]
        more += (getattr(one, "worker_failures", None) or {}).values()
        found += [e for e in more if isinstance(e, BaseException) and e not in found]


def user_cause(error: BaseException) -> DoggosError | None:
    """Find the error of ours that a library wrapped, or None.

    What Ray raises is of both classes, with the worker's traceback as its text; ours
    alone is its `cause`. A bucket that fails unexpectedly is an error of the storage.
    """
    for one in causes(error):
        if isinstance(one, DoggosError) and not hasattr(one, "cause"):
            return one
        if type(one).__module__.startswith("botocore."):
            fix = "Check your key and endpoint, and run the same command again"
            return StorageError(f"a bucket fails ({one})", fix=fix)
    return None


@contextlib.contextmanager
def unwrapped() -> Iterator[None]:
    """Let an error of ours that a worker raised arrive as itself, not in Ray's."""
    try:
        yield
    except Exception as error:
        cause = user_cause(error)
        if cause is None or cause is error:
            raise
        raise cause from None


def run_command(main: Callable[[list[str]], int | None]) -> None:
    """Run a command's `main(arguments)`, and end the process with its exit code.

    A `DoggosError` becomes its message and exit code, Ctrl-C 130, except with --debug.
    """
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    try:
        code = main(arguments) or 0
    except KeyboardInterrupt:
        print("\nInterrupted. Run the same command to go on.", file=sys.stderr)
        code = 130
    except Exception as error:
        cause = user_cause(error)
        if "--debug" in sys.argv or cause is None:
            raise
        print(f"error: {cause}", file=sys.stderr)
        code = cause.exit_code
    sys.exit(code)
