"""Rows without labels: which those are, what becomes of them, and what is refused."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter
from row_files import jsonl, parquet, question, squad_file
from tiny_tasks import pair_tokenizer

from distilcli.config.tasks import Task
from distilcli.errors import ConfigError, DataError, DistilError, ModelError
from distilcli.tasks.inputs import end_to_end, part_of
from distilcli.tasks.open import open_task
from distilcli.tasks.shown import digest_of_shown
from distilcli.tasks.task import OpenTask
from distilcli.text.row import IGNORE_INDEX
from distilcli.text.tokenizers import TextTokenizer

NAN = float("nan")
Rows = list[dict[str, Any]]

# Of each kind: two rows with labels, a row of dev, and a text that the teacher labels.
ROWS: dict[str, tuple[Rows, Rows, Rows]] = {
    "classification": (
        [{"text": "ba be", "label": "x"}, {"text": "bi", "label": "y"}],
        [{"text": "bo", "label": "x"}],
        [{"text": "da de di"}, {"text": "du"}],
    ),
    "multi-label": (
        [{"text": "ba be", "labels": ["x", "y"]}, {"text": "bi", "labels": []}],
        [{"text": "bo", "labels": ["x"]}],
        [{"text": "da de di"}, {"text": "du"}],
    ),
    "regression": (
        [{"text": "ba be", "label": -1}, {"text": "bi", "label": -100}],
        [{"text": "bo", "label": 0.5}],
        [{"text": "da de di"}, {"text": "du"}],
    ),
    "reranking": (
        [
            {"query": "ba", "document": ["be", "bi"], "label": [1, 0]},
            {"query": "bo", "document": "bu", "label": 2},
        ],
        [{"query": "bu", "document": ["ba", "be"], "label": [0, 1]}],
        [{"query": "da", "document": ["de di", "do"]}, {"query": "du", "document": "da"}],
    ),
    "tagging": (
        [{"tokens": ["ba", "be"], "tags": ["x", "y"]}, {"tokens": ["bi"], "tags": ["y"]}],
        [{"tokens": ["bo"], "tags": ["x"]}],
        [{"tokens": ["da", "de", "di"]}, {"tokens": ["du"]}],
    ),
    "question-answering": (
        [question(), question("ba", 0, context="ba bo")],
        [question(context="bo be")],
        [
            {"question": "da", "context": "de di"},
            {"question": "da", "context": "du"},
        ],
    ),
}
for qa in ROWS["question-answering"][0]:
    qa.setdefault("context", "ba be bi")
LABEL = {"multi-label": "labels", "tagging": "tags", "question-answering": "answers"}


def opened(
    folder: Path,
    kind: str,
    train: Rows | dict[str, Any] | None,
    dev: Rows,
    transfer: Rows | Path | dict[str, Any] | None = None,
    *,
    taught: bool = True,
    teacher: list[str] | None = None,
    **settings: Any,
) -> OpenTask:
    """A task of these rows, as it is read beside a teacher."""
    section: dict[str, Any] = {"kind": kind} | settings
    for split, rows in (("train", train), ("dev", dev), ("transfer", transfer)):
        if isinstance(rows, Path):
            section[split] = {"files": [str(rows)]}
        elif isinstance(rows, dict):
            section[split] = rows
        elif rows is not None:
            path = folder / f"{split}.jsonl"
            path.write_bytes(jsonl(rows))
            section[split] = {"files": [str(path)]}
    if kind == "question-answering":
        section = {"max_length": 64, "stride": 4, "max_question_length": 32} | section
    task = TypeAdapter(Task).validate_python(section)
    return open_task(task, TextTokenizer(pair_tokenizer()), teacher, taught)


def said(error: DistilError) -> str:
    return "\n".join([str(error.message), *map(str, getattr(error, "details", []))])


def has_no_label(targets: np.ndarray) -> bool:
    if targets.dtype.kind == "f":
        return bool(np.isnan(targets).all())
    return bool((targets == IGNORE_INDEX).all())


# Rows of task.transfer


@pytest.mark.parametrize("kind", ROWS)
def test_rows_of_transfer_come_after_the_others_and_have_no_label(
    tmp_path: Path, kind: str
) -> None:
    train, dev, others = ROWS[kind]
    alone = opened(tmp_path, kind, train, dev)
    task = opened(tmp_path, kind, train, dev, others)
    assert task.unlabelled is not None
    assert (task.num_examples, task.unlabelled.examples) == ((2, 1), (0, 2))
    sources = task.sources()
    assert sources["train"].content_digest() == alone.train.content_digest()
    assert sources["dev"].content_digest() == alone.dev.content_digest()
    assert has_no_label(sources["transfer"].targets)
    assert sources["transfer"].targets.dtype == alone.train.targets.dtype
    assert task.train.labelled().tolist() == [True, True, False, False]
    assert alone.unlabelled is None
    assert list(alone.sources()) == ["train", "dev"]
    # The outputs of all of them are read: at the first token, each word, every token.
    again = opened(tmp_path, kind, None, dev, others, teacher=["x", "y"])
    assert sources["transfer"].fingerprint() == again.train.fingerprint()
    assert digest_of_shown(sources["transfer"].shown) == digest_of_shown(again.train.shown)


@pytest.mark.parametrize("kind", ROWS)
def test_rows_of_transfer_may_be_all_there_is(tmp_path: Path, kind: str) -> None:
    _, dev, others = ROWS[kind]
    task = opened(tmp_path, kind, None, dev, others, teacher=["y", "x"])
    assert task.num_examples == (0, 1)
    assert not task.train.labelled().any()
    assert list(task.sources()) == ["transfer", "dev"]
    # Nothing is known of how frequent labels are but what the dev rows say.
    assert np.isfinite(task.constant_outputs()).all()
    if kind in ("classification", "multi-label", "tagging"):
        assert task.labels == ["y", "x"]
        assert task.scores(task.constant_outputs())["macro_f1"] == 1.0


@pytest.mark.parametrize("kind", ROWS)
def test_labels_of_transfer_are_not_looked_at(tmp_path: Path, kind: str) -> None:
    train, dev, others = ROWS[kind]
    with_labels = [row | {LABEL.get(kind, "label"): {"no": "label"}} for row in others]
    task = opened(tmp_path, kind, train, dev, with_labels)
    assert has_no_label(task.sources()["transfer"].targets)


def plain(folder: Path, kind: str, name: str, text: str, **source: Any) -> OpenTask:
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    train, dev, _ = ROWS[kind]
    return opened(folder, kind, train, dev, {"files": [str(path)]} | source)


@pytest.mark.parametrize("kind", ["classification", "multi-label", "regression", "tagging"])
@pytest.mark.parametrize("name", ["rows.txt", "rows.txt.gz", "rows.text", "rows.lines"])
def test_plain_text_is_a_row_a_line(tmp_path: Path, kind: str, name: str) -> None:
    source = {"format": "text"} if name == "rows.lines" else {}
    task = plain(tmp_path, kind, name, "da de di\r\n\n \ndu\n", **source)
    rows = opened(tmp_path, kind, *ROWS[kind])
    assert task.train.content_digest() == rows.train.content_digest()


def test_plain_text_in_brackets_is_no_list(tmp_path: Path) -> None:
    task = plain(tmp_path, "tagging", "rows.txt", '["ba", "be"]\nba be\n')
    assert task.unlabelled is not None
    assert task.sources()["transfer"].num_outputs_of.tolist() == [2, 2]
    assert task.sources()["transfer"].token_ids.tolist()[1:3] == [1, 1]  # [UNK], not ba be


@pytest.mark.parametrize("kind", ["question-answering", "classification", "reranking"])
def test_plain_text_is_no_pair(tmp_path: Path, kind: str) -> None:
    pair = {"text_pair": "second"} if kind == "classification" else {}
    path = tmp_path / "rows.txt"
    path.write_text("da\n", encoding="utf-8")
    train = [row | {"second": "bu"} for row in ROWS[kind][0]]
    for source, message in (
        ({}, f"task.transfer.format: {path} is plain text, and these rows need columns"),
        ({"format": "text"}, "task.transfer.format: text is not for a task of this kind"),
    ):
        with pytest.raises(ConfigError) as caught:
            opened(tmp_path, kind, train, train, {"files": [str(path)]} | source, **pair)
        assert caught.value.message == message
        assert "text" not in caught.value.hint
        assert "conll" not in caught.value.hint
        assert ("squad" in caught.value.hint) == (kind == "question-answering")


def test_parquet_needs_no_column_of_labels(tmp_path: Path) -> None:
    train, dev, others = ROWS["classification"]
    path = tmp_path / "rows.parquet"
    path.write_bytes(parquet(others))
    task = opened(tmp_path, "classification", train, dev, path)
    rows = opened(tmp_path, "classification", train, dev, others)
    assert task.train.content_digest() == rows.train.content_digest()


@pytest.mark.parametrize(
    ("name", "text", "source"),
    [
        ("rows.conll", "da\nde\ndi\n\ndu\n", {}),
        ("rows.tsv", "da\tX\nde\tX\ndi\tX\n\ndu\tX\n", {}),
        ("rows.txt", "da\nde\ndi\n\ndu\n", {"format": "conll"}),
        (
            "rows.conllu",
            "# a = b\n1\tda\n2\tde\n3\tdi\n\n1\tdu\n",
            {"columns": ["id", "tokens"]},
        ),
    ],
)
def test_conll_columns_need_no_tags(
    tmp_path: Path, name: str, text: str, source: dict[str, Any]
) -> None:
    task = plain(tmp_path, "tagging", name, text, **source)
    rows = opened(tmp_path, "tagging", *ROWS["tagging"])
    assert task.train.content_digest() == rows.train.content_digest()


@pytest.mark.parametrize("text", ["da\tX\nde\tX\n", "da\nde\n\ndu\n", "da X\nde X\n\ndu X\n"])
def test_columns_are_not_taken_for_sentences(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plain(tmp_path, "tagging", "rows.txt", text)
    assert "rows.txt looks like columns of CoNLL, a word a line" in caught.value.message
    task = plain(tmp_path, "tagging", "rows.txt", text, format="text")
    assert task.unlabelled is not None
    assert task.unlabelled.examples == (0, sum(bool(line) for line in text.splitlines()))


def test_squad_files_need_no_answers(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    questions = [{"id": "q", "question": "da"}, question(question="du", is_impossible=True)]
    path.write_bytes(squad_file(*questions))
    train, dev, _ = ROWS["question-answering"]
    task = opened(tmp_path, "question-answering", train, dev, path)
    assert task.unlabelled is not None
    assert task.unlabelled.examples == (0, 2)
    assert has_no_label(task.sources()["transfer"].targets)


@pytest.mark.parametrize("kind", ROWS)
def test_bad_rows_of_transfer_are_named_or_counted(tmp_path: Path, kind: str) -> None:
    train, dev, others = ROWS[kind]
    shown = next(iter(others[0]))
    rows = [*others, {shown: None, "context": "ba"}, {"other": "ba"}]
    with pytest.raises(DataError) as caught:
        opened(tmp_path, kind, train, dev, rows)
    reasons = said(caught.value).splitlines()
    assert reasons[0] == f"{tmp_path / 'transfer.jsonl'}: 2 bad rows"
    assert f"line 4: no column {shown!r}; there are: other" in reasons[2]
    task = opened(tmp_path, kind, train, dev, rows, skip_bad_rows=True)
    assert (task.skipped.train, task.skipped.transfer, task.skipped.dev) == (0, 2, 0)


def test_a_transfer_of_no_rows_is_refused(tmp_path: Path) -> None:
    train, dev, _ = ROWS["classification"]
    with pytest.raises(DataError) as caught:
        opened(tmp_path, "classification", train, dev, [])
    assert caught.value.message == f"{tmp_path / 'transfer.jsonl'}: there are no rows"


def test_glue_has_the_columns_of_its_files(tmp_path: Path) -> None:
    for split in ("train", "dev"):
        text = "sentence\tlabel\nba\t0\nbe\t1\n" if split == "train" else "sentence\tlabel\nbo\t1\n"
        (tmp_path / f"{split}.tsv").write_text(text, encoding="utf-8")
    (tmp_path / "test.tsv").write_text("index\tsentence\n0\tda\n1\tde\n", encoding="utf-8")
    (tmp_path / "more.txt").write_text("da\nde\n", encoding="utf-8")
    section = {"kind": "glue", "name": "SST-2", "folder": str(tmp_path)}
    found = []
    for name in ("test.tsv", "more.txt"):
        tree = section | {"transfer": {"files": [str(tmp_path / name)], "weight": 3}}
        task = TypeAdapter(Task).validate_python(tree)
        opened_task = open_task(task, TextTokenizer(pair_tokenizer()), None, True)
        assert opened_task.unlabelled is not None
        assert opened_task.unlabelled.examples == (0, 2)
        found.append(opened_task.train.content_digest())
    assert found[0] == found[1]


# Rows of task.train that have no label

NOTHING: dict[str, list[Any]] = {
    "classification": [None, NAN, "", "  ", -100, -100.0, "-100"],
    "multi-label": [None, NAN, -100, [-100, -100], [None], "-100"],
    "regression": [None, NAN, "", " ", "nan"],
    "reranking": [None, NAN, [None, ""], [NAN, NAN], ""],
    "tagging": [None, NAN, [], "", [None, ""], [-100, "-100"], [None, -100]],
    "question-answering": [None, NAN, [], {"text": [], "answer_start": []}],
}
ONE = [(kind, value) for kind, values in NOTHING.items() for value in values]


@pytest.mark.parametrize(("kind", "value"), ONE)
def test_beside_a_teacher_a_row_may_have_no_label(tmp_path: Path, kind: str, value: Any) -> None:
    train, dev, _ = ROWS[kind]
    label = LABEL.get(kind, "label")
    shown = {key: x for key, x in train[0].items() if key != label}
    rows = [shown | {label: value}, *train]
    task = opened(tmp_path, kind, rows, dev)
    with_it = opened(tmp_path, kind, train, dev, [shown])
    assert task.train.content_digest() == with_it.train.content_digest()
    assert task.unlabelled is not None
    assert (task.num_examples, task.unlabelled.examples) == ((2, 1), (1, 0))
    assert list(task.sources()) == ["train", "dev"]
    assert np.isfinite(task.constant_outputs()).all()


@pytest.mark.parametrize(("kind", "value"), ONE)
def test_without_a_teacher_and_in_dev_it_is_a_bad_row(
    tmp_path: Path, kind: str, value: Any
) -> None:
    train, dev, _ = ROWS[kind]
    label = LABEL.get(kind, "label")
    with pytest.raises(DataError) as caught:
        opened(tmp_path, kind, [*train, train[0] | {label: value}], dev, taught=False)
    assert said(caught.value).startswith(f"{tmp_path / 'train.jsonl'}: 1 bad row")
    with pytest.raises(DataError) as caught:
        opened(tmp_path, kind, train, [*dev, train[0] | {label: value}])
    assert said(caught.value).startswith(f"{tmp_path / 'dev.jsonl'}: 1 bad row")


def test_words_are_passed_over_or_left_to_the_teacher(tmp_path: Path) -> None:
    rows = [{"tokens": ["ba", "be", "bi"], "tags": [-100, None, "x"]}, *ROWS["tagging"][0]]
    task = opened(tmp_path, "tagging", rows, ROWS["tagging"][1])
    first = part_of(task.train, 0, 1)
    assert first.output_positions.tolist() == [2, 3]
    assert first.targets.tolist() == [IGNORE_INDEX, 0]
    assert task.unlabelled is None  # the sentence has a tag
    assert task.num_examples == (3, 1)
    assert task.notes == [
        "words of task.train without a tag beside others with one: 1; the teacher alone tags them"
    ]


@pytest.mark.parametrize("kind", ["classification", "multi-label", "tagging", "reranking"])
def test_a_part_of_a_label_is_no_missing_label(tmp_path: Path, kind: str) -> None:
    wrong: dict[str, Any] = {
        "classification": ["x"],
        "multi-label": ["x", None],
        "tagging": ["x"],
        "reranking": [],
    }
    train, dev, _ = ROWS[kind]
    rows = [*train, train[0] | {LABEL.get(kind, "label"): wrong[kind]}]
    with pytest.raises(DataError) as caught:
        opened(tmp_path, kind, rows, dev)
    assert "1 bad row" in caught.value.message


def test_a_candidate_may_lack_its_label(tmp_path: Path) -> None:
    rows = [
        {"query": "ba", "document": "be", "label": 1},
        {"query": "bo", "document": ["ba", "be"], "label": [None, 3]},
        {"query": "bi", "document": "be", "label": None},
        {"query": "ba", "document": "bi", "label": None},
    ]
    task = opened(tmp_path, "reranking", rows, ROWS["reranking"][1])
    assert task.unlabelled is not None
    assert (task.num_examples, task.unlabelled.examples) == ((2, 1), (1, 0))
    assert task.train.group_offsets is not None
    assert task.train.group_offsets.tolist() == [0, 2, 4, 5]
    np.testing.assert_array_equal(task.train.targets, [1, NAN, NAN, 3, NAN])
    assert task.train.labelled().tolist() == [True, True, False]
    assert task.notes[-1] == (
        "documents of task.train without a label beside others with one: 2, of 2 queries; "
        "loss.labels leaves them out"
    )


def test_no_class_is_a_label_where_there_may_be_several(tmp_path: Path) -> None:
    rows = [{"text": "ba", "labels": x} for x in (["x", "y"], [], "", None)]
    task = opened(tmp_path, "multi-label", rows, ROWS["multi-label"][1])
    assert task.train.targets[:3].tolist() == [[1, 1], [0, 0], [0, 0]]
    assert task.train.labelled().tolist() == [True, True, True, False]


# Which classes there are


def test_classes_that_no_label_shows_are_the_teachers(tmp_path: Path) -> None:
    train, dev, others = ROWS["classification"]
    task = opened(tmp_path, "classification", train, dev, others, teacher=["z", "Y", "x"])
    assert task.labels == ["z", "Y", "x"]
    assert task.train.targets.tolist() == [2, 1, IGNORE_INDEX, IGNORE_INDEX]
    with pytest.raises(ModelError):  # as ever where all rows have a label
        opened(tmp_path, "classification", train, dev, teacher=["z", "Y", "x"])
    with pytest.raises(ModelError):  # a class that the teacher does not know
        opened(tmp_path, "classification", train, dev, others, teacher=["z", "x"])


@pytest.mark.parametrize("kind", ["classification", "multi-label", "tagging"])
@pytest.mark.parametrize("teacher", [None, ["LABEL_0", "LABEL_1"]])
def test_classes_that_nobody_names_are_asked_for(
    tmp_path: Path, kind: str, teacher: list[str] | None
) -> None:
    _, dev, others = ROWS[kind]
    with pytest.raises(ConfigError) as caught:
        opened(tmp_path, kind, None, dev, others, teacher=teacher)
    assert caught.value.message == (
        "task.labels: no row to train on has a label, and the teacher does not name its classes"
    )
    assert "task.labels=" in caught.value.hint
    labels = ["x", "y"]
    assert opened(tmp_path, kind, None, dev, others, teacher=teacher, labels=labels).labels == [
        "x",
        "y",
    ]


def test_dev_rows_show_that_labels_are_a_value_for_each_class(tmp_path: Path) -> None:
    dev = [{"text": "bo", "labels": [1, 0, 1]}, {"text": "bu", "labels": [0, 0, 1]}]
    others = ROWS["multi-label"][2]
    task = opened(tmp_path, "multi-label", None, dev, others, teacher=["a", "b", "c"])
    assert (task.labels, task.dev.targets.tolist()) == (["a", "b", "c"], [[1, 0, 1], [0, 0, 1]])


# Overlap


@pytest.mark.parametrize("kind", ROWS)
def test_transfer_that_is_measured_on_is_warned_of_and_not_refused(
    tmp_path: Path, kind: str
) -> None:
    train, dev, _ = ROWS[kind]
    shown = [{k: x for k, x in row.items() if k != LABEL.get(kind, "label")} for row in dev]
    task = opened(tmp_path, kind, train, dev, shown)
    assert [warning for warning in task.warnings if "task.dev" in warning] == [
        "1 of the 1 rows of task.dev (100.0%) are in task.transfer, too: "
        "scores on them say nothing of new text"
    ]
    task.overlap.refuse_same()
    without = [*train, dev[0] | {LABEL.get(kind, "label"): None}]
    task = opened(tmp_path, kind, without, dev)
    assert "are in task.train, too" in task.warnings[0]


# Inputs one after another


@pytest.mark.parametrize("kind", ROWS)
def test_parts_of_inputs_are_put_together_again(tmp_path: Path, kind: str) -> None:
    inputs = opened(tmp_path, kind, *ROWS[kind]).train
    bounds = range(len(inputs) + 1) if inputs.group_offsets is None else inputs.group_offsets
    for cut in bounds:
        parts = [part_of(inputs, 0, cut), part_of(inputs, cut, len(inputs))]
        assert [len(part) for part in parts] == [cut, len(inputs) - cut]
        again = end_to_end(parts)
        assert again.content_digest() == inputs.content_digest()
        assert digest_of_shown(again.shown) == digest_of_shown(inputs.shown)
        for part in parts:
            assert part.offsets[0] == part.output_offsets[0] == 0


def test_cut_texts_are_counted_where_they_are(tmp_path: Path) -> None:
    train, dev, _ = ROWS["classification"]
    long = [{"text": " ".join(["da"] * 20)}]
    task = opened(tmp_path, "classification", train, dev, long, max_length=8)
    assert task.unlabelled is not None
    assert (task.cuts[0].inputs, task.unlabelled.cut.inputs, task.unlabelled.cut.tokens) == (
        *(0, 1),
        14,
    )
    [warning] = task.warnings
    assert warning.startswith("task.transfer: task.max_length 8 cuts 63.6% of the tokens")


def test_a_hub_folder_says_minus_one_for_no_label(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["x", "y"])}
    )
    rows = {"text": ["ba", "be", "bi"], "label": [0, -1, 1]}
    folder = tmp_path / "hub"
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(folder))
    source = {"hub": str(folder), "split": "train"}
    task = opened(tmp_path, "classification", source, ROWS["classification"][1], source)
    assert task.labels == ["x", "y"]
    assert task.train.targets.tolist() == [0, 1, *[IGNORE_INDEX] * 4]
