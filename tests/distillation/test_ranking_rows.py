"""Losses on rankings that the rows to train on have nothing for are refused before a run."""

from typing import Any

import pytest
from row_files import jsonl, write
from tiny_experiments import bert
from tiny_tasks import pair_tokenizer

from distilcli.config.experiment import TaskExperiment
from distilcli.distillation.task_parts import open_task_of
from distilcli.distillation.task_rows import rows_of
from distilcli.errors import ConfigError

ALONE = [{"query": query, "document": "be", "label": 1} for query in ("ba", "bi")]
NOT_RELEVANT = [{"query": "ba", "document": ["be", "bi"], "label": [0, 0]}]
HALF_LABELLED = [{"query": "ba", "document": ["be", "bi"], "label": [1, None]}]
DEV = [{"query": "ga", "document": ["ge", "gi"], "label": [1, 0]}]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("bert")
    model = bert()
    model.config.num_labels = 1
    model.save_pretrained(folder)
    pair_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def experiment(model, tmp_path):
    def make(rows: list[dict[str, Any]], **weights: float) -> TaskExperiment:
        none = {"soft_targets": 0.0, "labels": 0.0}
        files = [
            str(write(tmp_path / f"{n}.jsonl", jsonl(one))) for n, one in enumerate((rows, DEV))
        ]
        return TaskExperiment.model_validate(
            {
                "name": "x",
                "task": {
                    "kind": "reranking",
                    "train": {"files": files[0]},
                    "dev": {"files": files[1]},
                },
                "teacher": {"model": model},
                "student": {"num_layers": 1},
                "loss": {name: {"weight": weight} for name, weight in (none | weights).items()},
            }
        )

    return make


@pytest.mark.parametrize(
    ("rows", "name", "why"),
    [
        (ALONE, "labels", "has two candidates or more"),
        (ALONE, "margin_mse", "has two candidates or more"),
        (ALONE, "listwise", "has two candidates or more"),
        (NOT_RELEVANT, "labels", "has a relevant document (a label above 0) beside another one"),
        (HALF_LABELLED, "labels", "has a relevant document (a label above 0) beside another one"),
    ],
)
def test_a_loss_that_nothing_is_compared_by_is_refused(experiment, rows, name, why):
    with pytest.raises(ConfigError) as caught:
        open_task_of(experiment(rows, **{name: 1.0, "soft_targets": 1.0}))
    assert caught.value.exit_code == 2
    start = f"loss.{name}.weight is above 0, and no query to train on {why}"
    assert caught.value.message.startswith(start)
    assert f"loss.{name}.weight=0" in caught.value.hint


def test_prepare_says_what_outputs_are_and_which_documents_have_no_label(experiment):
    some = [*HALF_LABELLED, *NOT_RELEVANT, DEV[0] | {"query": "la"}]
    taught = experiment(some, labels=1.0, soft_targets=1.0)
    found = rows_of(open_task_of(taught), "task of x")
    assert found.lines[0] == "outputs: a score of each candidate"
    said = (
        "documents of task.train without a label beside others with one: 1, of 1 queries; "
        "loss.labels leaves them out"
    )
    assert said in found.lines
    assert said in found.record["notes"]
    assert any("2 of 3 queries with labels have no relevant" in one for one in found.warnings)


@pytest.mark.parametrize(
    ("rows", "name"),
    [
        (ALONE, "soft_targets"),
        (NOT_RELEVANT, "margin_mse"),
        (NOT_RELEVANT, "listwise"),
        ([*NOT_RELEVANT, DEV[0] | {"query": "la"}], "labels"),
    ],
)
def test_a_loss_that_has_something_to_say_is_not(experiment, rows, name):
    assert open_task_of(experiment(rows, **{name: 1.0})).train.group_offsets is not None
