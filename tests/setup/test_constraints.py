"""constraints.txt: that it holds for every Python, and agrees with the requirements."""

from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PYTHONS = ("3.11.0", "3.12.0", "3.13.0")


def pins(file: Path) -> list[Requirement]:
    lines = [line.partition("#")[0].strip() for line in file.read_text().splitlines()]
    return [Requirement(line) for line in lines if line]


def allows(pin: Requirement, version: str) -> bool:
    """Whether a pin's own metadata allows a Python, as far as it is installed here."""
    try:
        about = metadata(pin.name)
    except PackageNotFoundError:
        return True
    described = pin.specifier.contains(about["Version"], prereleases=True)
    return not described or version in SpecifierSet(about.get("Requires-Python") or "")


@pytest.mark.parametrize("version", PYTHONS)
def test_each_pin_allows_the_lowest_of_each_python(version: str) -> None:
    here = {"python_version": version[:4], "python_full_version": version}
    due = [
        pin
        for pin in pins(ROOT / "constraints.txt")
        if not pin.marker or pin.marker.evaluate(here)
    ]
    names = [canonicalize_name(pin.name) for pin in due]
    assert len(names) > 200 and len(set(names)) == len(names)
    assert [str(pin) for pin in due if not allows(pin, version)] == []


def test_each_requirement_is_pinned_as_in_the_constraints() -> None:
    pinned = {
        canonicalize_name(p.name): p.specifier for p in pins(ROOT / "constraints.txt")
    }
    for file in sorted(ROOT.glob("requirements*.txt")):
        for line in pins(file):
            there = pinned.get(canonicalize_name(line.name))
            assert there == line.specifier, f"{file.name}: {line}; run make constraints"
