"""Hostile input to the whole command line: settings, overrides, options, rows, text, models, runs.

A few repeatable examples here; thousands of random ones with
DISTILCLI_FUZZ_EXAMPLES=2000 python -m pytest tests/cli/test_fuzz.py
"""

import copy
import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fuzzing import MASKED_LM, TASKS, World, check, run, task_experiment, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distilcli.cli.app import COMMANDS
from distilcli.cli.options import TEMPLATES

NUM_EXAMPLES = int(os.environ.get("DISTILCLI_FUZZ_EXAMPLES", "0"))
EXAMPLES = {
    "deadline": None,
    "derandomize": not NUM_EXAMPLES,
    "database": None,
    "suppress_health_check": list(HealthCheck),
}
Strategy = st.SearchStrategy[Any]


def tries(few: int) -> Callable[[Any], Any]:
    """A few examples, or as many as the environment asks for."""
    return settings(max_examples=NUM_EXAMPLES or few, **EXAMPLES)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("fuzz"))


# What is hostile

TEXTS = [
    "", " ", "\n", "\x00", "\x1b[31m", "\u202e", "\ud83d", "\udcff", "\ufeff", "\U0001f600",
    "a" * 300,
    "~", "..", "/", "/dev/null", "/nowhere/x", "a/b/c/d", ".", "*", "[", "{}", "a\\b", "$HOME",
    "%s",
    "nan", "null", "true", "1e999", "-0.0", "teacher", "own.yaml", "corpus.txt", "store", "runs",
    "[MASK]", "[CLS]", "<s>", "builtin:", "builtin:nothing", "builtin:../..", "cpu", "auto",
    "label", "text", "tokens", "-100", "O", "B-X", "I-", "0", "1", "2147483648",
]  # fmt: skip
NUMBERS = [
    0, 1, -1, 2, 3, 7, 8, 24, 25, 32, 33, 64, 127, 128, 2**16, 2**31 - 1, 2**31, 2**32, 2**63,
    2**64, 10**29, 10**400, 0.0, -0.0, 1e-300, 1e-9, 0.5, 1.0, 1.5, 1e30, float("inf"),
    float("nan"), float("-inf"),
]  # fmt: skip
scalars = (
    st.sampled_from(TEXTS)
    | st.sampled_from(NUMBERS)
    | st.none()
    | st.booleans()
    | st.text(max_size=8)
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(TEXTS) | st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
# What would take long where it is allowed: more work, not another mistake.
SLOW = {"num_workers", "copies", "num_epochs", "max_steps", "compile", "timeout_seconds"}


def places(tree: Any, key: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The key of everything in a tree."""
    found = [key] if key else []
    below = tree if isinstance(tree, dict) else {}
    if isinstance(tree, list):
        below = dict(enumerate(tree))
    for part, value in below.items():
        if part not in SLOW:
            found += places(value, (*key, part))
    return found


@st.composite
def mutated(draw: Any, tree: Any) -> Any:
    """A tree with up to three changes: another value, a key that is gone, one that is new."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        keys = places(tree)
        if not keys:
            return draw(values)
        *above, last = draw(st.sampled_from(keys))
        node = tree
        for part in above:
            node = node[part]
        change = draw(st.sampled_from(["set", "set", "set", "delete", "add"]))
        if change == "delete":
            del node[last]
        elif change == "add" and isinstance(node, dict):
            node[draw(st.sampled_from(TEXTS))] = draw(values)
        else:
            node[last] = draw(values)
    return tree


@st.composite
def damaged(draw: Any, content: bytes) -> bytes:
    """Bytes with up to three changes: others in their place, cut off, put in, all gone."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, min(len(content), draw(st.sampled_from([64, 10**6]))))))
        new = draw(
            st.binary(max_size=12) | st.sampled_from([t.encode("utf-8", "replace") for t in TEXTS])
        )
        change = draw(st.sampled_from(["replace", "insert", "truncate", "repeat", "gzip"]))
        if change == "replace":
            content = content[:at] + new + content[at + len(new) :]
        elif change == "insert":
            content = content[:at] + new + content[at:]
        elif change == "truncate":
            content = content[:at]
        elif change == "repeat":
            content = content[:at] + new * 50 + content[at:]
        else:
            content = gzip.compress(content, mtime=0)
    return content


# Options

FLAGS = [
    "--json",
    "--force",
    "--resume",
    "--dry-run",
    "--skip-bad-rows",
    "--help",
    "--version",
    "--",
]
OPTIONS = ["--config", "-c", "--teacher", "--output", "--layers", "--num-layers", "--strategy"]
OPTIONS += [
    "--num-proc",
    "--num-sequences",
    "--suite",
    "--data",
    "--seeds",
    "--jobs",
    "--text",
    "--dev",
]
# No system hands a NUL to a program.
words = (st.sampled_from([*TEXTS, *map(str, NUMBERS)]) | st.text(max_size=6)).filter(
    lambda word: "\x00" not in word
)
option = st.tuples(st.sampled_from(OPTIONS), words).map(list)
SETTINGS = [".".join(map(str, key)) for key in places(MASKED_LM)]
plain = st.sampled_from(TEMPLATES) | words
override = st.tuples(st.sampled_from(SETTINGS) | words, words).map("=".join)


@pytest.mark.slow
@given(
    st.lists(
        option | st.sampled_from(FLAGS).map(lambda flag: [flag]) | override.map(lambda o: [o]),
        max_size=5,
    ),
    st.sampled_from(sorted(COMMANDS)),
    st.booleans(),
)
@tries(15)
def test_options(
    world: World, given_words: list[list[str]], command: str, configured: bool
) -> None:
    """Any command line ends in a result or in a message with an exit code."""
    line = [command, *(word for group in given_words for word in group)]
    if configured:
        line += ["--config", "own.yaml"]
    with world.copy() as folder:
        check(line, run([*line, "--num-proc", "1"] if command == "prepare" else line, folder))


@pytest.mark.slow
@given(st.sampled_from(["new", "schema", "suite"]), st.lists(plain, max_size=3), st.booleans())
@tries(15)
def test_words_without_options(
    world: World, command: str, given_words: list[str], as_json: bool
) -> None:
    """Whatever a file, a kind or a suite is called."""
    line = [command, *["--json"][: int(as_json)], "--", *given_words]
    with world.copy() as folder:
        check(line, run(line, folder))


# Settings

STAGES = st.sampled_from(
    [["prepare", "--num-proc", "1"], ["init-student"], ["train"], ["train", "--dry-run"], ["eval"]]
)
trees = st.sampled_from([MASKED_LM, MASKED_LM, *map(task_experiment, TASKS)]).flatmap(mutated)


@given(trees, STAGES, st.booleans())
@tries(10)
def test_settings(world: World, tree: Any, stage: list[str], trained: bool) -> None:
    """Any tree of settings ends in a result or in a message with an exit code."""
    if isinstance(tree, dict) and isinstance(tree.get("train"), dict):
        tree["train"] |= {"max_steps": 1, "num_workers": 0}
    with world.copy(trained) as folder:
        write(folder / "mutated.yaml", tree)
        line = [*stage, "--config", "mutated.yaml", "--json"]
        check(line, run(line, folder))


@given(st.binary(max_size=60) | damaged(json.dumps(MASKED_LM).encode()))
@tries(6)
def test_bytes_of_settings(world: World, content: bytes) -> None:
    """Any bytes as an experiment file end in a message with an exit code."""
    with world.copy() as folder:
        (folder / "damaged.yaml").write_bytes(content)
        line = ["prepare", "--config", "damaged.yaml", "--num-proc", "1"]
        check(line, run(line, folder))


# Files that are read


def try_damaged(
    world: World, data: st.DataObject, name: str, line: list[str], trained: bool
) -> None:
    with world.copy(trained) as folder:
        path = folder / name
        if name.endswith((".json", ".jsonl")) and data.draw(st.booleans()):
            first, *rest = (
                path.read_text().splitlines() if name.endswith("l") else [path.read_text()]
            )
            tree = data.draw(mutated(json.loads(first)))
            changed = json.dumps(tree)
            path.write_text("\n".join([changed, *rest]))
        else:
            path.write_bytes(data.draw(damaged(path.read_bytes())))
        check([*line, name], run(line, folder))


TASK_FILES = {
    "classification": "tsv", "multi-label": "jsonl", "regression": "csv",
    "question-answering": "json", "tagging": "txt",
}  # fmt: skip


@given(st.data(), st.sampled_from(TASKS), st.sampled_from(["train", "dev"]))
@tries(8)
def test_rows(world: World, data: st.DataObject, kind: str, split: str) -> None:
    """Damaged files of a task's rows are read or named; nothing else happens."""
    line = ["prepare", "--config", f"{kind}.yaml", "--json"]
    try_damaged(world, data, f"tasks/{kind}/{split}.{TASK_FILES[kind]}", line, trained=False)


@given(st.data(), st.sampled_from(["corpus.txt", "corpus.jsonl"]))
@tries(5)
def test_text(world: World, data: st.DataObject, name: str) -> None:
    """Damaged text files are read or named; nothing else happens."""
    line = ["prepare", "--config", "own.yaml", "--num-proc", "1", f"data.sources.0.files={name}"]
    try_damaged(world, data, name, line, trained=False)


MODEL_FILES = ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]


@given(st.data(), st.sampled_from(MODEL_FILES), st.booleans())
@tries(8)
def test_models(world: World, data: st.DataObject, name: str, in_an_experiment: bool) -> None:
    """Damaged files of a model are read or named; nothing else happens."""
    line = ["init-student", "--teacher", "other", "--output", "new"]
    if in_an_experiment:
        line = ["train", "--config", "own.yaml", "teacher.model=other"]
    try_damaged(world, data, f"other/{name}", line, trained=False)


RUN_FILES = [
    "runs/fuzz/experiment.yaml", "runs/fuzz/metrics.jsonl", "runs/fuzz/student/config.json",
    "runs/fuzz/initial-student/config.json", "runs/fuzz/student/model.safetensors",
    "runs/fuzz/checkpoints/step-00000001/checkpoint.json",
    "runs/fuzz/checkpoints/step-00000001/student.safetensors",
    "runs/fuzz/checkpoints/step-00000001/optimizer.safetensors",
    "store/manifest.json", "store/settings.json", "store/shards/shard-00000.json",
    "store/train/shard-00000.arrow",
]  # fmt: skip


@pytest.mark.slow
@given(
    st.data(),
    st.sampled_from(RUN_FILES),
    st.sampled_from([["train", "--resume"], ["train", "--resume", "train.max_steps=2"], ["eval"]]),
)
@tries(6)
def test_runs(world: World, data: st.DataObject, name: str, line: list[str]) -> None:
    """Damaged files of a run are read or named; nothing else happens."""
    if not (world.trained / name).exists():
        pytest.fail(
            f"{name}: the run has no such file: {sorted((world.trained / name).parent.iterdir())}"
        )
    try_damaged(world, data, name, [*line, "--config", "own.yaml"], trained=True)


def test_the_check_would_notice(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake of ours that no one expected is not taken for an answer."""
    from distilcli.config import reading

    def fail(*_: object) -> None:
        Path("litter").touch()
        raise KeyError("x")

    monkeypatch.setattr(reading, "load_any_experiment", fail)
    with world.copy() as folder:
        outcome = run(["prepare", "--config", "own.yaml"], folder)
    assert outcome.code == 1
    assert outcome.new == {"litter"}
    with pytest.raises(AssertionError, match="unexpected KeyError: 'x', while preparing the data"):
        check(["prepare"], outcome)
