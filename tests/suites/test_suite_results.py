"""What the scores of a suite come to: medians, ranges, what is retained, and the table of them."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tiny_suites import PAIRS, SUITE, TAGS, invoke, suite_of

from distilcli.cli import suite
from distilcli.suites import results as suite_results
from distilcli.suites.results import Results, shown

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


# Results


def results_of(**scores: list[float]) -> Results:
    """Scores of models on the task `pairs`, a seed each."""
    return {
        ("pairs", model, seed): {"accuracy": value, "f1": 0.125}
        for model, values in scores.items()
        for seed, value in enumerate(values, start=1)
    }


PAIRS_ALONE = {"tasks": {"pairs": {"task": PAIRS}}}


def test_medians_ranges_and_what_is_retained():
    results = results_of(teacher=[0.9, 0.5, 0.8], student=[0.4, 0.7, 0.6, 0.3], distilled=[0.6])
    table = suite_results.table(suite_of(**PAIRS_ALONE), results)
    assert table["suite"] == "small"
    models = table["tasks"]["pairs"]["models"]
    assert list(models) == ["teacher", "student", "distilled"]
    figures = {
        name: [summary[key] for key in ("median", "lowest", "highest")]
        for name, summary in models.items()
    }
    assert figures["teacher"] == [0.8, 0.5, 0.9]
    assert figures["student"] == [0.5, 0.3, 0.7]  # of four the mean of the middle two
    assert figures["distilled"] == [0.6, 0.6, 0.6]
    assert "retained" not in models["teacher"]
    assert models["student"]["retained"] == pytest.approx(0.625)
    assert models["distilled"]["retained"] == pytest.approx(0.75)
    assert models["teacher"]["score"] == "accuracy"
    assert models["teacher"]["seeds"] == {
        str(seed): {"accuracy": value, "f1": 0.125}
        for seed, value in ((1, 0.9), (2, 0.5), (3, 0.8))
    }
    assert "published" not in table["tasks"]["pairs"]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_a_summary_is_of_the_first_score_of_all_seeds(values, random):
    found = list(results_of(teacher=values).items())
    random.shuffle(found)
    summary = suite_results.table(suite_of(**PAIRS_ALONE), dict(found))
    summary = summary["tasks"]["pairs"]["models"]["teacher"]
    ordered = sorted(values)
    low, high = ordered[(len(values) - 1) // 2], ordered[len(values) // 2]
    assert summary["median"] == pytest.approx((low + high) / 2)
    assert (summary["lowest"], summary["highest"]) == (ordered[0], ordered[-1])
    assert [scores["accuracy"] for scores in summary["seeds"].values()] == values
    assert list(summary["seeds"]) == [str(seed) for seed in range(1, len(values) + 1)]


def on(task: str, **scores: float) -> Results:
    return {(task, model, 1): {"any": value} for model, value in scores.items()}


THREE_TASKS = {"tasks": {name: {"task": TAGS} for name in "abc"}}


def test_means_are_over_the_tasks_that_all_models_have():
    results = (
        on("a", teacher=0.9, student=0.6, distilled=0.8)
        | on("b", teacher=0.5, student=0.3, distilled=0.4)
        | on("c", teacher=0.1, student=0.1)
    )
    macro = suite_results.table(suite_of(**THREE_TASKS), results)["macro"]
    assert macro["tasks"] == 2
    assert macro["teacher"] == {"mean": pytest.approx(0.7)}
    assert macro["student"] == {"mean": pytest.approx(0.45), "retained": pytest.approx(0.45 / 0.7)}
    assert macro["distilled"] == {"mean": pytest.approx(0.6), "retained": pytest.approx(0.6 / 0.7)}


def test_a_model_without_any_run_is_left_out():
    results = on("a", teacher=0.9, student=0.6) | on("b", teacher=0.5, student=0.3)
    table = suite_results.table(suite_of(**THREE_TASKS), results)
    assert table["macro"].keys() == {"tasks", "teacher", "student"}
    assert table["macro"]["tasks"] == 2
    assert list(table["tasks"]) == ["a", "b", "c"]
    assert table["tasks"]["c"]["models"] == {}


def test_without_a_task_that_all_models_have_there_is_no_mean():
    results = on("a", teacher=0.9, student=0.6) | on("b", teacher=0.5, distilled=0.3)
    assert suite_results.table(suite_of(**THREE_TASKS), results)["macro"] == {}


def test_without_a_teacher_nothing_is_known_to_be_retained():
    """Every teacher failed, students did not."""
    table = suite_results.table(
        suite_of(**THREE_TASKS), on("a", student=0.6) | on("b", student=0.2)
    )
    assert "retained" not in table["tasks"]["a"]["models"]["student"]
    assert table["macro"]["student"] == {"mean": pytest.approx(0.4)}


@pytest.mark.parametrize("score", [0.0, -0.2])
def test_of_a_teacher_that_learnt_nothing_no_share_is_retained(score):
    """CoLA's score is 0 for a model that says the same of every sentence; it may be below, too."""
    table = suite_results.table(suite_of(**THREE_TASKS), on("a", teacher=score, student=0.1))
    assert "retained" not in table["tasks"]["a"]["models"]["student"]
    assert table["macro"]["student"].get("retained") is None
    assert table["macro"]["student"]["mean"] == pytest.approx(0.1)


def test_baselines_are_beside_the_others():
    baselines = {"other": {"kind": "checkpoint", "model": "m"}}
    results = on("a", teacher=0.8, other=0.2, distilled=0.4)
    table = suite_results.table(suite_of(**THREE_TASKS, baselines=baselines), results)
    assert list(table["tasks"]["a"]["models"]) == ["teacher", "distilled", "other"]
    assert table["macro"]["other"]["retained"] == pytest.approx(0.25)


def test_published_figures_stand_beside_tasks_of_their_name():
    """Sanh et al. 2019, tables 1 and 2; a GLUE task is known by what it is, not by its label."""
    cola = {"task": {"kind": "glue", "name": "CoLA"}}
    named = {"grammar": cola, "SQuAD": {"task": TAGS}, "IMDb": {"task": PAIRS}}
    found = suite_results.table(suite_of(tasks=named | {"POS": {"task": TAGS}}), {})["tasks"]
    assert found["grammar"]["published"] == {"bert": 56.3, "distilbert": 51.3}
    assert found["SQuAD"]["published"] == {"bert": 88.5, "distilbert": 85.8}
    assert found["IMDb"]["published"] == {"bert": 93.46, "distilbert": 92.82}
    assert "published" not in found["POS"]
    assert [task["is_glue"] for task in found.values()] == [True, False, False, False]


# The table for people


def test_the_table_has_medians_ranges_and_published_figures(tmp_path, monkeypatch):
    cola = {"kind": "glue", "name": "CoLA"}
    file = tmp_path / "suite.yaml"
    tree = SUITE | {"tasks": {"CoLA": {"task": cola}, "SQuAD": {"task": TAGS}}}
    file.write_text(yaml.safe_dump(tree | {"output_dir": str(tmp_path)}), encoding="utf-8")
    results = {
        ("CoLA", model, seed): {"matthews": value + 0.01 * seed}
        for model, value in (("teacher", 0.5), ("student", 0.3), ("distilled", 0.4))
        for seed in (1, 2, 3)
    }
    results["SQuAD", "teacher", 1] = {"f1": 0.875}
    monkeypatch.setattr(suite, "take", lambda *_: (results, []))
    monkeypatch.setattr(suite, "look_at_rows", lambda *_: None)
    monkeypatch.setenv("COLUMNS", "160")
    result = invoke(str(file), "--seeds", "3")
    assert result.exit_code == 0, result.output
    rows = [
        [cell.strip() for cell in line.strip("\u2502").split("\u2502")]
        for line in result.stdout.splitlines()
        if "\u2502" in line
    ]
    cola_scores = ["52.0", "32.0 (61.5)", "42.0 (80.8)"]
    assert rows[0] == ["CoLA", "matthews", *cola_scores, "56.3 / 51.3"]
    assert rows[1] == ["SQuAD", "f1", "87.5", "-", "-", "88.5 / 85.8"]
    assert rows[2] == ["mean", "1 tasks", *cola_scores, "-"]
    assert rows[3] == ["CoLA", "51.0 - 53.0 (3)", "31.0 - 33.0 (3)", "41.0 - 43.0 (3)"]
    assert rows[4] == ["SQuAD", "-", "-", "-"]
    assert "exact match 81.2" in result.stdout


def test_losses_are_no_shares_and_scores_are():
    """Also those that a student without a head is measured by."""
    assert shown("hidden_states", 1.2345) == shown("loss", 1.2345) == "1.234"
    assert shown("ece", 0.1234) == shown("accuracy", 0.1234) == "12.3"
