"""House rules that no linter knows: who may import whom, and what must not be in the files."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "distilcli"

# A folder imports only from those above it, and within a folder no import goes round in a circle.
ORDER = [
    "errors",
    "signals",
    "files",
    "config",
    "hub",
    "text",
    "losses",
    "corpus",
    "batches",
    "tasks",
    "models",
    "evaluation",
    "distillation",
    "training",
    "suites",
    "cards",
    "export",
    "report",
    "cli",
    "__main__",
]
MAX_ARROWS = 102  # between folders; a new one should have a reason

MODULES = sorted(PACKAGE.rglob("*.py"))
TEXT_SUFFIXES = {".py", ".sh", ".md", ".toml", ".yaml", ".yml", ".txt", ".cfg"}
TEXT_FOLDERS = ["distilcli", "docs", "scripts", "tests", "configs", ".github", ".ci"]
MAX_COLUMNS = 100


def place_of(path: Path) -> str:
    """The row of ORDER that a file belongs to: its module, or the package folder it is in."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def module_of(path: Path) -> str:
    """The dotted name of a file below the package; of an `__init__.py` that of its folder."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported_modules(path: Path) -> Iterator[str]:
    """The modules that a file imports from, anywhere in it, also inside functions."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            dotted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            dotted = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in dotted:
            parts = name.split(".")
            if parts[0] == "distilcli" and len(parts) > 1 and parts[1] != "__version__":
                yield module_named(parts[1:])


def module_named(parts: list[str]) -> str:
    """The module that a dotted name is, or is in."""
    while len(parts) > 1:
        place = PACKAGE.joinpath(*parts)
        if place.is_dir() or place.with_suffix(".py").is_file():
            break
        parts = parts[:-1]
    return ".".join(parts)


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call in a file with the dotted name of what is called."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def text_files() -> list[Path]:
    """What people read and write in this project; not the data and weights that ship."""
    files = [path for path in ROOT.iterdir() if path.is_file()]
    for folder in TEXT_FOLDERS:
        files += [path for path in (ROOT / folder).rglob("*") if path.is_file()]
    named = {ROOT / ".ci" / "run", ROOT / ".gitignore"}
    return sorted(path for path in files if path.suffix in TEXT_SUFFIXES or path in named)


def test_imports_go_upwards() -> None:
    """A module imports only from modules that stand before it in ORDER."""
    wrong = {}
    for path in MODULES:
        place = place_of(path)
        assert place in [*ORDER, "__init__"], f"{place} has no place in ORDER: give it one"
        is_root = place == "__init__"
        allowed = set() if is_root else {*ORDER[: ORDER.index(place)], place}
        wrong[module_of(path)] = {name.split(".")[0] for name in imported_modules(path)} - allowed
    assert {name: found for name, found in wrong.items() if found} == {}


def test_the_page_of_design_has_this_order() -> None:
    """Its map begins at the top, with what the others do not import from."""
    design = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z]+)(?:/|\.py)` \|", design, flags=re.MULTILINE)
    assert rows == [place for place in reversed(ORDER) if place != "__main__"]


def test_no_imports_go_round_in_a_circle() -> None:
    graph = {module_of(path): set(imported_modules(path)) for path in MODULES}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        raise AssertionError(f"a circle of imports: {' -> '.join(error.args[1])}") from None


def test_few_arrows_between_folders() -> None:
    arrows = {
        (place_of(path), name.split(".")[0]) for path in MODULES for name in imported_modules(path)
    }
    arrows = {(one, other) for one, other in arrows if one != other}
    assert len(arrows) <= MAX_ARROWS, sorted(arrows)


def test_order_has_no_double() -> None:
    assert len(ORDER) == len(set(ORDER))


def test_the_import_check_would_notice(tmp_path: Path) -> None:
    """Each way to write an import is seen."""
    source = tmp_path / "module.py"
    source.write_text(
        "import distilcli.cli.app\n"
        "from distilcli import training, __version__\n"
        "from distilcli.losses.soft_targets import soft_target_kl\n"
        "def later():\n"
        "    from distilcli.config import reading as cfg\n",
        encoding="utf-8",
    )
    found = ["cli.app", "config.reading", "losses.soft_targets", "training"]
    assert sorted(imported_modules(source)) == found


def test_files_are_ascii() -> None:
    """All that people read or write is."""
    wrong = [
        f"{path}:{number}: {line!a}"
        for path in text_files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if not line.isascii()
    ]
    assert wrong == []


def test_python_lines_fit() -> None:
    """No line of the package, the scripts or the configs is too long."""
    for path in [*MODULES, *(ROOT / "scripts").rglob("*"), *(ROOT / "configs").rglob("*")]:
        if path.suffix in TEXT_SUFFIXES:
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
                assert len(line) <= MAX_COLUMNS, f"{path}:{number}"


def test_nothing_runs_code_from_a_file() -> None:
    """No remote code, no pickles; weights as tensors only."""
    for path in MODULES:
        assert_runs_no_code_from_a_file(path)


def assert_runs_no_code_from_a_file(path: Path) -> None:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            names = {alias.name.split(".")[0] for alias in node.names}
            assert not names & {"pickle", "dill"}, f"{path}:{node.lineno}"
        if isinstance(node, ast.ImportFrom):
            name = (node.module or "").split(".")[0]
            assert name not in {"pickle", "dill"}, f"{path}:{node.lineno}"
        if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
            assert ast.unparse(node.value) == "False", f"{path}:{node.value.lineno}"
    for name, call in calls(path):
        arguments = {word.arg: word.value for word in call.keywords}
        if name == "torch.load":
            only = arguments.get("weights_only")
            assert isinstance(only, ast.Constant), f"{path}:{call.lineno}"
            assert only.value is True, f"{path}:{call.lineno}"
        assert name not in {"yaml.load", "eval", "exec"}, f"{path}:{call.lineno}"


def test_json_is_written_by_one_function() -> None:
    """By itself Python writes NaN and Infinity, which are not JSON."""
    writers = {"json.dump", "json.dumps", "dumps"}
    found = {module_of(path) for path in MODULES for name, _ in calls(path) if name in writers}
    assert found == {"files.json_text"}


def test_no_module_of_odds_and_ends() -> None:
    assert [path for path in MODULES if path.stem in {"utils", "helpers", "common", "misc"}] == []


WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_action_is_pinned_by_its_commit(path: Path) -> None:
    """A tag or a branch can be moved to other code; the comment says which version a commit is."""
    lines = path.read_text(encoding="utf-8").splitlines()
    used = [line.partition("uses:")[2].strip() for line in lines if "uses:" in line]
    assert used
    for action in used:
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action


TEST_FILES = sorted((ROOT / "tests").rglob("test_*.py"))


def says_little(source: str) -> list[str]:
    """Names of the tests in a file that have neither a docstring nor more than three words."""
    return [
        node.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef)
        and node.name.startswith("test_")
        and len(node.name.split("_")) - 1 <= 3
        and ast.get_docstring(node) is None
    ]


def test_every_test_says_what_it_shows() -> None:
    """By a sentence for a name, or by a docstring where the name is short."""
    little = {path: says_little(path.read_text(encoding="utf-8")) for path in TEST_FILES}
    assert {path: names for path, names in little.items() if names} == {}


def test_a_short_name_without_a_docstring_would_be_noticed() -> None:
    source = (
        "def test_paths(): pass\n"
        "def test_a_path(): 'With a docstring.'\n"
        "def test_a_name_of_words(): pass\n"
        "def helper(): pass\n"
    )
    assert says_little(source) == ["test_paths"]


def test_files_of_tests_have_names_of_their_own() -> None:
    """pytest imports them by name alone, and two of one name end a whole run."""
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py"]
    assert sorted({name for name in names if names.count(name) > 1}) == []
