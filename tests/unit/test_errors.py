"""Errors: their text, their exit codes, and their way out of Ray's wrapping."""

import pickle
import subprocess
import sys

import pytest

from doggos_helpers.errors import DataError, DoggosError, unwrapped, user_cause

PROGRAM = """
from doggos_helpers.errors import *
def main(arguments):
    {body}
run_command(main)
"""


def run(body: str, *arguments: str) -> subprocess.CompletedProcess:
    code = PROGRAM.format(body=body)
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_it_says_what_where_and_the_fix_and_survives_pickling():
    error = DataError("no images", "/data", "Put some there")
    assert str(error) == "no images: /data\n  Fix: Put some there."
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (DataError, str(error))


def test_credentials_are_not_shown():
    error = DataError("can't open s3://key:secret@dogs", "s3://key:secret@dogs/v1")
    assert str(error) == "can't open s3://dogs: s3://dogs/v1"
    assert "secret" not in repr(error)
    public = "s3://anonymous@dogs/v1?endpoint_override=host:9000"
    assert DataError("no images", public).where == public


def test_the_cause_is_found_inside_what_a_library_wraps():
    inner = DataError("no images", "/data")
    outer = RuntimeError("wrapped")
    outer.cause = inner
    again = ValueError("twice")
    again.__cause__ = outer
    assert user_cause(again) is inner
    assert user_cause(ValueError("a bug")) is None


def test_what_a_worker_raised_arrives_as_itself():
    from ray.exceptions import RayTaskError

    inner = DataError("no images", "/data", "Put some there")
    both = RayTaskError("decode", "a worker's traceback", inner).as_instanceof_cause()
    assert isinstance(both, DataError) and "traceback" in str(both)
    with pytest.raises(DataError) as caught, unwrapped():
        raise both
    assert caught.value is inner
    with pytest.raises(ValueError, match="a bug"), unwrapped():
        raise ValueError("a bug")


@pytest.mark.parametrize(
    ("body", "arguments", "code", "text"),
    [
        (
            "raise DataError('no images', '/data', 'Add some')",
            [],
            3,
            "error: no images",
        ),
        ("raise DataError('x')", ["--debug"], 1, "Traceback"),
        ("raise KeyboardInterrupt", [], 130, "Interrupted"),
        ("raise ValueError('a bug')", [], 1, "Traceback"),
        ("assert arguments == ['--k', '1']", ["--k", "1"], 0, ""),
    ],
)
def test_a_command_ends_with_the_exit_code(body, arguments, code, text):
    done = run(body, *arguments)
    assert done.returncode == code
    assert text in done.stderr
    assert ("Traceback" in done.stderr) == (text == "Traceback")


def test_exit_codes_differ():
    kinds = DoggosError.__subclasses__()
    ours = [k for k in kinds if k.__module__ == "doggos_helpers.errors"]
    assert len({k.exit_code for k in ours}) == len(ours) >= 6
