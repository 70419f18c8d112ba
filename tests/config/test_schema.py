"""The JSON schema says what pydantic says: of every shipped file, and of mistakes."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from distilcli.cli.options import SCHEMAS
from distilcli.config.ablation import Ablation
from distilcli.config.fields import Section
from distilcli.config.kinds import kind_of_tree
from distilcli.config.schema import KINDS, settings_schema
from distilcli.config.stages import has_stages, stages_of
from distilcli.config.suite import Suite
from distilcli.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "development"))

from write_settings import PAGE_FILE, SCHEMA_FILE, page_text, schema_text  # noqa: E402

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
SUITES = sorted((ROOT / "configs" / "suites").glob("*.yaml"))
ABLATIONS = sorted((ROOT / "configs" / "ablations").glob("*.yaml"))
SCHEMA = settings_schema()
VALIDATOR = Draft202012Validator(SCHEMA)
FILES = {"files": ["a.jsonl"]}
MASKED_LM = {"name": "x", "teacher": {"model": "t"}, "data": {"sources": [FILES], "store": "s"}}
ROWS = {"train": {"files": "train.csv"}, "dev": {"hub": "a/b", "split": "test"}}
TASK = {
    "name": "x",
    "task": {"kind": "classification"} | ROWS,
    "teacher": {"model": "t"},
    "student": {"num_layers": 2},
}
EMBEDDING = {
    "name": "x",
    "task": {"kind": "embedding", "train": {"files": "train.txt"}},
    "teacher": {"model": "t"},
}
SUITE = {
    "name": "x",
    "teacher": "t",
    "student": {"num_layers": 2},
    "tasks": {"one": {"task": {"kind": "tagging"} | ROWS}},
}


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def laid_over(tree: Any, key: str, value: Any) -> Any:
    """A copy of a tree with one key set, whose parts are joined by dots."""
    tree = json.loads(json.dumps(tree))
    *above, last = (int(part) if part.isdecimal() else part for part in key.split("."))
    node = tree
    for part in above:
        node = node[part] if isinstance(part, int) else node.setdefault(part, {})
    node[last] = value
    return tree


def mistakes(tree: Any) -> list[str]:
    """Where the schema finds mistakes, and what it says of them."""
    return [
        f"{'.'.join(map(str, error.absolute_path))}: {error.message}"
        for error in VALIDATOR.iter_errors(tree)
    ]


def is_valid(tree: Any) -> bool:
    """What pydantic says."""
    kind: type[Section] = kind_of_tree(tree)
    if "tasks" in tree:
        kind = Suite
    if "base" in tree:
        kind = Ablation
    try:
        if has_stages(tree):
            stages_of(tree, Path("x.yaml"), tree)
            return True
        kind.model_validate(tree)
    except (ValidationError, ConfigError):
        return False
    return True


# What ships


@pytest.mark.parametrize("path", [*CONFIGS, *SUITES, *ABLATIONS], ids=lambda path: path.stem)
def test_every_shipped_file_fits_and_names_the_schema(path):
    tree = read(path)
    assert mistakes(tree) == []
    [line] = [line for line in path.read_text().splitlines() if "yaml-language-server" in line]
    before, _, relative = line.partition("$schema=")
    assert before == "# yaml-language-server: "
    assert (path.parent / relative).resolve() == SCHEMA_FILE


@pytest.mark.parametrize("path", [*CONFIGS, *SUITES, *ABLATIONS], ids=lambda path: path.stem)
def test_a_misspelt_key_does_not_fit(path):
    """Anywhere in a shipped file, in every section that it has."""
    tree = read(path)
    places = [key for key, value in tree.items() if isinstance(value, dict)]
    for key in ["", *(f"{place}." for place in places if place != "tasks")]:
        assert mistakes(laid_over(tree, f"{key}nmae", 1)), key


def test_what_is_made_of_the_settings_is_up_to_date():
    """Else: python scripts/development/write_settings.py."""
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text()
    assert PAGE_FILE.read_text(encoding="utf-8") == page_text()


# The schema and pydantic


def test_it_is_a_schema():
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    for kind in KINDS:
        Draft202012Validator.check_schema(settings_schema(kind))
    assert tuple(KINDS) == SCHEMAS
    text = json.dumps(SCHEMA)
    assert "x-tags" not in text
    assert "oneOf" not in text


VALUES = [
    "3e-4", "1e-3", ".5", "1.", "0.1", "-1", "abc", "1e400x", "", True, False, None, 0, 1, -1, 3, 8,
    24, 2.5, 0.25, 12345678901.5, [], [1], ["a"], [0.9, 0.99], {}, {"sample": 0.5}, {"sample": 2},
    "masked", "alternate", "nowhere", {"files": "x"}, {"hub": "x", "split": "y"},
    {"hub": "x", "files": "y"},
    {"model": "m"}, {"kind": "checkpoint", "model": "m"}, {"kind": "checkpoint"}, {"kind": "none"},
    {"kind": "copied", "model": "m"}, {"kind": "random", "like": "m"}, {"copies": 2},
]  # fmt: skip


def keys_of(kind: str) -> list[str]:
    """Every key that a file of one kind may have, as far as sections are no alternatives."""
    schema = settings_schema(kind)
    found = []

    def walk(section: dict[str, Any], above: str) -> None:
        for key, value in section["properties"].items():
            found.append(above + key)
            if "$ref" in value:
                walk(schema["$defs"][value["$ref"].rpartition("/")[2]], f"{above}{key}.")

    walk(schema["$defs"][KINDS[kind].__name__], "")
    return found


def cases() -> list[tuple[str, Any, str]]:
    trees = {"masked-lm": MASKED_LM, "task": TASK, "embedding": EMBEDDING, "suite": SUITE}
    # Of what a suite lays over its experiments pydantic learns only when it makes these.
    later = ("train", "optim", "loss", "augmentation")
    more = ["data.sources.0", "data.sources.0.files", "task.train", "task.text", "tasks.one"]
    return [
        (kind, tree, key)
        for kind, tree in trees.items()
        for key in [*keys_of(kind), *more]
        if not (kind == "suite" and key.split(".")[0] in later)
        and (key not in more or key.split(".")[0] in tree)
    ]


@pytest.mark.parametrize(("kind", "tree", "key"), cases(), ids=lambda value: str(value)[:40])
def test_values_fit_where_pydantic_takes_them(kind, tree, key):
    """But for what it says of several keys together, and of bounds of numbers that are text."""
    for value in VALUES:
        changed = laid_over(tree, key, value)
        found = mistakes(changed)
        if is_valid(changed):
            assert not found, (key, value, found)
        elif not found:
            assert is_of_several_keys(changed) or isinstance(value, str), (key, value)


def is_of_several_keys(tree: Any) -> bool:
    """Whether some of pydantic's complaints come from what sections fit together."""
    kind = Suite if "tasks" in tree else kind_of_tree(tree)
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(tree)
    return all(error["type"] == "value_error" for error in caught.value.errors())


@pytest.mark.parametrize(
    ("tree", "key", "value", "said"),
    [
        (MASKED_LM, "optim.lr", "fast", "optim.lr: 'fast' is not valid under any of the"),
        (MASKED_LM, "data.max_length", 4, "data.max_length: 4 is less than the minimum of 8"),
        (MASKED_LM, "student.kind", "copy", "student.kind: 'copy' is not one of ['copied', "),
        (MASKED_LM, "student.like", "m", "student: Additional properties are not allowed ('like'"),
        (MASKED_LM, "data.sources.0.split", "x", "data.sources.0: Additional properties are not"),
        (TASK, "task.lable", "x", "task: Additional properties are not allowed ('lable' was"),
        (TASK, "task.kind", "tags", "task.kind: 'tags' is not one of ['classification', "),
        (SUITE, "optim.lrr", 1, "optim: Additional properties are not allowed ('lrr' was"),
        (SUITE, "tasks.one.train.epochs", 1, "tasks.one.train: Additional properties are not"),
    ],
)
def test_a_mistake_is_named_once_and_where_it_is(tree, key, value, said):
    """Not by every part of a union that does not fit."""
    [found] = mistakes(laid_over(tree, key, value))
    assert found.startswith(said)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("stages.1.loss", {"labels": {"weight": 2}}),
        ("stages.1.loss", {"masked_lm": {"weight": 2}}),
        ("stages.1.loss", {"maskedlm": {"weight": 2}}),
        ("stages.0.data", {"max_length": 512, "store": "other"}),
        ("stages.0.data", {"max_lenth": 512}),
        ("stages.0.masking", {"smoothing": 0.7}),
        ("stages.0.trains", {}),
        ("stages.0.name", None),
        ("stages.1.teacher", None),
        ("stages.1.teacher", {"cache": "c"}),
        ("stages.1.task", {"kind": "classified"}),
        ("stages.0.train", {"max_steps": 0}),
        ("stages", []),
        ("student", {"kind": "random"}),
        ("student", {"layers": "none"}),
        ("data", {"sources": [], "store": 3}),
    ],
)
def test_stages_fit_where_they_can_be_laid_over_what_they_share(key, value):
    """But for what belongs to the other kind of stage, which an editor cannot tell."""
    tree = MASKED_LM | {"stages": [{"name": "a"}, {"name": "b", "task": TASK["task"]}]}
    assert is_valid(tree)
    changed = laid_over(tree, key, value)
    belongs_elsewhere = value == {"masked_lm": {"weight": 2}}
    assert (mistakes(changed) == []) == (is_valid(changed) or belongs_elsewhere)


@pytest.mark.parametrize(
    ("kind", "default"),
    [("copied", "`copied`"), ("checkpoint", "required"), ("random", "required")],
)
def test_the_page_says_where_kind_is_needed(kind, default):
    """A section without `kind` is the default of its union, whatever its other keys are."""
    start = f"| `student.kind` | `{kind}` | "
    found = [line for line in page_text().splitlines() if line.startswith(start)]
    assert found
    assert all(line.startswith(f"{start}{default} |") for line in found)
    said = {"num_layers": 2} | ({"model": "m"} if kind == "checkpoint" else {})
    assert is_valid(laid_over(MASKED_LM, "student", said)) == (kind != "checkpoint")


def test_every_key_is_described_and_has_its_default():
    """The two things that an editor shows beside the key."""
    undescribed = [
        f"{name}.{key}"
        for name, section in SCHEMA["$defs"].items()
        for key, schema in section["properties"].items()
        if key != "kind" and "description" not in schema and "$ref" not in schema
    ]
    assert undescribed == []
    lr = SCHEMA["$defs"]["OptimConfig"]["properties"]["lr"]
    assert lr["default"] == 5e-4
    assert lr["anyOf"][0] == {"type": "number", "minimum": 1e-12, "maximum": 10.0}
