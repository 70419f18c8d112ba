"""The pages about several runs, suites and ablations."""

from pathlib import Path

import pytest
from report_runs import assert_sound, draw_nothing, records, results, write_models, write_run
from tiny_ablations import ABLATION
from tiny_suites import suite_of

from distilcli.config.ablation import Ablation
from distilcli.errors import ConfigError
from distilcli.files.json_text import to_json
from distilcli.report.html_page import html_of
from distilcli.report.markdown_page import markdown_of
from distilcli.report.pages import page_of
from distilcli.suites.ablation_results import ablation_table
from distilcli.suites.results import table


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(autouse=True)
def _quick(request, monkeypatch):
    """Only what is about figures draws them."""
    if "drawn" not in request.node.name:
        draw_nothing(monkeypatch)


def markdown(*folders: Path) -> str:
    """The Markdown of a page whose HTML is sound, with plain blanks and signs."""
    page = page_of(folders, ["Made of a test."])
    html, text = html_of(page), markdown_of(page, {})
    assert_sound(html)
    assert str(folders[0].parent.parent) not in html + text
    return text.replace("\N{NO-BREAK SPACE}", " ").replace("\N{MINUS SIGN}", "-")


# Several runs


def test_how_runs_differ_comes_first(models, tmp_path):
    one = write_run(tmp_path, models, name="one", measured=results("one"))
    optim = {"lr": 1e-3}
    measured = results("other", accuracy=0.5)
    other = write_run(tmp_path, models, name="other", measured=measured, optim=optim, seed=7)
    text = markdown(one, other)
    assert text.index("How they differ") < text.index("## Quality")
    assert "These students of teacher differ in seed and optim.lr." in text
    assert "| optim.lr | 0.0005 | 0.001 |" in text
    assert "| seed | 42 | 7 |" in text
    assert "loss.temperature" not in text.partition("## Quality")[0]
    assert "| accuracy | 45.0 % | 50.0 % |" in text
    assert "The best accuracy is that of other, 50.0 %." in text


def test_scores_on_other_examples_are_not_compared(models, tmp_path):
    runs = [write_run(tmp_path, models, name=name, measured=results(name)) for name in "ab"]
    assert "The best accuracy" in markdown(*runs)
    for number, run in enumerate(runs):
        rows = {"task.dev rows": {"place": "dev.tsv", "digest": str(number) * 32}}
        (run / "identity.json").write_text(to_json(rows), encoding="utf-8")
    assert "The best accuracy" not in markdown(*runs)


def test_seeds_alone_give_means_and_deviations(models, tmp_path):
    """0.3, 0.4 and 0.5: mean 0.4, deviation 0.1."""
    runs = [
        write_run(
            tmp_path, models, name=f"s{n}", seed=n, measured=results(f"s{n}", accuracy=n / 10)
        )
        for n in (3, 4, 5)
    ]
    text = markdown(*runs)
    assert "The same experiment with 3 seeds." in text
    assert "| accuracy | 40.0 % | 10.0 % | 30.0 % | 50.0 % |" in text


def test_runs_of_one_name_are_told_apart(models, tmp_path):
    runs = [write_run(tmp_path / folder, models) for folder in ("a", "b")]
    text = markdown(*runs)
    assert "| a/tiny | b/tiny |" in text
    assert "All settings are the same" in text


def test_runs_that_were_not_measured_have_the_scores_of_training(models, tmp_path):
    one = write_run(tmp_path, models, name="one")
    other = write_run(tmp_path, models, name="other", of=records(20), finished=False)
    text = markdown(one, other)
    assert "| accuracy | 50.0 % | 40.0 % |" in text
    assert "other: The run is not finished" in text


def test_many_runs_stand_one_below_the_other(models, tmp_path):
    runs = [write_run(tmp_path, models, name=f"r{n}", seed=n) for n in range(8)]
    text = markdown(*runs)
    assert "| r7 | 7 |" in text
    assert "## r7" not in text


@pytest.mark.slow
def test_curves_of_several_runs_are_drawn(models, tmp_path):
    one, other = (write_run(tmp_path, models, name=name, measured=results(name)) for name in "ab")
    assert "Total loss" in markdown(one, other)


# Suites and ablations


def folder_of(root: Path, record: object) -> Path:
    """The folder of a suite or an ablation that has been run."""
    root.mkdir(exist_ok=True)
    (root / "results.json").write_text(to_json({"distilcli": "0.2.0", **record}), encoding="utf-8")
    return root


def ablation(**accuracies: list[float]) -> dict[str, object]:
    """What an ablation comes to whose runs had these accuracies, a seed each."""
    found = {
        ("small", name, seed): {"loss": 4.0 - value, "accuracy": value}
        for name, values in accuracies.items()
        for seed, value in enumerate(values, start=1)
    }
    return ablation_table(Ablation.model_validate(ABLATION), found, {})


def test_an_ablation_is_drawn_with_its_intervals(tmp_path):
    """Differences of 0.1, 0.1 and 0.1 are clear, those of 0.1, 0.1 and 0.4 are not."""
    clear = ablation(base=[0.1, 0.3, 0.2], cold=[0.2, 0.4, 0.3])
    text = markdown(folder_of(tmp_path / "clear", clear))
    assert "more than seeds explain: cold (+10.00 points)" in text
    assert "| cold | loss.temperature = 1 |" in text
    unclear = ablation(base=[0.1, 0.3, 0.2], cold=[0.2, 0.4, 0.6])
    text = markdown(folder_of(tmp_path / "unclear", unclear))
    assert "no change differs from the base by more than seeds explain" in text
    assert "+20.00 \N{PLUS-MINUS SIGN} 43.03" in text
    assert "| cold | 40.0 % (20.0 \N{EN DASH} 60.0) |" in text


def test_one_seed_says_nothing_of_its_spread(tmp_path):
    text = markdown(folder_of(tmp_path, ablation(base=[0.1], cold=[0.2])))
    assert "With one seed" in text
    assert "| cold | +10.00 |" in text


def test_an_ablation_without_finished_runs(tmp_path):
    text = markdown(folder_of(tmp_path, ablation()))
    assert "No run of this ablation is finished" in text


def suite_scores(**models: list[float]) -> dict[str, object]:
    """What a suite comes to whose models had these accuracies on its first task."""
    found = {
        ("pairs", model, seed): {"accuracy": value, "flips": 0.1}
        for model, values in models.items()
        for seed, value in enumerate(values, start=1)
    }
    return table(suite_of(), found)


def test_a_suite_is_drawn_with_what_is_kept(tmp_path):
    found = suite_scores(teacher=[0.8, 0.8], student=[0.4, 0.6], distilled=[0.7, 0.7])
    text = markdown(folder_of(tmp_path, found))
    assert "| pairs, accuracy | 80.0 | 50.0 | 62.5 % | 70.0 | 87.5 % |" in text
    assert "| pairs | 80.0 \N{EN DASH} 80.0 | 40.0 \N{EN DASH} 60.0 |" in text
    assert "| pairs | 10.0 / \N{EN DASH} / \N{EN DASH} |" in text


def test_a_suite_without_finished_runs(tmp_path):
    assert "No run of this suite is finished" in markdown(folder_of(tmp_path, suite_scores()))


def test_before_its_end_a_suite_is_its_runs(models, tmp_path):
    for name in ("base-1", "base-2"):
        write_run(tmp_path / "suite", models, name=name)
    assert "Comparison of 2 runs" in markdown(tmp_path / "suite")


def test_a_suite_beside_runs_is_refused(models, tmp_path):
    run = write_run(tmp_path, models)
    suite = folder_of(tmp_path / "suite", suite_scores(teacher=[0.5]))
    with pytest.raises(ConfigError, match="has a report of its own"):
        page_of([run, suite], [])


def test_results_of_a_suite_that_were_changed_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="is not as distilcli suite writes it"):
        page_of([folder_of(tmp_path, {"ablation": "x", "changes": {"base": 1}})], [])
