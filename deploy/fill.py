"""Fills in what is yours in a file of this folder, and prints the result.

    HEAD_IP=10.0.0.1 ... python deploy/fill.py deploy/launcher/onprem.yaml > my.yaml

The top of each file says what it asks for, one variable a line: `# NAME: what it is`,
or `# NAME=default: what it is`. They are read from the environment.
"""

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VARIABLE = re.compile(r"^# ([A-Z_]+)(?:=(.*?))?: (.+)$", re.MULTILINE)
PLACE = re.compile(r"\{\{([A-Z_]+)\}\}")


class Unset(Exception):
    """A variable without a default isn't set; the message names all of them."""


def pinned(name: str) -> str:
    """Return the version of a package in requirements.txt."""
    line = rf"^{name}(?:\[.*\])?==(.+)$"
    [version] = re.findall(line, (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    return version


def fill(file: Path, given: Mapping[str, str]) -> str:
    """Return the text of a file with its variables filled in.

    `RAY_VERSION` and `ROOT` need not be given: they follow from this repository.

    Raises:
        Unset: Variables are not set.
        KeyError: The file uses one that its top doesn't name.
    """
    text = file.read_text()
    values = {"RAY_VERSION": pinned("ray"), "ROOT": str(ROOT)}
    unset = []
    for name, default, meaning in VARIABLE.findall(text):
        values[name] = given.get(name) or PLACE.sub(lambda m: values[m[1]], default)
        if not values[name] and f"# {name}=" not in text:
            unset.append(f"  {name}: {meaning}")
    if unset:
        raise Unset(
            "\n".join([f"{file} needs these variables, and they are not set:", *unset])
        )
    return PLACE.sub(lambda match: values[match[1]], text)


def main(arguments: list[str]) -> int:
    """Print the file that is named; return 1 where something isn't set."""
    if len(arguments) != 1 or not Path(arguments[0]).is_file():
        print(__doc__, file=sys.stderr)
        return 2
    try:
        print(fill(Path(arguments[0]), os.environ), end="")
    except Unset as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
