"""What the scores of an ablation come to: by hand, and the tables that people see."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tiny_ablations import ABLATION, planned
from tiny_suites import invoke

from distilcli.cli import ablation as command
from distilcli.config.ablation import Ablation
from distilcli.errors import DistilError
from distilcli.suites.ablation_results import ablation_table
from distilcli.suites.plan import SuiteRun
from distilcli.suites.results import Results
from distilcli.suites.run_lengths import (
    RunLength,
    length_of,
    seconds_per_step,
    steps_within,
)

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


def results_of(**accuracies: list[float | None]) -> Results:
    """Scores by change, a seed each; None: that run is not done."""
    return {
        ("small", name, seed): {"loss": 4.0 - value, "accuracy": value}
        for name, values in accuracies.items()
        for seed, value in enumerate(values, start=1)
        if value is not None
    }


def changes_of(results: Results, **lengths: Any) -> dict[str, Any]:
    record = ablation_table(Ablation.model_validate(ABLATION), results, lengths)
    found: dict[str, Any] = record["changes"]
    return found


def test_medians_ranges_and_paired_differences():
    """Differences of 0.1, 0.1 and 0.4: mean 0.2, deviation sqrt(0.03), error 0.1, t 4.3027."""
    found = changes_of(results_of(base=[0.1, 0.3, 0.2], cold=[0.2, 0.4, 0.6]))
    assert list(found) == ["base", "cold"]
    base, cold = found["base"]["scores"]["accuracy"], found["cold"]["scores"]["accuracy"]
    assert [base[key] for key in ("median", "lowest", "highest")] == [0.2, 0.1, 0.3]
    assert [cold[key] for key in ("median", "lowest", "highest")] == [0.4, 0.2, 0.6]
    assert cold["seeds"] == {"1": 0.2, "2": 0.4, "3": 0.6}
    assert "differences" not in found["base"]
    difference = found["cold"]["differences"]["accuracy"]
    assert difference["mean"] == pytest.approx(0.2)
    assert difference["interval"] == pytest.approx([0.2 - 0.430265, 0.2 + 0.430265], abs=1e-6)
    assert difference["seeds"] == 3
    assert found["cold"]["differences"]["loss"]["mean"] == pytest.approx(-0.2)
    assert found["cold"]["settings"] == {"loss.temperature": 1.0}
    assert found["base"]["settings"] == {}


def test_only_seeds_that_both_have_are_compared():
    found = changes_of(results_of(base=[None, 0.3, 0.2], cold=[0.2, 0.4, None], top=[0.5]))
    difference = found["cold"]["differences"]["accuracy"]
    assert (difference["mean"], difference["seeds"]) == (pytest.approx(0.1), 1)
    assert difference["interval"] is None  # of one pair nobody knows
    assert found["top"]["differences"] == {}


def test_without_the_base_there_is_nothing_to_compare_with():
    found = changes_of(results_of(cold=[0.2, 0.4]))
    assert list(found) == ["cold"]
    assert "differences" not in found["cold"]


def test_published_differences_stand_beside():
    tree = ABLATION | {"published": {"source": "a paper", "differences": {"cold": -1.5}}}
    results = results_of(base=[0.1], cold=[0.2], top=[0.3])
    record = ablation_table(Ablation.model_validate(tree), results, {})
    assert record["published"] == "a paper"
    assert record["changes"]["cold"]["published"] == -1.5
    assert "published" not in record["changes"]["top"]


def test_lengths_are_medians_of_those_that_are_known():
    lengths = {
        ("base", 1): RunLength(10, 100, 4.0),
        ("base", 2): RunLength(10, 120, 8.0),
        ("cold", 2): RunLength(20, 220, 9.0),
    }
    table = ablation_table(
        Ablation.model_validate(ABLATION),
        results_of(base=[0.1, 0.2], cold=[0.1, 0.2], top=[0.1]),
        lengths,
    )
    found = {name: one["length"] for name, one in table["changes"].items()}
    assert found["base"] == {"steps": 10, "tokens": 110, "seconds": 6.0}
    assert found["cold"] == {"steps": 20, "tokens": 220, "seconds": 9.0}
    assert found["top"] is None


# How long runs were


def records_of(intervals: list[tuple[int, float]], first: int = 1) -> list[dict[str, Any]]:
    """Of intervals between two looks at the clock: steps of 50 tokens, tokens a second."""
    return [
        {"step": 0, "speed/tokens": 50, "speed/tokens_per_second": speed}
        for steps, speed in intervals
        for _ in range(steps)
    ]


def finished(path: Path, records: list[dict[str, Any]]) -> SuiteRun:
    run = planned(path / "small.yaml", f"output_dir={path}")["small/base-1"]
    run.experiment.run_folder.mkdir(parents=True)
    for step, record in enumerate(records, start=1):
        record["step"] = step
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (run.experiment.run_folder / "metrics.jsonl").write_text(lines, encoding="utf-8")
    return run


def test_a_run_is_as_long_as_its_records_say(tmp_path):
    """4 steps of 50 tokens in 2 s, then 2 in 4 s."""
    run = finished(tmp_path, records_of([(4, 100.0), (2, 25.0)]))
    assert length_of(run) == RunLength(6, 300, 6.0)


def test_the_speed_of_a_probe_is_that_of_its_middle(tmp_path):
    """The first steps load and compile, the last ones are validated."""
    run = finished(tmp_path, records_of([(10, 1.0), (10, 100.0), (10, 50.0), (10, 2.0)]))
    assert seconds_per_step(run) == pytest.approx(0.75)  # 0.5 s and 1 s
    assert [steps_within(seconds, run) for seconds in (0.1, 3.0, 30.0)] == [1, 4, 40]


def test_records_that_cannot_be_read_are_named(tmp_path):
    run = finished(tmp_path, [])
    (run.experiment.run_folder / "metrics.jsonl").write_text("{", encoding="utf-8")
    with pytest.raises(DistilError, match=r"metrics.jsonl: cannot be read"):
        length_of(run)


# What people see


def shown(monkeypatch, tmp_path, results: Results, **changes: Any) -> str:
    """What the command says of results that someone else has found."""
    from tiny_ablations import write

    monkeypatch.setattr(command, "_take", lambda *_: (results, []))
    monkeypatch.setattr(command, "_prepare", lambda *_: None)
    monkeypatch.setattr(command, "length_of", lambda _: RunLength(80, 319_000, 75.0))
    monkeypatch.setenv("COLUMNS", "80")
    changes |= {"output_dir": str(tmp_path / "runs")}
    result = invoke(str(write(tmp_path / "small.yaml", **changes)), "--seeds", "3")
    assert result.exit_code == 0, result.output
    return result.stdout


def row(text: str, name: str, table: int) -> list[str]:
    """The cells of a row in one of the tables."""
    rows = [re.split(r"[^ -~]+", line) for line in text.splitlines()]
    found = [[cell.strip() for cell in cells if cell.strip()] for cells in rows]
    return [cells for cells in found if cells[:1] == [name]][table]


def test_the_tables_of_three_seeds(monkeypatch, tmp_path):
    published = {"source": "a paper", "differences": {"cold": -1.5}}
    results = results_of(base=[0.1, 0.3, 0.2], cold=[0.2, 0.4, 0.6], top=[0.1, 0.3, 0.2])
    text = shown(monkeypatch, tmp_path, results, published=published)
    assert row(text, "base", 0) == ["base", "20.0", "3.800", "80", "319,000", "75 s"]
    assert row(text, "cold", 1) == ["cold", "20.0 - 60.0 (3)", "3.400 - 3.800 (3)"]
    assert row(text, "cold", 2) == ["cold", "+20.00 +- 43.03", "-0.200 +- 0.430", "-1.5"]
    assert row(text, "top", 2) == ["top", "+0.00 +- 0.00", "+0.000 +- 0.000", "-"]
    assert "paper: a paper" in text


def test_the_tables_of_one_seed(monkeypatch, tmp_path):
    """There is no range, and no interval of a difference."""
    text = shown(monkeypatch, tmp_path, results_of(base=[0.1], cold=[0.2], top=[0.3]))
    assert "lowest" not in text
    assert row(text, "cold", 1) == ["cold", "+10.00", "-0.100"]
    assert "paper" not in text
