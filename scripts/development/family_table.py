"""What is proved of each family, as a table in Markdown that is made of the results of its tests.

    python scripts/development/family_table.py
    python scripts/development/family_table.py --results build/families.xml

The first runs the tests, a minute or two. The second reads what `pytest --junit-xml` has written. A
cell says "failed" where any of its tests failed or could not begin, and "-" where none was run.
"""

import argparse
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OF_MODELS = "tests/models/test_families.py"
OF_COMMANDS = "tests/cli/test_every_family.py"
# What a column claims, by the tests that show it.
COLUMNS = {
    "packed = plain": [
        (OF_MODELS, "test_packed_is_each_sequence_alone"),
    ],
    "copy-all = teacher": [
        (OF_MODELS, "test_a_copy_of_every_layer_computes_what_its_source_does"),
    ],
    "kill and resume": [
        (OF_COMMANDS, "test_a_run_that_is_killed_goes_on_to_the_same_student"),
    ],
    "task": [
        (OF_COMMANDS, "test_a_task_is_learnt_from_a_teacher"),
        (OF_COMMANDS, "test_the_student_of_a_task_is_a_plain_classifier"),
    ],
    "Auto class": [
        (OF_COMMANDS, "test_the_student_is_a_plain_masked_lm"),
    ],
    "tokenizer": [
        (OF_COMMANDS, "test_the_store_has_the_tokens_of_the_tokenizer"),
    ],
}

Outcomes = dict[tuple[str, str], dict[str, list[bool]]]


def read_outcomes(results: Path) -> Outcomes:
    """For each test and family, in the order of the file, whether what was run of it passed.

    A test that was skipped was not run. A test names its family, and nothing else, in brackets.
    """
    found: Outcomes = defaultdict(lambda: defaultdict(list))
    for case in ET.parse(results).iter("testcase"):
        function, _, family = case.get("name", "").rstrip("]").partition("[")
        path = case.get("classname", "").replace(".", "/") + ".py"
        if case.find("skipped") is None:
            passed = case.find("failure") is None and case.find("error") is None
            found[path, function][family].append(passed)
    return found


def make_rows(outcomes: Outcomes) -> list[list[str]]:
    """For each family that a column has something of: its name, then what each column says."""
    families: dict[str, None] = {}
    for tests in COLUMNS.values():
        for test in tests:
            families.update(dict.fromkeys(outcomes.get(test, {})))
    rows = []
    for family in families:
        row = [family]
        for tests in COLUMNS.values():
            passed = [one for test in tests for one in outcomes.get(test, {}).get(family, [])]
            row.append(("passed" if all(passed) else "failed") if passed else "-")
        rows.append(row)
    return rows


def run_tests(results: Path) -> None:
    """Run the tests of the columns; what fails is in their results."""
    tests = [f"{path}::{name}" for column in COLUMNS.values() for path, name in column]
    command = [sys.executable, "-m", "pytest", "-q", f"--junit-xml={results}", *tests]
    subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=False)


def main() -> None:
    """Print the table; exit with 1 unless all of it has passed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, metavar="XML", help="read these, run nothing")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = options.results or Path(folder, "families.xml")
        if options.results is None:
            run_tests(results)
        rows = make_rows(read_outcomes(results))
    lines = [["family", *COLUMNS], ["---"] * (len(COLUMNS) + 1), *rows]
    print("\n".join("| " + " | ".join(line) + " |" for line in lines))
    sys.exit(not rows or {cell for row in rows for cell in row[1:]} != {"passed"})


if __name__ == "__main__":
    main()
