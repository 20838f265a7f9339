"""Links each term of the glossary to it, at its first use on a page."""

import re
from collections.abc import Iterable
from pathlib import Path

# What must stay as it is: code, links, roles, pictures, raw HTML, fences' first lines.
KEPT = re.compile(
    r"(?P<ticks>`+).+?(?<!`)(?P=ticks)(?!`)"
    r"|!?\[[^\]\n]*\](\([^)\n]*\)|\{[^}\n]*\})"
    r"|<[^>\n]+>|https?://\S+",
    re.DOTALL,
)
# Words that are terms only in company, or mostly mean something else.
WRITTEN = {
    "batch": r"batch(?:es)?(?= of )",
    "handle": r"\*handles?\*",
    "slice": r"\*slices?\*|slices",
    "operator": r"operators?",
    "storage": r"storage (?:folder|root)",
    "resource": r"\*resources\*|resources",
    "block": r"\*blocks\*|blocks",
    "top-k": r"top-k",
    "head": r"\*head\*|head node|the head\b",
    "rank": r"\*rank\*",
    "split": r"splits",
    "alias": r"alias",
    "cluster": r"\*cluster(?: of one node)?\*|\bcluster\b",
}


def read_terms(glossary: Path) -> list[str]:
    """Return the terms of the glossary, the longest first."""
    lines = glossary.read_text().partition("```{glossary}")[2].splitlines()
    terms = [line for line in lines if re.match(r"[A-Za-z]", line)]
    return sorted(terms, key=len, reverse=True)


class Linker:
    """Links terms in the Markdown of one page, part by part, each term once."""

    def __init__(self, terms: Iterable[str]) -> None:
        """Begin a page."""
        self.left = list(terms)

    def link(self, markdown: str) -> str:
        """Return a part of the page with the first use of each term as a link."""
        return "\n".join(map(self._block, _blocks(markdown)))

    def _block(self, block: str) -> str:
        if block.lstrip().startswith(("#", "```", ":::", "|--", "(")):
            return block
        for term in list(self.left):
            pattern = rf"(?<![\w-]){WRITTEN.get(term, re.escape(term) + 's?')}(?![\w-])"
            kept = [match.span() for match in KEPT.finditer(block)]
            for found in re.finditer(pattern, block):
                if any(start <= found.start() < end for start, end in kept):
                    continue
                self.left.remove(term)
                block = (
                    block[: found.start()]
                    + _role(found[0], term)
                    + block[found.end() :]
                )
                break
        return block


def _role(shown: str, term: str) -> str:
    star = "*" if shown.startswith("*") else ""
    return f"{star}{{term}}`{shown.strip('*')} <{term}>`{star}"


def _blocks(markdown: str) -> list[str]:
    """Split into lines, with each fence, and each grid of cards, whole."""
    blocks: list[str] = []
    fence = ""
    for line in markdown.split("\n"):
        mark = re.match(r"\s*(`{3,}|~{3,}|:{4,}(?=\{grid|$))", line)
        if fence:
            blocks[-1] += "\n" + line
            if mark and mark[1] == fence:
                fence = ""
            continue
        blocks.append(line)
        if mark:
            fence = mark[1]
    return blocks


def link_pages(source: Path) -> None:
    """Link the terms in all Markdown pages of the assembled source."""
    glossary = source / "reference" / "glossary.md"
    terms = read_terms(glossary)
    for page in sorted(source.rglob("*.md")):
        inside = page.relative_to(source).parts[0] in ("_generated",)
        if page != glossary and not inside and "api" not in page.parts:
            page.write_text(Linker(terms).link(page.read_text()))
