"""Hints say what the command that gave them takes: options where there are options."""

import pytest
from refusals import invoke
from tiny_experiments import bert, save
from tiny_suites import suite_file
from tiny_tasks import make_tasks
from transformers import BertModel

from distilcli.config.experiment import MaskedLMExperiment, TaskExperiment
from distilcli.config.models import CheckpointStudent
from distilcli.errors import ConfigError, DataError, ModelError
from distilcli.models.loading import load_masked_lm
from distilcli.models.students import build_student
from distilcli.training.processes import make_accelerator
from distilcli.training.steps import _IN_A_NEW_RUN


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    save(bert(hidden_size=8, num_attention_heads=2), root / "bert")
    save(BertModel(bert(hidden_size=8, num_attention_heads=2).config), root / "headless")
    save(bert(hidden_size=8, num_attention_heads=2, layer_norm_eps=1e-3), root / "eps")
    return root


@pytest.mark.parametrize(
    ("model", "options", "message", "hint"),
    [
        (
            "bert",
            ["--num-layers", "9"],
            "--num-layers 9: the source has 4 layers to copy",
            "Set --num-layers to 1 ... 4.",
        ),
        (
            "bert",
            ["--layers", "0,9"],
            "--layers: 9 is not a layer of the source, which has 4",
            "Use indices 0 ... 3.",
        ),
        (
            "bert",
            ["--layers", "0,1", "--num-layers", "3"],
            "--layers lists 2 layers, but --num-layers is 3",
            "Leave --num-layers out, or make the two agree.",
        ),
        (
            "headless",
            [],
            "it has no masked-LM head",
            "Use a checkpoint of class BertForMaskedLM or BertForPreTraining.",
        ),
        (
            "eps",
            ["--architecture", "distilbert"],
            "--architecture=distilbert: the layer_norm_eps of this BERT is 0.001, and a DistilBERT "
            "always uses 1e-12",
            "Set --architecture=auto, for a BERT with fewer layers.",
        ),
        (
            "bert",
            ["--architecture", "bert"],
            "--architecture bert: not an architecture",
            "Use auto, distilbert or same.",
        ),
    ],
)
def test_without_an_experiment_the_words_are_options(
    models, tmp_path, model, options, message, hint
):
    output = tmp_path / "student"
    given = ["--teacher", str(models / model), "--output", str(output), *options]
    result = invoke("init-student", *given)
    assert result.exit_code == 2, result.stderr
    error, hinted = result.stderr.splitlines()[-2:]
    assert message in error
    assert hint in hinted
    assert "student.num_layers" not in result.stderr
    assert "student.layers" not in result.stderr
    assert "student.architecture" not in result.stderr
    assert not output.exists()


@pytest.mark.parametrize(
    ("model", "options", "student", "is_said"),
    [
        ("bert", [], "DistilBERT", False),
        ("bert", ["--architecture", "same"], "BERT", False),
        ("eps", [], "BERT", True),
        ("eps", ["--architecture", "same"], "BERT", False),
    ],
)
def test_it_says_what_the_student_is_and_why(models, tmp_path, model, options, student, is_said):
    given = ["--teacher", str(models / model), "--output", str(tmp_path / "student"), *options]
    result = invoke("init-student", *given)
    assert result.exit_code == 0, result.stderr
    assert f"{student} with 2 layers, copied from BERT with 4 layers\n" in result.stdout
    reason = "the layer_norm_eps of this BERT is 0.001, and a DistilBERT always uses 1e-12"
    assert (reason in result.stderr) == is_said
    assert ("so the student is a BERT, too" in result.stderr) == is_said


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("student.num_layers=4", "Give --num-layers 4\n"),
        ("student.layers=[0, 2]", "Give --layers 0,2\n"),
        ("student.layers=spread", "Give --strategy spread\n"),
        ("student.architecture=same", "Give --architecture same\n"),
        (
            "seed=1",
            "Without an experiment there are --layers, --num-layers, --strategy, "
            "--architecture and --vocabulary.\n",
        ),
    ],
)
def test_an_override_without_an_experiment_is_told_its_option(models, tmp_path, override, named):
    given = ["--teacher", str(models / "bert"), "--output", str(tmp_path / "new"), override]
    result = invoke("init-student", *given)
    assert result.exit_code == 2
    assert f"{override!r}: overrides can only be used with --config" in result.stderr
    assert result.stderr.endswith(named)


def test_a_new_head_is_offered_to_a_student_that_can_have_one(models):
    student = CheckpointStudent(model=str(models / "headless"))
    with pytest.raises(ModelError) as caught:
        build_student(student, None, 0)
    assert caught.value.hint.endswith("A student can get a new head: student.new_head=true.")
    build_student(student.model_copy(update={"new_head": True}), None, 0)
    with pytest.raises(ModelError) as caught:
        load_masked_lm(str(models / "headless"))
    assert "new_head" not in caught.value.hint


def test_a_task_has_no_teacher_to_offload(tiny_world, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError) as caught:
        make_accelerator(MaskedLMExperiment.model_validate(tiny_world.experiment()))
    assert caught.value.hint.endswith("teacher.offload=true makes room for a large teacher.")
    tasks = make_tasks(tmp_path)
    with pytest.raises(ConfigError) as caught:
        make_accelerator(TaskExperiment.model_validate(tasks.experiment("regression")))
    assert "offload" not in caught.value.hint


def test_a_suite_is_told_its_own_keys(tmp_path):
    tasks = make_tasks(tmp_path / "tasks")
    rows = tasks.root / "regression" / "train.csv"
    rows.write_text(rows.read_text() + "ba,not a number\n")
    suite = suite_file(tmp_path / "suite.yaml", tasks, "regression")
    result = invoke("suite", str(suite), "--seeds", "1")
    assert result.exit_code == 2
    key = "tasks.regression.task.skip_bad_rows=true"
    assert f"leave them out with {key}." in result.stderr
    again = invoke("suite", str(suite), "--seeds", "1", key, "train.max_steps=x")
    assert "train.max_steps: must be a whole number" in again.stderr  # the key is taken


def test_what_is_not_finite_asks_for_nothing_that_a_resume_refuses():
    assert "--resume" not in _IN_A_NEW_RUN
    assert "--force" in _IN_A_NEW_RUN


def test_an_error_in_other_words_stays_what_it_is():
    error = DataError("task.train: bad", "Set task.train.")
    other = error.reworded({"task.": "tasks.x.task."})
    assert (type(other), other.message) == (DataError, "tasks.x.task.train: bad")
    assert other.hint == "Set tasks.x.task.train."
    assert error.hint == "Set task.train."
