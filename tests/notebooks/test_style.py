"""The rules for notebooks (design, section 4) that a program can check."""

import ast
import json
import re
from pathlib import Path

import pytest
from copies import NOTEBOOKS, exercises, read, tags
from nbformat import NotebookNode

from doggos_helpers.settings import Settings

NAMES = ("local_run", "cluster_connection", "embedding")
NAMES += ("training", "evaluation", "serving")
MAX_CODE_CELLS, MAX_LINES, P90_LINES, MEDIAN_LINES = 25, 30, 15, 5
MARKDOWN_PER_CODE_LINE = 0.8
MAX_FUNCTIONS, MAX_EXERCISES, MAX_NOTES = 2, 3, 2
METADATA = {"tags", "wrong_answer"}
TAGS = {"parameters", "check", "exercise"}
# Regular expression and reason; searched in code cells but the parameters.
FORBIDDEN = [
    (r"^\s*[!%]", "a shell command or magic: give commands in a Markdown fence"),
    (r"\bsubprocess\b|os\.system", "a shell command"),
    (r"\bpip3? install", "pip"),
    (r"sys\.path", "sys.path"),
    (r"autoreload", "autoreload"),
    (r"[\"'](/mnt|/home|/tmp|~/)", "a path of one machine"),
    (r"\bcuda\b", "a device: the plan chooses it"),
    (r"\b(T4|L4|A10G?|A100|H100|H200)\b", "the name of an accelerator"),
    (r"(s3|gs|gcs|abfs)://|doggos-dataset", "the name of a bucket"),
]
EMOJI = re.compile("[\U0001f000-\U0001faff\u2600-\u27bf\u2b50\u2b55]")
SENTENCE_END = re.compile(r"[.!?][*_`)\"]*\s+(?=[A-Z*`_(])")
ABBREVIATION = re.compile(r"\b(e\.g|i\.e|etc|vs|cf|No|Fig|approx)\.\s", re.IGNORECASE)
PROPER = set(
    "Ray Data Train Serve CLIP MLflow Anyscale Kubernetes KubeRay PyTorch Python "
    "Jupyter JupyterLab Parquet AdamW GPU GPUs CPU CPUs HTTP API DDP I FastAPI "
    "Workspace Workspaces Docker Linux NumPy URL URLs URI JSON SQLite RAM ID".split()
)


def code(notebook: NotebookNode) -> list[NotebookNode]:
    return [c for c in notebook.cells if c.cell_type == "code"]


def markdown(notebook: NotebookNode) -> list[NotebookNode]:
    return [c for c in notebook.cells if c.cell_type == "markdown"]


def lines(source: str) -> list[str]:
    return [line for line in source.splitlines() if line.strip()]


def prose(cell: NotebookNode) -> list[str]:
    """Return the lines of a Markdown cell outside its code fences."""
    text = re.sub(r"^\s*```.*?^\s*```", "", cell.source, flags=re.DOTALL | re.MULTILINE)
    return lines(text)


def headings(notebook: NotebookNode) -> list[str]:
    found = [line for cell in markdown(notebook) for line in prose(cell)]
    return [line for line in found if re.match(r"#+ ", line)]


@pytest.fixture
def notebook(notebook_path: Path) -> NotebookNode:
    return read(notebook_path)


def test_the_series_is_complete() -> None:
    expected = [f"{i:02}_{name}" for i, name in enumerate(NAMES, start=1)]
    assert [path.stem for path in NOTEBOOKS] == expected


def test_it_opens_with_a_verb_title_and_one_sentence(notebook: NotebookNode) -> None:
    first = notebook.cells[0]
    assert first.cell_type == "markdown"
    title, sentence, *rest = lines(first.source)
    assert re.match(r"# [A-Z][a-z]+ ", title), f"not a title: {title}"
    verb = title.split()[1].lower()
    assert not verb.endswith(("ing", "ion", "s")), (
        f"begin the title with a verb: {verb}"
    )
    assert len(SENTENCE_END.findall(sentence)) == 0 and sentence.endswith(".")
    if rest:
        assert rest[0].startswith("**What you'll do**")


def test_it_says_what_you_do_learn_and_need(notebook: NotebookNode) -> None:
    openings = [c.source for c in markdown(notebook) if "What you'll do" in c.source]
    assert len(openings) == 1
    for part in ("**What you'll do**", "**What you'll learn**", "**What you need**"):
        assert part in openings[0], f"missing {part}"
    need = openings[0].partition("**What you need**")[2]
    assert "CPU" in need or "GPU" in need, "say which hardware"
    assert "minute" in need, "say how many minutes"
    assert "eads" in need and "rites" in need, "say what is read and written"


def test_the_skeleton_is_in_order(notebook: NotebookNode) -> None:
    cells = code(notebook)
    assert re.match(r"(import|from) ", cells[0].source), "imports come first"
    assert [i for i, c in enumerate(cells) if "parameters" in tags(c)] == [1]
    assert "Settings.given(" in cells[2].source, "settings follow the parameters"
    assert any("connect(settings" in c.source for c in cells[2:5]), "then connect"
    assert any("check" in tags(c) for c in cells)
    assert "disconnect()" in cells[-1].source, "the last code cell tears down"
    names = [line.lstrip("# ") for line in headings(notebook)]
    assert "In practice" in names and "Next" in names
    assert names.index("In practice") < names.index("Next")
    sections = [x for x in headings(notebook) if x.startswith("## ")]
    fixed = {"Set up", "Tear down", "In practice", "Next", "Exercises", "Check"}
    own = [x for x in sections if x[3:] not in fixed and "xercise" not in x]
    assert 3 <= len(own) <= 6, f"three to six sections, not {own}"


def test_imports_name_the_folder_of_the_stage_first(
    notebook: NotebookNode, notebook_path: Path
) -> None:
    own = dict(
        zip(NAMES[1:], ("cluster", "embed", "train", "evaluate", "serve"), strict=True)
    )
    stage = own.get(notebook_path.stem[3:], "")  # 01 is about no one stage
    imported = re.findall(
        r"^from doggos_helpers\.?(\w*)", code(notebook)[0].source, re.M
    )
    assert imported[0] == stage or not stage
    assert stage not in imported[imported.count(stage) :], "its imports stand together"


def test_parameters_are_settings_with_help(notebook: NotebookNode) -> None:
    cell = code(notebook)[1]
    for line in lines(cell.source):
        match = re.fullmatch(r"(\w+): (str|int|float|bool) = (\S+)  # \S.*", line)
        assert match, f"not `name: type = literal  # help`: {line}"
        name, kind, literal = match.groups()
        assert name in Settings.model_fields, f"not a setting: {name}"
        value = ast.literal_eval(literal)
        assert type(value).__name__ == kind, line
        assert value in ("", 0, False), f"a default hides the environment: {line}"
        assert name != "seed" or value == "", "0 is a seed"
        used = "".join(c.source for c in code(notebook)[2:4])
        assert f"{name}={name}" in used, f"{name} doesn't reach the settings"


def test_checks_and_exercises_are_complete(notebook: NotebookNode) -> None:
    found = exercises(notebook)
    assert 1 <= len(found) <= MAX_EXERCISES
    for exercise in found:
        where = f"exercise in cell {exercise.position}"
        assert "None" in exercise.starter or "..." in exercise.starter, where
        assert "not tried yet" in exercise.check, f"{where}: its check follows it"
        assert "assert" in exercise.check, f"{where}: its check asserts"
        assert exercise.solution, f"{where}: <details> with a python fence follows"
        assert exercise.wrong, f"{where}: metadata wrong_answer"
        assert notebook.cells[exercise.position - 1].cell_type == "markdown", where
        for answer in (exercise.wrong, exercise.solution):
            ast.parse(answer)
    own = [c for c in code(notebook) if tags(c) == ["check"]]
    assert len(own) > len(found), "a check of the notebook itself"
    for cell in own:
        assert "assert" in cell.source


def test_cells_are_small(notebook: NotebookNode) -> None:
    cells = code(notebook)
    sizes = sorted(len(lines(cell.source)) for cell in cells)
    assert len(cells) <= MAX_CODE_CELLS, f"{len(cells)} code cells"
    assert sizes[-1] <= MAX_LINES, f"longest cell: {sizes[-1]} lines"
    assert sizes[len(sizes) // 2] <= MEDIAN_LINES, f"median of {sizes}"
    assert sizes[int(len(sizes) * 0.9)] <= P90_LINES, f"90th percentile of {sizes}"


def test_it_explains_as_much_as_it_runs(notebook: NotebookNode) -> None:
    explained = sum(len(lines(c.source)) for c in markdown(notebook))
    run = sum(len(lines(c.source)) for c in code(notebook))
    assert explained >= MARKDOWN_PER_CODE_LINE * run, f"{explained} lines to {run}"


def test_few_functions_and_no_class(notebook: NotebookNode) -> None:
    functions = 0
    for cell in code(notebook):
        for node in ast.walk(_parse(cell)):
            assert not isinstance(node, ast.ClassDef), f"a class in {cell.id}"
            functions += isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    assert functions <= MAX_FUNCTIONS


def _parse(cell: NotebookNode) -> ast.Module:
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST
    tree = compile(cell.source, cell.id, "exec", flags)
    assert isinstance(tree, ast.Module)
    return tree


def test_helpers_are_not_copied(notebook: NotebookNode, notebook_path: Path) -> None:
    package = Path(notebook_path).parents[1] / "doggos_helpers"
    homes = {}
    for module in package.rglob("*.py"):
        for node in ast.parse(module.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                homes[node.name] = module.name
    assert {"embed", "connect", "Encoder"} <= set(homes)
    for cell in code(notebook):
        for node in ast.walk(_parse(cell)):
            if isinstance(node, ast.FunctionDef):
                assert node.name not in homes, f"{node.name} is in {homes[node.name]}"


def test_nothing_forbidden_in_code(notebook: NotebookNode) -> None:
    for cell in code(notebook):
        if "parameters" in tags(cell):
            continue
        for pattern, reason in FORBIDDEN:
            match = re.search(pattern, cell.source, re.MULTILINE)
            assert not match, f"{cell.id}: {reason}"


def test_it_is_stored_clean(notebook_path: Path) -> None:
    raw = json.loads(notebook_path.read_text())
    assert raw["nbformat"] == 4 and raw["nbformat_minor"] >= 5
    assert set(raw["metadata"]) == {"kernelspec", "language_info"}
    assert raw["metadata"]["kernelspec"]["name"] == "python3"
    assert raw["metadata"]["language_info"] == {"name": "python"}
    for cell in raw["cells"]:
        assert set(cell["metadata"]) <= METADATA, f"stray metadata in {cell['id']}"
        assert set(cell["metadata"].get("tags", [])) <= TAGS, cell["id"]
        assert re.fullmatch(r"[a-z]+(-[a-z0-9]+)*-\d+", cell["id"]), cell["id"]
        assert "".join(cell["source"]).strip(), f"{cell['id']} is empty"
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
    ids = [cell["id"] for cell in raw["cells"]]
    assert len(ids) == len(set(ids))
    assert re.fullmatch(r"[a-z0-9_]+\.ipynb", notebook_path.name)


def test_one_sentence_a_line(notebook: NotebookNode) -> None:
    for cell in markdown(notebook):
        for line in prose(cell):
            text = ABBREVIATION.sub("", re.sub(r"`[^`]*`|\]\([^)]*\)", "x", line))
            text = re.sub(r"^\s*(\d+\.|[-*>])\s", "", text)
            is_list = re.match(r"\s*(\d+\.|[-*>|]) ", line)  # an item is a paragraph
            allowed = 2 if is_list else 0
            assert len(SENTENCE_END.findall(text)) <= allowed, f"{cell.id}: {line}"


def test_headings_are_sentence_case(notebook: NotebookNode) -> None:
    for heading in headings(notebook):
        words = re.sub(r"`[^`]*`", "", heading).split()[2:]
        for before, word in zip(["", *words], words, strict=False):
            plain = word.strip(":,.?!()*'\"").removesuffix("'s")
            after_colon = before.endswith(":")
            fine = plain[:1].islower() or not plain.isalpha() or plain in PROPER
            assert fine or after_colon, f"capital in {heading!r}: {word}"


def test_no_emoji_badges_or_too_many_boxes(notebook: NotebookNode) -> None:
    text = "\n".join(c.source for c in notebook.cells)
    assert not EMOJI.search(text), EMOJI.findall(text)
    assert "shields.io" not in text and "badge" not in text
    boxes = text.count("> **Note**") + text.count("<details>")
    boxes -= len(exercises(notebook))  # solutions don't count
    assert boxes <= MAX_NOTES
    plain = [re.sub(r"`[^`]*`", "", x) for c in markdown(notebook) for x in prose(c)]
    tagged = set(re.findall(r"<(\w+)", "\n".join(plain)))
    assert tagged <= {"details", "summary"}, f"raw HTML: {tagged}"


def test_prose_stands_between_cells(notebook: NotebookNode) -> None:
    pairs = zip(notebook.cells, notebook.cells[1:], strict=False)
    for before, after in pairs:
        if before.cell_type == after.cell_type == "code":
            fixed = {"parameters", "exercise"} & set(tags(before))
            assert fixed, f"no sentence between {before.id} and {after.id}"
