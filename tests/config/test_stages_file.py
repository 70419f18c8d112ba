"""Experiments of several stages: what is laid over what, and mistakes as the user wrote them."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from distilcli.config.experiment import MaskedLMExperiment, TaskExperiment
from distilcli.config.models import CheckpointStudent, CopiedStudent, TaskCheckpointStudent
from distilcli.config.reading import (
    kind_of_experiment,
    load_any_experiment,
    load_experiment,
    load_of_run,
)
from distilcli.config.stages import StagedExperiment, dump_stages
from distilcli.errors import ConfigError

TASK = {"kind": "classification"} | {s: {"files": f"{s}.csv"} for s in ("train", "dev")}
TREE: dict[str, Any] = {
    "name": "x",
    "seed": 7,
    "teacher": {"model": "t", "revision": "r", "offload": True},
    "student": {"num_layers": 3, "dropout": 0.25},
    "data": {"sources": [{"files": "a.jsonl"}], "store": "data/a", "max_length": 128},
    "loss": {"temperature": 3, "masked_lm": {"weight": 1}},
    "optim": {"lr": 2e-4},
    "validation": {"num_sequences": 5},
    "stages": [
        {"name": "general", "train": {"max_steps": 10}},
        {"name": "longer", "data": {"max_length": 512, "store": "data/b"}, "seed": 8},
        {
            "name": "task",
            "task": TASK,
            "teacher": {"model": "f"},
            "loss": {"soft_targets": {"weight": 2}},
        },
        {"name": "labels", "task": TASK, "teacher": None, "loss": {"soft_targets": {"weight": 0}}},
    ],
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "x.yaml"
    file.write_text(yaml.safe_dump(TREE))
    return file


def load(path: Path, *overrides: str) -> StagedExperiment:
    found = load_any_experiment(path, overrides)
    assert isinstance(found, StagedExperiment)
    return found


def test_a_stage_is_the_whole_experiment_with_its_sections_laid_over(path: Path):
    general, longer, task, _ = (stage.experiment for stage in load(path).stages)
    assert isinstance(general, MaskedLMExperiment)
    assert isinstance(longer, MaskedLMExperiment)
    assert isinstance(task, TaskExperiment)
    assert [one.name for one in (general, longer, task)] == ["1-general", "2-longer", "3-task"]
    assert [one.seed for one in (general, longer, task)] == [7, 8, 7]
    assert (general.data.max_length, general.data.store) == (128, "data/a")
    assert (longer.data.max_length, longer.data.store) == (512, "data/b")
    assert longer.data.sources == general.data.sources
    assert (general.train.max_steps, longer.train.max_steps) == (10, None)
    assert {one.optim.lr for one in (general, longer, task)} == {2e-4}
    assert general.teacher == longer.teacher
    assert general.run_folder == Path("runs/x/stages/1-general")


def test_what_only_masked_lm_training_has_is_left_out_on_a_task(path: Path):
    """And the teacher's own section takes the place of the shared one, its revision included."""
    *_, task, labels = (stage.experiment for stage in load(path).stages)
    assert task.loss.temperature == 3.0
    assert task.loss.weights["soft_targets"] == 2.0
    assert task.teacher is not None
    assert (task.teacher.model, task.teacher.revision) == ("f", None)
    assert labels.teacher is None
    shared = load(path, "stages.2.teacher={model: t, precision: fp32}").stages[2].experiment
    assert shared.teacher is not None
    assert (shared.teacher.precision, shared.teacher.revision) == ("fp32", None)


def test_each_student_starts_from_the_one_before(path: Path):
    general, longer, task, labels = (stage.experiment.student for stage in load(path).stages)
    assert general == CopiedStudent(num_layers=3, dropout=0.25)
    before = "runs/x/stages/1-general/student"
    assert longer == CheckpointStudent(model=before, dropout=0.25)
    before = "runs/x/stages/2-longer/student"
    assert task == TaskCheckpointStudent(model=before, dropout=0.25)
    assert labels.named_model == "runs/x/stages/3-task/student"


def test_text_after_a_task_has_a_new_head(tmp_path: Path):
    file = tmp_path / "x.yaml"
    sections = {key: TREE[key] for key in ("name", "teacher", "student")}
    stages = [{"name": "a", "task": TASK}, {"name": "b", "data": TREE["data"]}]
    file.write_text(yaml.safe_dump(sections | {"stages": stages}))
    student = load(file).stages[1].experiment.student
    assert isinstance(student, CheckpointStudent)
    assert student.new_head


def test_text_without_losses_on_logits_is_followed_by_a_new_head(tmp_path: Path):
    """A head that is there all the same stays: `new_head` is for a model without one."""
    file = tmp_path / "x.yaml"
    unused = {name: {"weight": 0} for name in ("soft_targets", "masked_lm")}
    stages = [{"name": "a", "loss": unused}, {"name": "b", "loss": unused}, {"name": "c"}]
    stages.append({"name": "d"})
    sections = {key: TREE[key] for key in ("name", "teacher", "student", "data")}
    file.write_text(yaml.safe_dump(sections | {"stages": stages}))
    students = [stage.experiment.student for stage in load(file).stages]
    assert [getattr(one, "new_head", None) for one in students] == [None, False, True, False]


def test_what_a_run_writes_down_is_read_back(path: Path, tmp_path: Path):
    staged = load(path)
    written = tmp_path / "experiment.yaml"
    written.write_text(dump_stages(staged))
    assert load(written) == staged
    last = load_of_run(written, ["train.tokens_per_micro_batch=99"])
    assert (last.name, last.output_dir) == ("x", "runs")
    assert last.train.tokens_per_micro_batch == 99
    assert last.task == staged.stages[-1].experiment.task


def test_overrides_reach_stages_and_what_they_share(path: Path):
    found = load(path, "stages.0.train.max_steps=4", "train.max_steps=6", "stages.1.train={}")
    assert [stage.experiment.train.max_steps for stage in found.stages] == [4, 6, 6, 6]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "stages.1.loss.softtargets={}",
            "{}: stages.1.loss.softtargets: unknown key; did you mean stages.1.loss.soft_targets?",
        ),
        ("loss.weight=2", "{}: loss.weight: unknown key; there are temperature"),
        ("stages.1.trains={}", "{}: stages.1.trains: unknown key; did you mean stages.1.train?"),
        ("stages.1={}", "{}: stages.1.name: this key is required"),
        ("stages.0.train=3", "{}: stages.0.train: must be keys with something below each"),
        ("stages.2.teacher={cache: null}", "{}: stages.2.teacher.model: this key is required"),
        ("stages.2.optim.lr=x", "{}: stages.2.optim.lr: must be a number (given: 'x')"),
        ("student.layers=none", "{}: student.layers: must be alternate, spread, top, bottom or a"),
        ("stages.3.task.kind=c", "{}: stages.3.task.kind: must be classification, multi-label"),
        ("stages=[]", "{}: stages: needs 1 or more"),
        ("stages.5.name=x", "{}: stages has 4 entries, and 5 is not one of them"),
    ],
)
def test_a_mistake_is_named_with_its_override_and_key(path: Path, override: str, said: str):
    with pytest.raises(ConfigError) as error:
        load(path, override)
    assert error.value.message.startswith(said.format(f"override {override!r}"))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "stages.1.name=general",
            "(with overrides): stages.1.name: general is the name of stages.0",
        ),
        ("stages.2.data={}", ": stages.2: it has both data and task"),
        ("task={}", ": stages.0: it shares both data and task"),
        ("stages.2.masking={}", ": stages.2.masking: belongs to masked-LM training, which this"),
        ("stages.1.augmentation={}", ": stages.1.augmentation: belongs to training on a task"),
        ("stages.1.data.store=data/a", ": stages.1.data.store: data/a is the store of stages.0, "),
        ("student.vocabulary={keep: 9}", ": stages.2.teacher: it would read other tokens than"),
        ("stages.0.teacher=null", "(with overrides): stages.0: without a teacher, student.source"),
    ],
)
def test_stages_that_do_not_fit_together(path: Path, override: str, said: str):
    with pytest.raises(ConfigError) as error:
        load(path, override)
    assert f"{path}{' ' * said.startswith('(')}{said}" in error.value.message


def test_sections_that_no_stage_has(tmp_path: Path):
    file = tmp_path / "x.yaml"
    tree = TREE | {"stages": TREE["stages"][:2], "augmentation": {"copies": 2}}
    file.write_text(yaml.safe_dump(tree))
    with pytest.raises(ConfigError, match="augmentation: belongs to training on a task, which no"):
        load(file)
    del tree["data"], tree["augmentation"]
    file.write_text(yaml.safe_dump(tree))
    with pytest.raises(ConfigError, match=r"stages\.0: it has neither data nor task"):
        load(file)


def test_where_one_run_is_needed_stages_are_refused(path: Path):
    with pytest.raises(ConfigError, match="an experiment without stages is needed here"):
        load_experiment(path)
    with pytest.raises(ConfigError, match="stages: an experiment without stages is needed here"):
        kind_of_experiment(TREE)
