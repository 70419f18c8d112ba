"""`eval` of runs on a task: scores as plain transformers has them, and where results go."""

import functools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_suites
import torch
from tiny_experiments import bert, listing
from tiny_suites import plain_outputs, plain_score, regression_model
from tiny_tasks import NUM_DEV, TinyTasks, make_tasks
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

from distilcli.config.experiment import TaskExperiment
from distilcli.distillation import task_rows
from distilcli.distillation.task_parts import open_task_of
from distilcli.evaluation import task as task_evaluation
from distilcli.training.run_folder import RunFolder

invoke = functools.partial(tiny_suites.invoke, command="eval")
refused = functools.partial(tiny_suites.refused, command="eval")

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> TinyTasks:
    return make_tasks(tmp_path_factory.mktemp("tasks"))


# eval of a run on a task


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tasks, expert) -> Path:
    """A run folder with a student that was never trained; its teacher is `expert`."""
    root = tmp_path_factory.mktemp("trained")
    tree = tasks.experiment("regression", name="own", output_dir=str(root))
    experiment = TaskExperiment.model_validate(tree | {"teacher": {"model": str(expert)}})
    RunFolder(root / "own").begin(experiment, force=False)
    regression_model(root / "own" / "student", 2, distilbert=True)
    return root / "own"


@pytest.mark.slow
def test_eval_of_a_run_on_a_task(trained, expert, tasks, tmp_path):
    arguments = [str(trained), "--output", str(tmp_path / "out"), "--speed"]
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record.pop("results") == str(tmp_path / "out" / "results.json")
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == record
    assert not (trained / "results.json").exists()
    assert (record["experiment"], record["score"]) == ("own", "pearson_spearman")
    assert list(record["models"]) == ["teacher", "own"]
    folders = {"teacher": expert, "own": trained / "student"}
    wanted = {name: plain_score(folder, tasks) for name, folder in folders.items()}
    assert abs(wanted["own"] - wanted["teacher"]) > 0.01
    for name, model in record["models"].items():
        assert model["scores"]["pearson_spearman"] == pytest.approx(wanted[name], abs=1e-5)
        assert model["retained"] == pytest.approx(wanted[name] / wanted["teacher"], rel=1e-3)
        plain = AutoModelForSequenceClassification.from_pretrained(folders[name])
        assert model["parameters"] == sum(tensor.numel() for tensor in plain.parameters())
        assert model["size_mib"] == pytest.approx(4 * model["parameters"] / 2**20)
        assert model["path"] == str(folders[name])
        outputs, of_teacher = (plain_outputs(folders[n], tasks)[:, 0] for n in (name, "teacher"))
        wanted_agreement = np.corrcoef(outputs, of_teacher)[0, 1]
        assert model["agreement"] == pytest.approx(wanted_agreement, abs=1e-5)
        [one] = model["passes"]
        assert (one["device"], one["inputs"]) == ("cpu", NUM_DEV)
        assert one["threads"] == torch.get_num_threads()
        assert one["best_batch_size"] in (1, 2, 4, 8, 16, 32, 64)
        assert one["single_seconds"] > one["batched_seconds"] > 0
    assert record["models"]["teacher"]["retained"] == 1.0
    assert record["dev"] is None


def test_eval_on_a_task_for_people_and_of_fewer_inputs(trained, tasks, tmp_path):
    arguments = [str(trained), "--output", str(tmp_path), "--speed", "--num-sequences", "7"]
    shown = invoke(*arguments)
    assert shown.exit_code == 0, shown.output
    for word in ("pearson_spearman", "retained", "agreement", "parameters", "MiB"):
        assert word in shown.stdout
    for word in ("one by one", "batches of", "agreement: Pearson's correlation with the teacher's"):
        assert word in shown.stdout
    assert f"{NUM_DEV} dev examples" in shown.stdout
    assert "7 inputs, cpu" in shown.stdout
    record = json.loads((tmp_path / "results.json").read_text())
    # Fewer inputs are timed; scores are of all of them.
    for model in record["models"].values():
        assert model["passes"][0]["inputs"] == 7
    score = record["models"]["own"]["scores"]["pearson_spearman"]
    assert score == pytest.approx(plain_score(trained / "student", tasks), abs=1e-5)


def test_eval_without_a_teacher_and_of_a_model_by_name(trained, expert, tasks, tmp_path):
    """The experiment is given, the models are folders; nothing is retained of no teacher."""
    config = tasks.write_config(tmp_path / "alone.yaml", "regression")
    arguments = ["--config", str(config), "--output", str(tmp_path)]
    result = invoke(str(expert), *arguments, "--json")
    assert result.exit_code == 0, result.output
    models = json.loads(result.stdout)["models"]
    assert list(models) == [str(expert)]
    assert models[str(expert)]["retained"] is None
    assert models[str(expert)]["agreement"] is None
    score = models[str(expert)]["scores"]["pearson_spearman"]
    assert score == pytest.approx(plain_score(expert, tasks), abs=1e-5)


def test_of_a_teacher_that_orders_examples_the_wrong_way_no_share_is_retained(
    expert, tasks, tmp_path
):
    """Its correlation is below 0: a better student would seem to keep less of it."""
    right = plain_score(expert, tasks) > 0
    wrong = AutoModelForSequenceClassification.from_pretrained(expert)
    if right:
        wrong.classifier.weight.data.neg_()
    shutil.copytree(expert, tmp_path / "wrong")
    wrong.save_pretrained(tmp_path / "wrong")
    config = tasks.write_config(
        tmp_path / "own.yaml",
        "regression",
        teacher={"model": str(tmp_path / "wrong")},
        student={"kind": "copied", "num_layers": 1},
    )
    result = invoke(str(expert), "--config", str(config), "--output", str(tmp_path), "--json")
    assert result.exit_code == 0, result.output
    models = json.loads(result.stdout)["models"]
    assert models["teacher"]["scores"]["pearson_spearman"] < 0
    assert [model["retained"] for model in models.values()] == [None, None]


def test_runs_of_one_name_are_all_measured(trained, expert, tmp_path):
    """Runs of a suite have one name on every task; `teacher` may be a run's name, too."""
    names = []
    for folder in ("a/own", "b/own", "teacher"):
        shutil.copytree(trained, tmp_path / folder)
        names.append(str(tmp_path / folder))
    result = invoke(*names, "--output", str(tmp_path), "--json")
    assert result.exit_code == 0, result.output
    models = json.loads(result.stdout)["models"]
    paths = {model["path"] for model in models.values()}
    assert paths == {str(expert), *(f"{name}/student" for name in names)}
    assert models["teacher"]["path"] == str(expert)


def test_eval_of_a_run_that_has_no_student_yet(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "own")
    shutil.rmtree(tmp_path / "own" / "student")
    message = refused(str(tmp_path / "own"))
    assert message == f"{tmp_path / 'own'}: this run has no student yet"


@pytest.mark.parametrize("flags", [[], ["--no-speed"]], ids=str)
def test_speed_is_measured_where_it_is_asked_for(trained, tmp_path, flags, monkeypatch):
    """It takes the longest; without it nothing is timed, and the table says how to have it."""
    monkeypatch.setattr(task_evaluation, "measure_passes", None)  # must not be called
    shown = invoke(str(trained), "--output", str(tmp_path), *flags)
    assert shown.exit_code == 0, shown.output
    assert "speed was not measured: --speed" in shown.stdout
    assert "one by one" not in shown.stdout
    record = json.loads((tmp_path / "results.json").read_text())
    assert [model["passes"] for model in record["models"].values()] == [[], []]


def test_results_go_into_the_run_that_is_named(trained, tmp_path):
    """Also where its experiment.yaml names the folder that it was moved or copied from."""
    shutil.copytree(trained, tmp_path / "x=1")
    before = listing(trained)
    result = invoke(str(tmp_path / "x=1"), "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["results"] == str(tmp_path / "x=1" / "results.json")
    assert list(record["models"]) == ["teacher", "x=1"]
    assert listing(trained) == before


# eval on other rows


@pytest.mark.parametrize("what", ["run", "student"])
def test_other_examples(trained, tasks, tmp_path, what):
    """Of a run, or of its student: other rows in the same columns, named in the table."""
    lines = (tasks.root / "regression" / "dev.csv").read_text().splitlines()
    other = tmp_path / "other.csv"
    other.write_text("\n".join(lines[:11]) + "\n")
    model = str(trained if what == "run" else trained / "student")
    before = listing(trained)
    shown = invoke(model, "--dev", str(other))
    assert shown.exit_code == 0, shown.output
    assert f"10 dev examples of {other}" in "".join(shown.stdout.split("\n"))
    assert "written" not in shown.stdout
    result = invoke(model, "--dev", str(other), "--json")
    record = json.loads(result.stdout)
    assert (record["dev"], record["results"]) == ([str(other)], None)
    numbers = plain_outputs(trained / "student", tasks)[:10, 0]
    truth = [float(line.split(",")[1]) for line in lines[1:11]]
    pearson = record["models"]["own"]["scores"]["pearson"]
    assert pearson == pytest.approx(np.corrcoef(numbers, truth)[0, 1], abs=1e-5)
    # The run's own results are of its own dev examples.
    assert listing(trained) == before
    written = invoke(model, "--dev", str(other), "--output", str(tmp_path / "out"), "--json")
    assert json.loads(written.stdout)["results"] == str(tmp_path / "out" / "results.json")


def test_other_examples_of_a_glue_task(tasks, tmp_path, monkeypatch):
    """Its columns and classes are GLUE's, its rows those that are named."""
    folder = tmp_path / "RTE"
    folder.mkdir()
    rows = "".join(f"{i}\tba {i}\tbe\tentailment\n" for i in range(3))
    for name in ("train", "dev"):
        text = f"index\tsentence1\tsentence2\tlabel\n{rows.replace('ba', name)}"
        (folder / f"{name}.tsv").write_text(text)
    other = tmp_path / "other.tsv"
    other.write_text("sentence1\tsentence2\tlabel\nbu\tbo\tnot_entailment\n")
    section = {"kind": "glue", "name": "RTE", "folder": str(folder), "max_length": 32}
    tree = tasks.experiment("classification", name="own", output_dir=str(tmp_path))
    experiment = TaskExperiment.model_validate(tree | {"task": section})
    seen = []
    monkeypatch.setattr(
        task_rows, "open_task_of", lambda e: seen.append(open_task_of(e)) or seen[-1]
    )
    RunFolder(tmp_path / "own").begin(experiment, force=False)
    BertForSequenceClassification(bert().config).save_pretrained(tmp_path / "own" / "student")
    result = invoke(str(tmp_path / "own"), "--dev", str(other))
    assert result.exit_code == 0, result.output
    [task] = seen
    assert task.num_examples == (3, 1)
    assert task.labels == ["entailment", "not_entailment"]
    assert task.dev.targets.tolist() == [1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dev", "nosuch.csv"], "task.dev.files: nosuch.csv matches no file"),
        (["--text", "a.txt"], "--text measures masked-LM models, and this experiment is on a task"),
        (["--documents", "line"], "--documents can only be used with --text"),
        (["--documents", "page"], "--documents page: not file, line or blank-line"),
        (["--teacher", "t"], "--teacher can only be used with --text"),
        (
            ["--num-sequences", "3"],
            "--num-sequences: on a task it says how many inputs are timed",
        ),
    ],
)
def test_what_does_not_fit_a_task(trained, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    before = listing(trained)
    assert refused(str(trained), *arguments) == message
    assert listing(trained) == before


# Where results go


@pytest.mark.parametrize("place", ["moved", "lr=1e-4/own", "~/own", "."])
def test_results_go_where_the_run_lies_now(trained, tmp_path, monkeypatch, place):
    """A copy's experiment.yaml still names the folder that it was copied from."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = Path(place.replace("~", str(tmp_path / "home")))
    folder = tmp_path / ("here" if place == "." else folder)
    shutil.copytree(trained, folder)
    monkeypatch.chdir(folder if place == "." else tmp_path)
    before = listing(trained)
    result = invoke(place, "--json")
    assert result.exit_code == 0, result.output
    assert listing(trained) == before
    record = json.loads(result.stdout)
    assert Path(record.pop("results")).resolve() == folder / "results.json"
    assert json.loads((folder / "results.json").read_text()) == record
    assert list(record["models"]) == ["teacher", folder.name]


def test_results_go_to_the_run_of_a_student_that_is_named(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "own")
    named = [str(tmp_path / "own" / "student"), "--config", str(trained / "experiment.yaml")]
    result = invoke(*named, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["results"] == str(tmp_path / "own" / "results.json")


@pytest.mark.parametrize("below", ["", "student", "student/deep"])
def test_results_are_not_written_into_a_model(trained, expert, tmp_path, below):
    shutil.copytree(trained, tmp_path / "own")
    before = listing(tmp_path), listing(expert)
    for folder in (expert, tmp_path / "own" / below if below else expert / "deep"):
        message = refused(str(tmp_path / "own"), "--output", str(folder))
        assert message.startswith(f"--output: {folder} would be written over or into ")
    assert (listing(tmp_path), listing(expert)) == before


def test_results_of_someone_else_are_not_replaced(trained, tmp_path):
    (tmp_path / "results.json").write_text('{"accuracy": 1.0}')
    message = refused(str(trained), "--output", str(tmp_path))
    assert message.startswith(f"{tmp_path / 'results.json'}: not replaced, because")
    assert (tmp_path / "results.json").read_text() == '{"accuracy": 1.0}'


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(("number", "code"), [(28, 1), (13, 2)], ids=["full", "permission"])
def test_what_was_measured_is_shown_before_it_cannot_be_written(
    trained, tmp_path, monkeypatch, as_json, number, code
):
    def fail(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("distilcli.training.results_file.write_atomically", fail)
    words = [str(trained), "--output", str(tmp_path / "out")]
    result = invoke(*words, *(["--json"] if as_json else []))
    assert result.exit_code == code
    said = f"{tmp_path / 'out' / 'results.json'}: cannot be written ([Errno {number}] "
    assert said in result.stderr
    if as_json:
        record = json.loads(result.stdout)
        assert list(record["models"]) == ["teacher", "own"]
        assert record["error"]["code"] == code
    else:
        assert "pearson_spearman" in result.stdout
        assert "written:" not in result.stdout


def test_a_student_that_a_kill_took_away_half_way_is_there_again(trained, tmp_path, expert):
    """The run was killed between the two renames by which a student takes another's place."""
    run = tmp_path / "own"
    shutil.copytree(trained, run)
    scratch = run / ".student.distilcli-writing"
    scratch.mkdir()
    (scratch / ".lock").touch()
    shutil.copytree(expert, scratch / "old")
    (run / "student").rename(scratch / "new")
    result = invoke(str(run), "--json")
    assert result.exit_code == 0, result.output
    assert not scratch.exists()
    assert (run / "student" / "model.safetensors").exists()
    again = invoke(str(trained), "--output", str(tmp_path / "out"), "--json")
    scores = [json.loads(one.stdout)["models"]["own"]["scores"] for one in (result, again)]
    assert scores[0] == scores[1]
