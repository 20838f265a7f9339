"""Provokes each case of the table, and checks what its command says and leaves."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.faults.case import Case, Outcome, Place
from tests.faults.commands import in_its_own, in_process
from tests.faults.page import PAGE, page
from tests.faults.table import CASES

NO_CLUSTER = "127.0.0.1:1"  # what should have been checked before would end here
LINES = 3


@pytest.fixture
def place(tmp_path: Path) -> Place:
    variables = {
        "DOGGOS_STORAGE": str(tmp_path / "storage"),
        "DOGGOS_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
    }
    (tmp_path / "here").mkdir()
    return Place(tmp_path / "here", variables)


def check(case: Case, outcome: Outcome, place: Place) -> None:
    said = outcome.out + outcome.err
    assert outcome.code == case.code, said
    assert case.message in said, said
    assert not case.printed_fix or case.fix in said, said
    assert "Traceback" not in said, said
    if case.code:
        error = outcome.err[outcome.err.index("error: ") :].strip()
        assert len(error.splitlines()) <= LINES, error
    if case.after:
        case.after(place, outcome)


def marked(cases: Sequence[Case]) -> list:
    marks = {True: [pytest.mark.long], False: []}
    return [
        pytest.param(c, id=f"{c.area}: {c.name}", marks=marks[c.long]) for c in cases
    ]


@pytest.mark.parametrize("case", marked([c for c in CASES if not c.cluster]))
def test_before_ray(case: Case, place: Place, monkeypatch, capfd) -> None:
    command = case.provoke(place)
    variables = {"DOGGOS_ADDRESS": NO_CLUSTER} | place.environment
    if case.own_process:
        outcome = in_its_own(command, variables)
    else:
        outcome = in_process(command, variables, monkeypatch, capfd)
    check(case, outcome, place)


@pytest.mark.parametrize("case", marked([c for c in CASES if c.cluster]))
def test_on_a_cluster(case: Case, place: Place, cluster_variables) -> None:
    command = case.provoke(place)
    variables = {**cluster_variables, **place.environment}
    check(case, in_its_own(command, variables), place)


def test_names_are_unique() -> None:
    names = [(case.area, case.name) for case in CASES]
    assert len(set(names)) == len(names)


def test_the_page_is_made_from_the_table() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(CASES), (
        "stale: run python -m tests.faults.page"
    )
