"""Rows of queries and documents: what becomes candidates, what is scored, what is refused."""

import numpy as np
import pytest
from pydantic import TypeAdapter
from row_files import comma, jsonl, parquet, section, write
from task_reading import opened
from tiny_tasks import pair_tokenizer

from distilcli.config.experiment import TaskExperiment
from distilcli.config.tasks import Task
from distilcli.errors import DataError
from distilcli.tasks.inputs import pack_samples
from distilcli.tasks.open import open_task
from distilcli.text.tokenizers import TextTokenizer

TOKENIZER = pair_tokenizer()
NESTED = [
    {"query": "ba be", "documents": ["bi", "bo bu", "da"], "labels": [1, 0, 2]},
    {"query": "ga", "documents": ["ge", "gi"], "labels": [0, 1]},
]
DEV = [
    {"query": "ka", "documents": ["ke", "ki ko"], "labels": [0, 1]},
    {"query": "ko", "documents": ["ke", "ki", "ka"], "labels": [1, 0, 0]},
]


def flat(rows, **more):
    return [
        {"query": row["query"], "document": document, "label": label} | more
        for row in rows
        for document, label in zip(row["documents"], row["labels"], strict=True)
    ]


def open_nested(folder, train, dev, **settings):
    files = [write(folder / f"{n}.jsonl", jsonl(rows)) for n, rows in enumerate((train, dev))]
    return open_files(files, document="documents", label="labels", **settings)


def open_flat(folder, train, dev, written=jsonl, ending="jsonl", **settings):
    files = [write(folder / f"{n}.{ending}", written(rows)) for n, rows in enumerate((train, dev))]
    return open_files(files, **settings)


def open_files(files, **settings):
    return opened(section("reranking", *files, **settings), TOKENIZER)


def refused(open_rows, *arguments, **settings) -> DataError:
    with pytest.raises(DataError) as caught:
        open_rows(*arguments, **settings)
    assert caught.value.exit_code == 2
    return caught.value


def test_a_query_with_its_candidates_is_one_sample(tmp_path):
    task = open_nested(tmp_path, NESTED, DEV)
    assert task.num_examples == (2, 2)
    assert task.train.group_offsets.tolist() == [0, 3, 5]
    assert task.train.targets.tolist() == [1, 0, 2, 0, 1]
    assert task.train.sample_lengths.tolist() == [6 + 7 + 6, 5 + 5]
    first = TOKENIZER("ba be", "bo bu")
    begin, end = task.train.offsets[1:3]
    assert task.train.token_ids[begin:end].tolist() == first["input_ids"]
    assert task.train.token_types[begin:end].tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert (task.labels, task.head, task.warnings) == (["LABEL_0"], "sequence", [])
    assert task.notes == [
        "candidates of a train query: 2 to 3, 2.5 on average",
        "candidates of a dev query: 2 to 3, 2.5 on average",
    ]


@pytest.mark.parametrize(
    ("written", "ending"), [(jsonl, "jsonl"), (comma, "csv"), (parquet, "parquet")]
)
def test_a_row_for_each_document_gives_the_same(tmp_path, written, ending):
    expected = open_nested(tmp_path, NESTED, DEV)
    train, dev = flat(NESTED), flat(DEV)
    mixed = [train[3], *train[:3], train[4]]  # rows of one query need not be neighbours
    found = open_flat(tmp_path, mixed, dev, written, ending)
    assert found.dev.content_digest() == expected.dev.content_digest()
    assert found.train.group_offsets.tolist() == [0, 2, 5]
    assert found.train.targets.tolist() == [0, 1, 1, 0, 2]


def test_rows_are_of_one_query_by_its_id(tmp_path):
    rows = [*flat(NESTED[:1], id=7), *flat(NESTED[:1], id="8")]
    assert open_flat(tmp_path, rows, flat(DEV)).train.group_offsets.tolist() == [0, 6]
    task = open_flat(tmp_path, rows, flat(DEV, id=1)[2:], query_id="id")
    assert task.train.group_offsets.tolist() == [0, 3, 6]
    error = refused(open_flat, tmp_path, rows, flat(DEV, id=1), query_id="id")
    assert error.message.split("\n  ")[1:] == [
        f"{tmp_path}/1.jsonl line {line}: query 1 has another text in a row before"
        for line in (3, 4, 5)
    ]


def test_another_cut_into_queries_is_another_content(tmp_path):
    rows = [*flat(NESTED[:1], id=7), *flat(NESTED[:1], id=8)]
    dev = flat(DEV[:1], id=1)
    together = open_flat(tmp_path, rows, dev).train
    apart = open_flat(tmp_path, rows, dev, query_id="id").train
    assert together.fingerprint() == apart.fingerprint()  # a teacher is shown the same
    assert together.content_digest() != apart.content_digest()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"query": " "}, "no text in query"),
        ({"document": ""}, "no text in document"),
        ({"document": 3}, "no text in document"),
        ({"label": None}, "no label"),
        ({"label": float("nan")}, "no label"),
        ({"label": "much"}, "label 'much' is no number"),
        ({"label": float("inf")}, "label inf is not finite"),
        ({"label": -1}, "label -1 is below 0; 0 is a document that is not relevant"),
        ({"label": [1]}, "label [1] is no number"),
        ({"document": []}, "no documents in document"),
        ({"document": ["ba", ""], "label": [1, 0]}, "no text in document"),
        ({"document": ["ba", "be"], "label": [1]}, "2 documents in document, but in label 1 of"),
        ({"document": ["ba", "be"], "label": []}, "2 documents in document, but in label 0 of"),
        ({"document": ["ba", "be"], "label": 1}, "2 documents in document, but in label no list"),
        ({"document": ["ba", "be"], "label": [1, None]}, "no label"),
    ],
)
def test_bad_rows_are_named_or_left_out(tmp_path, changes, reason):
    rows = [*flat(NESTED), flat(NESTED)[0] | changes]
    [_, detail] = refused(open_flat, tmp_path, rows, flat(DEV)).message.split("\n  ")
    assert detail.startswith(f"{tmp_path}/0.jsonl line 6: {reason}")
    task = open_flat(tmp_path, rows, flat(DEV), skip_bad_rows=True)
    assert (task.skipped.train, task.train.group_offsets.tolist()) == (1, [0, 3, 5])


def test_labels_may_be_true_and_false_or_graded(tmp_path):
    rows = [{"query": "ba", "documents": ["be", "bi", "bo"], "labels": [True, "0.5", False]}]
    assert open_nested(tmp_path, rows, DEV).train.targets.tolist() == [1, 0.5, 0]


def test_scores_are_means_over_queries(tmp_path):
    task = open_nested(tmp_path, NESTED, DEV)
    outputs = np.array([[0.0], [1.0], [0.0], [2.0], [1.0]])  # ranks 1 and 3
    found = task.scores(outputs)
    assert found == pytest.approx({"ndcg@10": (1 + 1 / 2) / 2, "mrr@10": (1 + 1 / 3) / 2})
    assert list(task.ordered_scores(outputs)) == ["ndcg@10", "mrr@10"]
    assert task.decisions(outputs) is None


def test_knowing_nothing_is_a_random_order(tmp_path):
    """The relevant one of 2 is first or second, that of 3 at each of three ranks."""
    task = open_nested(tmp_path, NESTED, DEV)
    two, three = 1 / np.log2(3), 1 / 2
    expected = {
        "ndcg@10": ((1 + two) / 2 + (1 + two + three) / 3) / 2,
        "mrr@10": (3 / 4 + (1 + 1 / 2 + 1 / 3) / 3) / 2,
    }
    assert task.constant_scores() == pytest.approx(expected)
    tied = task.scores(task.constant_outputs())  # nobody gains by giving all the same
    assert tied == pytest.approx({"ndcg@10": (two + three) / 2, "mrr@10": (1 / 2 + 1 / 3) / 2})


def test_agreement_is_of_the_orders_of_each_query(tmp_path):
    task = open_nested(tmp_path, NESTED, [*DEV, DEV[0] | {"documents": ["ka"], "labels": [1]}])
    one = np.array([[0.0], [1.0], [3.0], [2.0], [1.0], [9.0]])
    assert task.agreement(one, one * 5 + 2) == 1  # the lone candidate has no order
    other = np.array([[1.0], [0.0], [3.0], [1.0], [2.0], [9.0]])
    assert task.agreement(one, other) == pytest.approx((-1 + 1 / 3) / 2)


def test_dev_queries_without_a_relevant_document_are_left_out_and_told(tmp_path):
    none = {"query": "du", "documents": ["de", "di"], "labels": [0, 0]}
    task = open_nested(tmp_path, NESTED, [none, *DEV])
    assert task.warnings == [
        "task.dev: 1 of 3 queries have no relevant document (a label above 0) and are left out of "
        "the scores"
    ]
    outputs = np.array([[5.0], [4.0], [0.0], [1.0], [0.0], [2.0], [1.0]])
    assert task.scores(outputs)["ndcg@10"] == pytest.approx((1 + 1 / 2) / 2)
    error = refused(open_nested, tmp_path, NESTED, [none])
    assert error.message == (
        f"{tmp_path}/1.jsonl: no query has a relevant document, with a label above 0"
    )


def test_queries_that_say_nothing_of_an_order_are_told(tmp_path):
    alone = {"query": "du", "documents": ["de"], "labels": [1]}
    all_alike = {"query": "du", "documents": ["de", "di"], "labels": [1, 1]}
    assert open_nested(tmp_path, [*NESTED, alone], [*DEV, all_alike]).warnings == [
        "1 of the 3 queries of task.dev are in task.train, too, with other documents or with the "
        "same ones",
        "task.train: 1 of 3 queries have one candidate alone, which no loss on an order learns "
        "from",
        "task.dev: 1 of 3 queries have candidates of one label alone: every order of them has the "
        "score 1",
    ]


@pytest.mark.parametrize(
    ("labels", "silent"),
    [([0, 0], 1), ([None, 0], 1), ([1, None], 1), ([1, 0], 0), ([1, 1], 0), ([None, None], 0)],
)
def test_queries_whose_labels_compare_nothing_are_told(tmp_path, labels, silent):
    """Those without any label are counted as such."""
    rows = [*NESTED, {"query": "du", "documents": ["de", "di"], "labels": labels}]
    files = [write(tmp_path / f"{n}.jsonl", jsonl(part)) for n, part in enumerate((rows, DEV))]
    tree = section("reranking", *files, document="documents", label="labels")
    config = TypeAdapter(Task).validate_python(tree)
    task = open_task(config, TextTokenizer(TOKENIZER), None, True)
    expected = (
        "task.train: 1 of 3 queries with labels have no relevant document (a label above 0) beside "
        "another one with a label: loss.labels learns nothing from them"
    )
    assert task.warnings == [expected] * silent


def test_the_same_queries_in_both_splits_are_refused(tmp_path):
    task = open_nested(tmp_path, DEV, [DEV[1], DEV[0] | {"documents": ["ki ko", "ke"]}])
    with pytest.raises(DataError, match="the same rows as task"):
        task.overlap.refuse_same()
    assert not open_nested(tmp_path, DEV, [DEV[1]]).overlap.are_same


def test_a_packed_query_has_all_its_candidates(tmp_path):
    task = open_nested(tmp_path, NESTED, DEV)
    batch = pack_samples(task.train, [1, 0])
    assert batch.sample_ids == (3, 4, 0, 1, 2)
    assert batch.targets.tolist() == [0, 1, 1, 0, 2]
    assert batch.candidates.sizes == (2, 3)
    counts = task.outputs.counts(batch)
    assert (counts.tokens, counts.compared) == (batch.num_tokens, 5)
    assert (counts.labelled, counts.lists, counts.pairs) == (2, 2, 1 + 3)


def test_losses_on_rankings_are_refused_for_other_tasks():
    tree = {
        "name": "n",
        "task": {"kind": "regression", "train": {"files": "t"}, "dev": {"files": "d"}},
        "teacher": {"model": "t"},
        "student": {"num_layers": 1},
    }
    for name in ("margin_mse", "listwise"):
        with pytest.raises(ValueError, match=f"loss.{name} compares the candidates of a query"):
            TaskExperiment.model_validate(tree | {"loss": {name: {"weight": 1}}})
    rankings = tree | {"task": tree["task"] | {"kind": "reranking"}}
    with pytest.raises(ValueError, match=r"loss\.reverse_kl compares distributions"):
        TaskExperiment.model_validate(rankings | {"loss": {"reverse_kl": {"weight": 1}}})
    several = {"model": "t", "others": [{"model": "u"}]}
    loss = {"soft_targets": {"weight": 0}, "margin_mse": {"weight": 1}}
    TaskExperiment.model_validate(rankings | {"teacher": several, "loss": loss})


# Without labels


def open_taught(folder, train, dev, transfer=None, **settings):
    """The task of a teacher, which may label what has no label."""
    rows = {"0": train, "1": dev, "2": transfer}
    files = {
        name: write(folder / f"{name}.jsonl", jsonl(part)) for name, part in rows.items() if part
    }
    tree = section("reranking", files["0"], files["1"], **settings)
    if transfer:
        tree["transfer"] = {"files": [str(files["2"])]}
    return open_task(TypeAdapter(Task).validate_python(tree), TextTokenizer(TOKENIZER), None, True)


def test_candidates_without_a_label_are_so_and_queries_stay_whole(tmp_path):
    rows = [*flat(NESTED), {"query": "ba be", "document": "du", "label": None}]
    rows += [{"query": "go", "document": text, "label": None} for text in ("ge", "gi")]
    task = open_taught(tmp_path, rows, flat(DEV))
    assert task.train.group_offsets.tolist() == [0, 4, 6, 8]
    assert [int(x) for x in np.isnan(task.train.targets)] == [0, 0, 0, 1, 0, 0, 1, 1]
    assert task.train.labelled().tolist() == [True, True, False]
    assert (task.num_examples, task.unlabelled.examples) == ((2, 2), (1, 0))
    error = refused(open_flat, tmp_path, rows, flat(DEV))
    assert "3 bad rows" in error.message
    bad_dev = [*flat(DEV), {"query": "ka", "document": "du", "label": None}]
    assert "1 bad row" in refused(open_taught, tmp_path, rows, bad_dev).message


def test_lists_of_documents_may_lack_their_labels(tmp_path):
    rows = [NESTED[0], NESTED[1] | {"labels": None}, NESTED[1] | {"labels": [None, 2]}]
    task = open_taught(tmp_path, rows, DEV, document="documents", label="labels")
    assert task.train.labelled().tolist() == [True, True, False]
    assert [int(x) for x in np.isnan(task.train.targets)] == [0, 0, 0, 1, 0, 1, 1]


def test_queries_to_transfer_are_whole_and_come_last(tmp_path):
    transfer = [
        {"query": query, "document": text} for text in ("ge", "gi") for query in ("go", "gu")
    ]
    task = open_taught(tmp_path, flat(NESTED), flat(DEV), transfer)
    assert task.train.group_offsets.tolist() == [0, 3, 5, 7, 9]
    assert (task.unlabelled.examples, task.unlabelled.inputs) == ((0, 2), (0, 4))
    sources = task.sources()
    assert sources["train"].group_offsets.tolist() == [0, 3, 5]
    assert sources["transfer"].group_offsets.tolist() == [0, 2, 4]
    assert (
        sources["train"].content_digest()
        == open_flat(tmp_path, flat(NESTED), flat(DEV)).train.content_digest()
    )


# Scores of a teacher in the rows


SCORES = [[2.5, -1, 0.0], [3, 4.5]]


def with_scores(rows):
    return [row | {"score": scores} for row, scores in zip(rows, SCORES, strict=True)]


def flat_scores(rows):
    scores = [score for row in SCORES for score in row]
    return [row | {"score": score} for row, score in zip(flat(rows), scores, strict=True)]


BROUGHT = {"teacher_outputs": {"column": "score"}}


@pytest.mark.parametrize("written", [jsonl, comma])
def test_scores_may_stand_in_a_column(tmp_path, written):
    ending = "csv" if written is comma else "jsonl"
    nested = open_nested(tmp_path, with_scores(NESTED), DEV, **BROUGHT)
    rows = flat_scores(NESTED)
    expected = open_flat(tmp_path, rows, flat(DEV), written, ending, **BROUGHT)
    for task in (nested, expected):
        assert task.train.teacher_outputs.tolist() == [[2.5], [-1], [0], [3], [4.5]]
        assert task.train.teacher_outputs.dtype == np.float32
        assert task.dev.teacher_outputs is None
    changed = open_nested(tmp_path, [with_scores(NESTED)[0], NESTED[1] | {"score": [3, 4]}], DEV)
    assert changed.train.teacher_outputs is None  # nobody asks for them
    mixed = [rows[3], *rows[:3], rows[4]]
    found = open_flat(tmp_path, mixed, flat(DEV), written, ending, **BROUGHT)
    assert found.train.teacher_outputs.tolist() == [[3], [4.5], [2.5], [-1], [0]]


def test_a_teacher_in_the_dev_rows_can_be_measured(tmp_path):
    dev = [row | {"score": list(range(len(row["labels"])))} for row in DEV]
    task = open_nested(tmp_path, with_scores(NESTED), dev, **BROUGHT)
    assert task.scores(task.dev.teacher_outputs)["mrr@10"] == pytest.approx((1 + 1 / 3) / 2)


@pytest.mark.parametrize(
    ("score", "reason"),
    [
        ([1.0, 2.0], "3 documents, but outputs for 2"),
        (1.0, "3 documents, but outputs for 1"),
        ([1.0, None, 2.0], "an output is missing"),
        ([1.0, float("nan"), 2.0], "an output is NaN"),
        ([1.0, float("inf"), 2.0], "output inf is not finite"),
        (["a", 1, 2], "output 'a' is no number"),
        ([], "output [] is no number"),
        (None, "no outputs of the teacher"),
    ],
)
def test_bad_scores_are_named(tmp_path, score, reason):
    rows = [NESTED[0] | {"score": score}, with_scores(NESTED)[1]]
    [_, detail] = refused(open_nested, tmp_path, rows, DEV, **BROUGHT).message.split("\n  ")
    assert detail == f"{tmp_path}/0.jsonl line 1: {reason}"
