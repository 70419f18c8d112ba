"""Ablations: which experiment each change is, and which file and key a mistake is answered with."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_ablations import ABLATION, MASKED_LM, planned, write
from tiny_suites import PAIRS

from distilcli.config.experiment import MaskedLMExperiment, TaskExperiment
from distilcli.errors import ConfigError
from distilcli.suites.ablations import (
    is_ablation,
    load_ablation,
    plan_ablation,
    plan_probes,
)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "small.yaml"


def expected(name: str, seed: int = 1, **sections: Any) -> MaskedLMExperiment:
    """A run, by hand."""
    own = {"name": f"{name}-{seed}", "output_dir": "runs/small", "seed": seed}
    return MaskedLMExperiment.model_validate(MASKED_LM | own | sections)


# Which runs there are


def test_the_base_and_its_changes_seed_by_seed(path):
    runs = planned(path, seeds=2)
    names = [f"small/{name}-{seed}" for seed in (1, 2) for name in ("base", "cold", "top")]
    assert list(runs) == names
    for seed in (1, 2):
        assert runs[f"small/base-{seed}"].experiment == expected("base", seed)
        cold = MASKED_LM["loss"] | {"temperature": 1.0}
        assert runs[f"small/cold-{seed}"].experiment == expected("cold", seed, loss=cold)
        top = MASKED_LM["student"] | {"layers": "top"}
        assert runs[f"small/top-{seed}"].experiment == expected("top", seed, student=top)
    run = runs["small/cold-2"]
    assert (run.task, run.model, run.seed, run.needs_teacher) == ("small", "cold", 2, False)
    assert run.experiment.run_folder == Path("runs/small/cold-2")


def test_a_base_on_a_task(path):
    base = {"task": PAIRS, "teacher": {"model": "expert"}, "student": {"num_layers": 2}}
    changes = {"labels": {"loss.soft_targets.weight": 0, "teacher": None, "student.source": "m"}}
    runs = planned(path, base=base, changes=changes)
    own = {"output_dir": "runs/small", "seed": 1}
    alone = base | {"teacher": None, "student": {"num_layers": 2, "source": "m"}}
    alone["loss"] = {"soft_targets": {"weight": 0.0}}
    assert [run.experiment for run in runs.values()] == [
        TaskExperiment.model_validate(base | own | {"name": "base-1"}),
        TaskExperiment.model_validate(alone | own | {"name": "labels-1"}),
    ]


@pytest.mark.parametrize("how", ["in the file", "as an override"])
def test_the_base_may_be_a_file(path, tmp_path, how):
    """What it says of name, folder and seed is not used; overrides are laid over it."""
    file = tmp_path / "experiment.yaml"
    own = {"name": "other", "output_dir": "elsewhere", "seed": 9}
    file.write_text(yaml.safe_dump(MASKED_LM | own), encoding="utf-8")
    named = {"base": str(file)} if how == "in the file" else {"base": {"teacher": None}}
    overrides = ["base.optim.lr=0.25"] + ([] if how == "in the file" else [f"base={file}"])
    runs = planned(path, *overrides, **named)
    assert runs["small/base-1"].experiment == expected("base", optim={"lr": 0.25})


def test_overrides_reach_the_base_and_the_changes(path):
    runs = planned(
        path, "base.student.num_layers=1", "changes.cold.loss.temperature=5", "name=x", seeds=1
    )
    assert [run.experiment.student.num_layers for run in runs.values()] == [1, 1, 1]
    assert [run.experiment.loss.temperature for run in runs.values()] == [3.0, 5.0, 3.0]
    assert runs["x/top-1"].experiment.run_folder == Path("runs/x/top-1")


def test_a_section_is_laid_over_the_one_of_the_base(path):
    """Another kind of section takes its place: its keys mean something else."""
    changes = {
        "narrowly": {"loss": {"soft_targets": {"weight": 1.0}}, "student": {"layers": "top"}},
        "anew": {"student": {"kind": "random", "num_layers": 1}},
        "likewise": {"student": {"kind": "copied", "layers": "top"}},
    }
    base = MASKED_LM | {"student": {"kind": "copied", "num_layers": 2, "layers": "bottom"}}
    runs = planned(path, base=base, changes=changes)
    loss = runs["small/narrowly-1"].experiment.loss
    assert (loss.temperature, loss.soft_targets.weight) == (3.0, 1.0)
    students = [run.experiment.student for run in runs.values()]
    assert [(one.kind, one.num_layers) for one in students] == [
        ("copied", 2),
        ("copied", 2),
        ("random", 1),
        ("copied", 2),
    ]
    assert students[1].layers == students[3].layers == "top"


def test_no_change_reaches_another(path):
    """Neither the base nor a list in it is changed in place."""
    changes = {"a": {"data.sources.0.files": "b.jsonl"}, "b": {"loss.temperature": 7.0}}
    files = [r.experiment.data.sources[0].files for r in planned(path, changes=changes).values()]
    assert files == [["a.jsonl"], ["b.jsonl"], ["a.jsonl"]]


@pytest.mark.parametrize(
    ("equal", "budget", "ends"),
    [
        ("steps", None, (70, None)),
        ("steps", 5, (5, None)),
        ("steps", "2e1", (20, None)),  # which YAML takes for text
        ("tokens", 3000, (None, 3000)),
        ("seconds", 2.5, (11, None)),
    ],
)
def test_all_runs_are_as_long_as_the_budget(path, equal, budget, ends):
    base = MASKED_LM | {"train": {"max_steps": 70, "global_batch_size": 8}}
    ablation = load_ablation(write(path, base=base, equal=equal, budget=budget), [])
    steps = {"base": 11, "cold": 11, "top": 11} if equal == "seconds" else None
    for run in plan_ablation(ablation, 1, path, (), steps):
        train = run.experiment.train
        assert (train.max_steps, train.max_tokens) == ends
        assert train.global_batch_size == 8


def test_each_change_has_the_steps_that_it_can_take_in_the_time(path):
    ablation = load_ablation(write(path, equal="seconds", budget=9), [])
    runs = plan_ablation(ablation, 2, path, (), {"base": 30, "cold": 20, "top": 10})
    assert [run.experiment.train.max_steps for run in runs] == [30, 20, 10] * 2


def test_a_probe_is_a_short_run_of_each_change(path):
    """It differs in nothing that a step costs."""
    base = MASKED_LM | {"train": {"max_tokens": 9, "global_batch_size": 8}}
    base["validation"] = {"every": 3, "num_sequences": 5}
    ablation = load_ablation(write(path, base=base, equal="seconds", budget=9), [])
    probes = plan_probes(ablation, path)
    assert [probe.experiment.name for probe in probes] == ["base-probe", "cold-probe", "top-probe"]
    assert [probe.experiment.loss.temperature for probe in probes] == [3.0, 1.0, 3.0]
    for probe in probes:
        train = probe.experiment.train
        assert (train.max_steps, train.max_tokens, train.log_every) == (40, None, 10)
        assert train.save_every == 40
        assert train.global_batch_size == 8
        assert probe.experiment.validation.every == 0


# Mistakes


def complaint(path: Path, *overrides: str, **changes: Any) -> str:
    """What is said of an ablation that cannot be planned, with PATH for the file."""
    with pytest.raises(ConfigError) as caught:
        planned(path, *overrides, **changes)
    assert caught.value.exit_code == 2
    assert "\n" not in caught.value.message
    return caught.value.message.replace(str(path), "PATH")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bases": {}}, "PATH: bases: unknown key; did you mean base?"),
        ({"base": 3}, "PATH: base: must be keys with something below each"),
        ({"base": "nowhere.yaml"}, "nowhere.yaml: no such file"),
        ({"changes": {}}, "PATH: changes: needs 1 or more"),
        ({"changes": {"../up": {}}}, "PATH: changes"),
        ({"changes": {"base": {}}}, "PATH: changes: base is the name of what is changed"),
        ({"changes": {"x": 3}}, "PATH: changes.x: must be keys with something below each"),
        ({"changes": {"x": ["lr"]}}, "PATH: changes.x: override 'lr': not of the form"),
        ({"changes": {"x": {"seed": 1}}}, "PATH: changes.x: seed is what the ablation gives"),
        ({"equal": "epochs"}, "PATH: equal: must be steps, tokens or seconds"),
        ({"equal": "tokens"}, "PATH: equal: tokens needs a budget"),
        ({"budget": 2.5}, "PATH: budget: a number of steps is whole (given: 2.5)"),
        (
            {"budget": 9, "changes": {"x": {"train": {"max_steps": 3}}}},
            "PATH: changes.x: train.max_steps would be another length than the budget",
        ),
        (
            {"published": {"source": "a paper", "differences": {"hot": 1.0}}},
            "PATH: published.differences: there is no change hot",
        ),
    ],
)
def test_a_mistake_is_answered_with_file_and_key(path, changes, message):
    assert complaint(path, **changes).startswith(message)


@pytest.mark.parametrize(
    ("overrides", "changes", "message"),
    [
        (
            [],
            {"base": MASKED_LM | {"optim": {"lrr": 1}}},
            "PATH: optim.lrr: unknown key; did you mean optim.lr? (base)",
        ),
        (
            [],
            {"changes": {"hot": {"loss.temperatures": 4}}},
            "PATH: loss.temperatures: unknown key; did you mean loss.temperature? (change hot)",
        ),
        (
            ["base.optim.lr=fast"],
            {},
            "override 'base.optim.lr=fast': optim.lr: must be a number (given: 'fast') (base)",
        ),
        (
            ["changes.cold.loss.temperature=-1"],
            {},
            "override 'changes.cold.loss.temperature=-1': loss.temperature: must be at least 0.01",
        ),
        (
            ["changes.cool.loss.temperature=1"],
            {},
            "override 'changes.cool.loss.temperature=1': the file has no change cool, but ",
        ),
        (
            [],
            {"changes": {"hot": {"data.sources.3.files": "x"}}},
            "PATH: changes.hot: data.sources.3.files: data.sources has 1 entry, and 3 is not",
        ),
        (
            [],
            {"changes": {"hot": ["student.num_layers.x=2"]}},
            "PATH: changes.hot: student.num_layers.x: student.num_layers has no keys below it",
        ),
        (
            [],
            {"base": MASKED_LM | {"data": MASKED_LM["data"] | {"held_out_fraction": 0}}},
            "PATH: data.held_out_fraction is 0: there is no text to compare on (base)",
        ),
        (
            [],
            {"base": MASKED_LM | {"stages": [{"name": "one"}]}},
            "PATH: stages: an experiment without stages is needed (base)",
        ),
    ],
)
def test_a_setting_that_no_experiment_can_have_is_named_with_its_change(
    path, overrides, changes, message
):
    assert complaint(path, *overrides, **changes).startswith(message)


def test_what_is_an_ablation(path, tmp_path):
    assert is_ablation(write(path))
    for tree in ({"base": {}}, {"changes": {}}):  # and something missing, which will be said
        path.write_text(yaml.safe_dump(tree), encoding="utf-8")
        assert is_ablation(path)
    path.write_text(yaml.safe_dump({"tasks": {}, "name": "x"}), encoding="utf-8")
    assert not is_ablation(path)
    assert ABLATION["name"] == "small"
