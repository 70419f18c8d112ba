"""The table of families says of each claim what the results of its tests say."""

import ast
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from distilcli.models.families import FAMILIES

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "development" / "family_table.py"
COLUMNS = runpy.run_path(str(SCRIPT))["COLUMNS"]


def case(test: tuple[str, str], family: str, outcome: str = "") -> str:
    """One test as `pytest --junit-xml` writes it."""
    path, name = test
    module = path.removesuffix(".py").replace("/", ".")
    inner = outcome and f'<{outcome} message="so it is"/>'
    return f'<testcase classname="{module}" name="{name}[{family}]" time="0.1">{inner}</testcase>'


def table(results: Path, *cases: str) -> tuple[int, list[list[str]]]:
    """The exit code of the script, and the cells of the table that it prints."""
    results.write_text(
        f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>", encoding="utf-8"
    )
    command = [sys.executable, SCRIPT, "--results", results]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    return done.returncode, [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def test_a_cell_is_what_all_its_tests_came_to(tmp_path):
    several = [name for name, tests in COLUMNS.items() if len(tests) > 1]
    tests = [(name, test) for name, column in COLUMNS.items() for test in column]
    cases = [case(test, "one") for _, test in tests]
    cases += [case(column[0], "two", "failure") for column in COLUMNS.values()]
    cases += [case(column[-1], "three", "error") for column in COLUMNS.values()]
    cases += [case(column[-1], "three") for column in COLUMNS.values()]
    cases += [case(column[0], "four", "skipped") for column in COLUMNS.values()]
    cases += [case(COLUMNS[several[0]][0], "five"), case(("tests/x.py", "test_other"), "six")]
    code, [head, line, *rows] = table(tmp_path / "results.xml", *cases)
    assert head == ["family", *COLUMNS]
    assert line == ["---"] * len(head)
    only = ["passed" if name == several[0] else "-" for name in COLUMNS]
    number = len(COLUMNS)
    assert rows == [
        ["one", *["passed"] * number],
        ["two", *["failed"] * number],
        ["three", *["failed"] * number],
        ["five", *only],
    ]
    assert code == 1


@pytest.mark.parametrize(
    ("families", "left_out", "expected"), [(["bert", "other"], 0, 0), (["bert"], 1, 1), ([], 0, 1)]
)
def test_its_exit_code_says_whether_all_was_shown(tmp_path, families, left_out, expected):
    tests = [test for column in COLUMNS.values() for test in column]
    cases = [case(test, name) for test in tests[left_out:] for name in families]
    code, rows = table(tmp_path / "results.xml", *cases)
    assert code == expected
    assert len(rows) == 2 + len(families)


def test_every_test_that_it_asks_for_is_there():
    """A test that was renamed would be a column of dashes."""
    for path, name in {test for tests in COLUMNS.values() for test in tests}:
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        assert name in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]


def test_the_page_of_models_has_all_families_and_claims():
    page = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
    table = page.partition("## What is shown of each family")[2].partition("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert rows[0] == ["family", *COLUMNS]
    assert [row[0] for row in rows[2:]] == list(FAMILIES)
    assert {cell for row in rows[2:] for cell in row[1:]} == {"passed"}
