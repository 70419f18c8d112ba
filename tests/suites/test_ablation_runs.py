"""Whole ablations, taken again and again as forked commands."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from scheduled_runs import Forked, started_as
from tiny_experiments import TinyWorld, listing
from tiny_suites import invoke, refused
from tiny_tasks import make_tasks
from typer.testing import Result

from distilcli.config import reading
from distilcli.suites import ablations, run_lengths, runs

pytestmark = pytest.mark.usefixtures("fresh_accelerator")

NAMES = ["base", "plain"]


def take(file: Path, *more: str) -> Result:
    """The command, whose runs are forked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setattr(runs, "subprocess", started_as(Forked))
        return invoke(str(file), *more)


def write(root: Path, base: dict[str, Any], changes: dict[str, Any], **more: Any) -> Path:
    tree = {"name": "whole", "output_dir": str(root / "runs"), "base": base, "changes": changes}
    file = root / "whole.yaml"
    file.write_text(yaml.safe_dump(tree | more, sort_keys=False), encoding="utf-8")
    return file


class Flow:
    """An ablation of the tiny experiment, of which the runs of a change fail at first."""

    def __init__(self, root: Path, world: TinyWorld) -> None:
        self.folder = root / "runs" / "whole"
        teacher = root / "teacher"
        shutil.copytree(world.teacher, teacher)
        base = world.experiment() | {"validation": {"every": 0, "num_sequences": 20}}
        plain = {"teacher": None, "student.source": str(teacher)}
        plain |= {f"loss.{name}.weight": 0 for name in ("soft_targets", "hidden_cosine")}
        self.file = write(root, base, {"plain": plain}, budget=4)
        weights = teacher / "model.safetensors"
        whole = weights.read_bytes()
        weights.write_bytes(whole[:-100])
        self.first = take(self.file, "--seeds", "2", "--jobs", "2", "--json")
        self.after_first = listing(self.folder)
        weights.write_bytes(whole)
        self.mended = take(self.file, "--seeds", "2", "--json")
        self.after_mended = listing(self.folder)
        self.again = take(self.file, "--seeds", "2")
        self.after_again = listing(self.folder)
        self.changed = take(self.file, "--seeds", "2", "base.optim.lr=0.1")


@pytest.fixture(scope="module")
def flow(tmp_path_factory, tiny_world) -> Flow:
    return Flow(tmp_path_factory.mktemp("ablation"), tiny_world)


def changed_runs(before: dict[str, int], after: dict[str, int]) -> set[str]:
    """The runs whose folders differ."""
    parts = [path.split("/") for path, _ in before.items() ^ after.items()]
    return {run for run, *inside in parts if inside}


def test_what_fails_is_reported_and_the_others_finish(flow):
    assert flow.first.exit_code == 1
    assert "0 runs are done, 4 are to do, 2 at a time" in flow.first.stderr
    assert "error: 2 runs failed: whole/plain-1, whole/plain-2" in flow.first.stderr
    assert list(json.loads(flow.first.stdout)["changes"]) == ["base"]


def test_a_mended_cause_runs_what_had_failed_alone(flow):
    assert flow.mended.exit_code == 0, flow.mended.stderr
    assert "2 runs are done, 2 are to do, 1 at a time" in flow.mended.stderr
    assert changed_runs(flow.after_first, flow.after_mended) == {"plain-1", "plain-2"}
    assert list(json.loads(flow.mended.stdout)["changes"]) == NAMES


def test_an_ablation_that_is_done_does_nothing_but_show(flow):
    assert flow.again.exit_code == 0
    assert flow.again.stderr.splitlines() == ["4 runs are done, 0 are to do, 1 at a time"]
    assert changed_runs(flow.after_mended, flow.after_again) == set()
    assert "difference to the base" in flow.again.stdout
    assert f"written: {flow.folder / 'results.json'}" in flow.again.stdout


def test_changed_settings_are_refused(flow):
    assert flow.changed.exit_code == 2
    assert "base-1: its checkpoints are of another experiment; these keys differ: optim.lr" in (
        flow.changed.stderr
    )


def last_record(run_folder: Path) -> dict[str, Any]:
    lines = (run_folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    record: dict[str, Any] = json.loads(lines[-1])
    return record


def test_scores_are_those_of_the_last_validation_and_differences_theirs(flow):
    found = json.loads(flow.mended.stdout)
    last = {
        name: [last_record(flow.folder / f"{name}-{seed}") for seed in (1, 2)] for name in NAMES
    }
    for name in NAMES:
        scores = found["changes"][name]["scores"]
        agrees = {"agreement", "kl"} if name != "plain" else set()
        assert {"loss", "accuracy"} | agrees <= scores.keys()
        for score, summary in scores.items():
            values = [record[f"held_out/{score}"] for record in last[name]]
            assert list(summary["seeds"].values()) == values
            assert summary["median"] == pytest.approx(sum(values) / 2)
    pairs = [
        plain["held_out/loss"] - base["held_out/loss"]
        for plain, base in zip(last["plain"], last["base"], strict=True)
    ]
    assert pairs[0] != pairs[1] != 0
    difference = found["changes"]["plain"]["differences"]["loss"]
    assert difference["mean"] == pytest.approx(sum(pairs) / 2)
    # The error of a mean of two is half of their distance; t of one degree of freedom.
    half = 12.7062 * abs(pairs[0] - pairs[1]) / 2
    low, high = difference["interval"]
    assert (high - low) / 2 == pytest.approx(half, rel=1e-4)


def test_all_runs_have_the_steps_of_the_budget(flow):
    found = json.loads(flow.mended.stdout)["changes"]
    for name in NAMES:
        assert found[name]["length"]["steps"] == 4
        assert found[name]["length"]["tokens"] == found["base"]["length"]["tokens"] > 0
        for seed in (1, 2):
            folder = flow.folder / f"{name}-{seed}"
            experiment = reading.load_experiment(folder / "experiment.yaml")
            assert (experiment.seed, experiment.train.max_steps) == (seed, 4)
            assert (experiment.teacher is None) == (name == "plain")
            assert (folder / "student" / "model.safetensors").exists()
            assert not (folder / "checkpoints").exists()


def test_the_record_is_written(flow):
    record = json.loads(flow.mended.stdout)
    results = Path(record.pop("results"))
    assert results == flow.folder / "results.json"
    assert json.loads(results.read_text(encoding="utf-8")) == record
    assert (record["ablation"], record["equal"], record["budget"]) == ("whole", "steps", 4.0)


@pytest.mark.slow
def test_the_store_is_made_once_before_the_runs(tiny_world, tmp_path):
    """And a budget of tokens is reached with the fewest steps."""
    data = tiny_world.experiment()["data"] | {"store": str(tmp_path / "store")}
    base = tiny_world.experiment() | {"data": data, "validation": {"every": 0}}
    base["train"] = base["train"] | {"save_every": 100}
    changes = {"small-batches": {"train.global_batch_size": 4}}
    file = write(tmp_path, base, changes, equal="tokens", budget=900)
    result = take(file, "--seeds", "1", "--jobs", "2", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)["changes"]
    for name in ("base", "small-batches"):
        folder = tmp_path / "runs" / "whole" / f"{name}-1"
        assert 0 <= found[name]["length"]["tokens"] - 900 < last_record(folder)["speed/tokens"]
        assert "prepare" not in (folder.parent / f"{name}-1.log").read_text(encoding="utf-8")
    assert found["small-batches"]["length"]["steps"] > found["base"]["length"]["steps"]


@pytest.mark.slow
def test_in_the_same_time_a_change_has_the_steps_that_its_probe_says(tmp_path, monkeypatch):
    """On a task; taken again, the probes are not."""
    for module in (ablations, run_lengths):
        monkeypatch.setattr(module, "PROBE_STEPS", 8)
        monkeypatch.setattr(module, "PROBE_EVERY", 2)
    tasks = make_tasks(tmp_path / "tasks")
    base = {
        "teacher": None,
        "student": {"kind": "checkpoint", "model": str(tasks.model)},
        "task": tasks.task("regression"),
        "train": {"precision": "fp32", "tokens_per_micro_batch": 256, "global_batch_size": 16},
    }
    changes = {"large-batches": {"train.global_batch_size": 32}}
    file = write(tmp_path, base, changes, equal="seconds", budget=0.2)
    result = take(file, "--seeds", "1", "--json")
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    folder = tmp_path / "runs" / "whole"
    for name, change in record["changes"].items():
        assert last_record(folder / f"{name}-probe")["step"] == 8
        steps = max(1, round(0.2 / record["seconds_per_step"][name]))
        assert change["length"]["steps"] == last_record(folder / f"{name}-1")["step"] == steps
        assert next(iter(change["scores"])) == "pearson_spearman"
    before = listing(folder)
    again = take(file, "--seeds", "1", "--json")
    assert json.loads(again.stdout) == record
    assert changed_runs(before, listing(folder)) == set()


def test_nothing_is_written_where_a_change_cannot_be(tiny_world, tmp_path):
    file = write(tmp_path, tiny_world.experiment(), {"wrong": {"loss.temperature": -1}})
    assert "(change wrong)" in refused(str(file))
    assert refused(str(file), "model") == "the file of a suite names its models and data"
    assert [path.name for path in tmp_path.iterdir()] == ["whole.yaml"]
