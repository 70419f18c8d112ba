"""What `eval` says of classes beside scores: flips and calibration, in the table and the record."""

from typing import Any

import numpy as np
import pytest
from task_rows import labelled_rows, open_rows
from tiny_tasks import pair_tokenizer
from torch import nn

from distilcli.evaluation import task as task_evaluation
from distilcli.evaluation.asked import Asked
from distilcli.evaluation.result import Result

# Right is a, b, b, a, in this order.
_TEACHER = np.log([[0.8, 0.2], [0.4, 0.6], [0.8, 0.2], [0.8, 0.2]]).astype(np.float32)
_STUDENT = np.log([[0.7, 0.3], [0.7, 0.3], [0.3, 0.7], [0.7, 0.3]]).astype(np.float32)


@pytest.fixture
def compared(tmp_path, monkeypatch):
    def compare(kind: str, labels: list[Any], outputs: dict[str, np.ndarray]) -> Result:
        rows = labelled_rows(labels)
        task = open_rows(tmp_path, pair_tokenizer(), kind, rows, rows)
        monkeypatch.setattr(
            task_evaluation, "measured_outputs", lambda task, model, *_: outputs[model.name]
        )
        models: dict[str, Any] = {name: nn.Linear(2, 3) for name in outputs}
        for name, model in models.items():
            model.name = name
        paths = dict.fromkeys(models, "somewhere")
        return task_evaluation.compare_on_task(
            models, paths, task, Asked(), 100, None, lambda _: None
        )

    return compare


def rows_of(result: Result) -> dict[str, list[str]]:
    return {name: cells for name, *cells in result.table.rows}


def test_flips_and_calibration_stand_beside_the_scores(compared):
    outputs = {"teacher": _TEACHER, "own": _STUDENT}
    result = compared("classification", ["a", "b", "b", "a"], outputs)
    models = result.record["models"]
    assert models["teacher"]["scores"]["accuracy"] == models["own"]["scores"]["accuracy"] == 3 / 4
    assert (models["own"]["agreement"], models["own"]["flips"]) == (1 / 2, 1 / 2)
    assert models["own"]["right_to_wrong"] == 1 / 4
    # All 0.7, of which 3 of 4 are right; 0.6, which is right, and 0.8, of which 2 of 3 are.
    assert models["own"]["ece"] == pytest.approx(0.05, abs=1e-6)
    assert models["teacher"]["ece"] == pytest.approx((0.4 + 3 * (0.8 - 2 / 3)) / 4, abs=1e-6)
    table = rows_of(result)
    assert table["flips"] == ["0.0 %", "50.0 %"]
    assert table["right to wrong"] == ["0.0 %", "25.0 %"]
    assert table["ECE"] == ["20.0 %", "5.0 %"]
    assert any(line.startswith("flips: ") for line in result.lines)


def test_without_a_teacher_there_is_calibration_alone(compared):
    result = compared("classification", ["a", "b", "b", "a"], {"own": _STUDENT})
    assert result.record["models"]["own"]["flips"] is None
    table = rows_of(result)
    assert (table["flips"], table["right to wrong"], table["ECE"]) == (["-"], ["-"], ["5.0 %"])
    assert not any(line.startswith("flips: ") for line in result.lines)


def test_numbers_do_not_flip(compared):
    outputs = {"teacher": np.array([[0.0], [1.0], [2.0]]), "own": np.array([[0.0], [2.0], [1.0]])}
    result = compared("regression", [0.5, 1.5, 1.0], outputs)
    assert not {"flips", "right_to_wrong", "ece"} & result.record["models"]["own"].keys()
    assert not {"flips", "right to wrong", "ECE"} & rows_of(result).keys()
    assert not any(line.startswith("flips: ") for line in result.lines)
