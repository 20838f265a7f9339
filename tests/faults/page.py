"""The page `docs/troubleshooting.md`, made from the cases.

python -m tests.faults.page writes it.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from tests.faults.case import AREAS, Case
from tests.faults.files import FILES
from tests.faults.table import CASES
from tests.hosts.wrong import WRONG

PAGE = Path(__file__).resolve().parents[2] / "docs" / "troubleshooting.md"
OPENING = """# Troubleshooting

Look for a part of the message that you see.
Each row is a test: the cause is provoked, and message and exit code checked.
Exit codes: 2 a setting, 3 the data set, 4 the model, 5 storage, 6 the cluster,
7 a service, 130 interrupted.
`--debug` after a command keeps the traceback.
"""


HEAD = "| What you see | Cause | Fix | Exit |\n|---|---|---|---|"
BAD_IMAGES = """## Bad images

A bad image is a row of the table of embeddings with its reason; the command goes on,
and its last lines count the reasons.

| Reason | Cause |
|---|---|"""
FINE = "Nothing to do"  # the fix of a case that shows that something works


def page(cases: Sequence[Case]) -> str:
    """Write the page: one table an area, in the order of the cases."""
    parts = [OPENING]
    for area in AREAS:
        rows = [case for case in cases if case.area == area and case.fix != FINE]
        if rows:
            lines = [_row(f"`{c.message}`", c.cause, f"{c.fix}.", c.code) for c in rows]
            parts.append("\n".join([f"## {area}\n\n{HEAD}", *lines, ""]))
    several = [_row(f"`{w.message}`", w.cause, f"{w.fix}.", 6) for w in WRONG]
    parts.append("\n".join([f"## Several nodes\n\n{HEAD}", *several, ""]))
    bad = [_row(f"`{file.reason}`", file.why) for file in FILES if file.reason]
    return "\n".join([*parts, BAD_IMAGES, *bad, ""])


def _row(*cells: object) -> str:
    return f"| {' | '.join(_escaped(str(cell)) for cell in cells)} |"


def _escaped(cell: str) -> str:
    """Escape what would end a cell or be HTML, the latter outside of code."""
    parts = re.split("(`[^`]*`)", cell.replace("|", r"\|"))
    return "".join(p if p.startswith("`") else p.replace("<", r"\<") for p in parts)


if __name__ == "__main__":
    PAGE.write_text(page(CASES), encoding="utf-8")
    print(f"{PAGE}: {len(CASES)} cases")
