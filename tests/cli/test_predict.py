"""`predict` writes a model's outputs, and a student that learns from them is the model's own."""

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_experiments
import tiny_suites
import torch
import yaml
from accelerate.state import AcceleratorState
from predicting import config, predict, rows_of, run
from task_models import make_model
from tiny_experiments import listing
from tiny_tasks import TinyTasks, make_tasks, pair_tokenizer

from distilcli.distillation import predictions, teacher_outputs
from distilcli.errors import DistilError

pytestmark = pytest.mark.usefixtures("alone_and_offline")
refused = functools.partial(tiny_suites.refused, command="predict")
KINDS = {
    "classification": ("sequence", ["no", "yes"]),
    "multi-label": ("sequence", ["b", "d", "f"]),
    "regression": ("sequence", ["LABEL_0"]),
    "tagging": ("token", ["B-X", "I-X", "O"]),
    "reranking": ("sequence", ["LABEL_0"]),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> TinyTasks:
    return make_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def teachers(tmp_path_factory) -> Path:
    """A model for each kind, which has learnt nothing: its outputs differ all the same."""
    root = tmp_path_factory.mktemp("teachers")
    for kind, (head, labels) in KINDS.items():
        model = make_model("bert", head, len(labels), 2, vocab=len(pair_tokenizer()))
        model.config.id2label = dict(enumerate(labels))
        model.config.label2id = {name: index for index, name in enumerate(labels)}
        model.save_pretrained(root / kind)
        pair_tokenizer().save_pretrained(root / kind)
    return root


@pytest.fixture
def small_parts(monkeypatch):
    """Several parts of few inputs."""
    for module in (teacher_outputs, predictions):
        monkeypatch.setattr(module, "PART", 50)


@each_kind
def test_a_student_of_the_file_is_bitwise_the_student_of_the_model(kind, tasks, teachers, tmp_path):
    """Also where rows of the file are in another order, and if it is Parquet."""
    teacher = teachers / kind
    settings = config(tmp_path, tasks, kind, teacher, name="of-model")
    ending = "parquet" if kind in ("multi-label", "tagging", "reranking") else "jsonl"
    scored = predict(tmp_path, teacher, settings, f"scores.{ending}")
    if ending == "jsonl":
        lines = scored.read_text(encoding="utf-8").splitlines(keepends=True)
        scored.write_text("".join(lines[::-1]), encoding="utf-8")
    taught = {"teacher_outputs": {"files": str(scored)}}
    of_file = config(tmp_path, tasks, kind, teacher, name="of-file", teacher=None, task=taught)
    for path in (settings, of_file):
        run("train", "--config", path)
    model, file = (
        (tmp_path / "runs" / name / "student" / "model.safetensors").read_bytes()
        for name in ("of-model", "of-file")
    )
    assert model == file
    start = (teacher / "model.safetensors").read_bytes()
    assert model != start


def test_what_is_written_is_what_the_model_says(tasks, teachers, tmp_path, small_parts):
    """In the order of the rows, exactly, as JSON and as Parquet, whatever the size of parts."""
    teacher = teachers / "classification"
    settings = config(tmp_path, tasks, "classification", teacher)
    words = ["teacher.precision=fp32"]
    rows = rows_of(predict(tmp_path, teacher, settings, "a.jsonl", *words))
    assert rows_of(predict(tmp_path, teacher, settings, "a.parquet", *words)) == [
        row | {"logits": {n: np.float32(x) for n, x in row["logits"].items()}} for row in rows
    ]
    lines = (tasks.root / "classification" / "train.tsv").read_text().splitlines()[1:]
    assert [[row["first"], row["second"]] for row in rows] == [
        line.split("\t")[:2] for line in lines
    ]
    plain = make_model("bert", "sequence", 2, 2, vocab=len(pair_tokenizer())).eval()
    for row in rows[:9]:
        encoded = pair_tokenizer()(row["first"], row["second"], return_token_type_ids=True)
        inputs = {name: torch.tensor([values]) for name, values in encoded.items()}
        found = plain(**inputs).logits
        assert list(row["logits"]) == ["no", "yes"]
        assert list(row["logits"].values()) == pytest.approx(found[0].tolist(), abs=1e-5)
    assert listing(tmp_path).keys() == {"a.jsonl", "a.parquet", "classification.yaml"}


def test_parts_that_are_there_are_not_computed_again(
    tasks, teachers, tmp_path, small_parts, monkeypatch
):
    """After a kill; a damaged part is made anew, and one of another model is not looked at."""
    teacher = teachers / "tagging"
    settings = config(tmp_path, tasks, "tagging", teacher)
    whole = predict(tmp_path, teacher, settings, "whole.jsonl").read_text()
    monkeypatch.setattr(predictions, "write_rows", _fails)
    words = [teacher, "--config", settings, "--output", tmp_path / "s.jsonl"]
    error = run("predict", *words, code=1)["error"]
    assert error["message"] == "killed while it writes"
    parts = sorted((tmp_path / "s.jsonl.parts").rglob("part-*"))
    assert len(parts) == 5
    assert not (tmp_path / "s.jsonl").exists()
    monkeypatch.undo()
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr(teacher_outputs, "PART", 50)
    monkeypatch.setattr(predictions, "PART", 50)
    parts[1].write_bytes(parts[1].read_bytes()[:-10])
    parts[2].write_bytes(parts[3].read_bytes()[:-4] + b"\0\0\0\0")
    parts[4].unlink()
    computed: list[int] = []
    compute = teacher_outputs.TeacherOutputs._compute_part
    monkeypatch.setattr(
        teacher_outputs.TeacherOutputs,
        "_compute_part",
        lambda own, model, part, *more: computed.append(part) or compute(own, model, part, *more),
    )
    assert predict(tmp_path, teacher, settings, "s.jsonl").read_text() == whole
    assert computed == [1, 2, 4]
    assert not (tmp_path / "s.jsonl.parts").exists()


def _fails(*_: Any) -> None:
    raise DistilError("killed while it writes")


@pytest.mark.slow
def test_two_processes_write_one_file(tasks, teachers, tmp_path):
    teacher = teachers / "regression"
    settings = config(tmp_path, tasks, "regression", teacher)
    alone = predict(tmp_path, teacher, settings, "alone.jsonl")
    output = tmp_path / "both.jsonl"
    words = ["predict", str(teacher), "--config", str(settings), "--output", str(output), "--json"]
    finished = tiny_experiments.run(*words, num_processes=2)
    assert finished.code == 0, finished.stderr
    assert finished.json["rows"] == len(rows_of(alone))
    assert output.read_text() == alone.read_text()
    assert not (tmp_path / "both.jsonl.parts").exists()


def test_other_rows_need_no_labels(tasks, teachers, tmp_path):
    """Of any format, plain text too; a run stands for its student, and brings its experiment."""
    teacher = teachers / "regression"
    settings = config(tmp_path, tasks, "regression", teacher, name="run")
    (tmp_path / "rows.txt").write_text("ba be\nbi\n")
    (tmp_path / "more.csv").write_text("text,other\nbo bu,1\n")
    words = ["--rows", tmp_path / "rows.txt", "--rows", tmp_path / "more.csv"]
    rows = rows_of(predict(tmp_path, teacher, settings, "s.jsonl", *words))
    assert [row["text"] for row in rows] == ["ba be", "bi", "bo bu"]
    assert all(set(row) == {"text", "score"} for row in rows)
    run("train", "--config", settings)
    words = ["--rows", tmp_path / "rows.txt"]
    output = tmp_path / "of-run.parquet"
    record = run("predict", tmp_path / "runs" / "run", "--output", output, *words)
    assert record["model"] == str(tmp_path / "runs" / "run" / "student")
    assert (record["rows"], record["columns"]) == (2, ["text", "score"])
    assert [row["score"] for row in rows_of(output)] != [row["score"] for row in rows[:2]]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("rows.bin", "ba\n", "--rows: ROWS has no ending that tells its format"),
        ("rows.csv", "other\nba\n", "ROWS line 1: no column 'text'"),
        ("rows.csv", "text\n \n", "ROWS: 1 bad row"),
    ],
)
def test_bad_rows_are_told_in_the_words_of_predict(tasks, teachers, tmp_path, name, text, message):
    settings = config(tmp_path, tasks, "regression", teachers / "regression")
    rows = tmp_path / name
    rows.write_text(text)
    words = ["--config", settings, "--output", tmp_path / "s.jsonl", "--rows", rows]
    error = run("predict", teachers / "regression", *words, code=2)["error"]
    assert message.replace("ROWS", str(rows)) in error["message"]
    for word in ("task.transfer", "task.train"):
        assert word not in error["message"] + error["hint"]


def test_that_rows_are_measured_on_elsewhere_is_no_warning_of_predict(tasks, teachers, tmp_path):
    """The dev rows themselves, say; that much is cut is one, and names the option."""
    teacher = teachers / "regression"
    settings = config(tmp_path, tasks, "regression", teacher, task={"max_length": 8})
    dev = tasks.root / "regression" / "dev.csv"
    words = ["--config", settings, "--rows", dev, "--output", tmp_path / "s.jsonl"]
    shown = tiny_suites.invoke(str(teacher), *map(str, words), command="predict")
    AcceleratorState._reset_state(reset_partial_state=True)
    assert shown.exit_code == 0, shown.output
    warnings = [line for line in shown.stderr.splitlines() if line.startswith("warning: ")]
    assert [line.partition(" cuts ")[0] for line in warnings] == [
        "warning: --rows: task.max_length 8"
    ]
    assert "task.t" not in shown.output


def test_candidates_are_scored_one_a_row_or_all_of_a_query(tasks, teachers, tmp_path):
    """As the rows have them; the scores are those of transformers' own call."""
    teacher = teachers / "reranking"
    settings = config(tmp_path, tasks, "reranking", teacher)
    rows = tmp_path / "rows.jsonl"
    queries = [
        {"query": "ka", "documents": ["ba be", "bu"]},
        {"query": "ke", "documents": ["fa", "fa fe", "da"]},
    ]
    rows.write_text("".join(json.dumps(row) + "\n" for row in queries))
    words = ["--rows", rows, "teacher.precision=fp32"]
    nested = rows_of(predict(tmp_path, teacher, settings, "nested.jsonl", *words))
    assert [list(row) for row in nested] == [["query", "documents", "score"]] * 2
    flat = [{"query": q["query"], "documents": d} for q in queries for d in q["documents"]]
    rows.write_text("".join(json.dumps(row) + "\n" for row in flat))
    found = rows_of(predict(tmp_path, teacher, settings, "flat.jsonl", *words))
    plain = make_model("bert", "sequence", 1, 2, vocab=len(pair_tokenizer())).eval()
    scores = [score for row in nested for score in row["score"]]
    for row, shown, score in zip(found, flat, scores, strict=True):
        encoded = pair_tokenizer()(*shown.values(), return_token_type_ids=True)
        inputs = {name: torch.tensor([values]) for name, values in encoded.items()}
        expected = plain(**inputs).logits[0, 0].item()
        assert row == shown | {"score": pytest.approx(expected, abs=1e-5)}
        assert score == pytest.approx(expected, abs=1e-5)
    output = ["--output", str(tmp_path / "x.jsonl"), "--id", "query"]
    error = refused(str(teacher), "--config", str(settings), *output)
    assert error == "--id: the scores of a query's candidates are matched by query and document"


def test_rows_without_labels_are_among_those_to_train_on(tasks, teachers, tmp_path):
    """A student of the file, which knows rows of task.transfer too, is that of the model."""
    teacher = teachers / "classification"
    more = tmp_path / "more.jsonl"
    more.write_text('{"first": "ba", "second": "be"}\n{"first": "fu", "second": "ka ga"}\n')
    transfer = {"transfer": {"files": str(more), "weight": 2}}
    settings = config(tmp_path, tasks, "classification", teacher, name="of-model", task=transfer)
    scored = predict(tmp_path, teacher, settings, "scores.jsonl")
    assert [row["first"] for row in rows_of(scored)][-2:] == ["ba", "fu"]
    taught = transfer | {"teacher_outputs": {"files": str(scored)}}
    changes = {"name": "of-file", "teacher": None, "task": taught}
    of_file = config(tmp_path, tasks, "classification", teacher, **changes)
    found = []
    for path in (settings, of_file):
        run("train", "--config", path)
        found.append(tmp_path / "runs" / path.stem / "student" / "model.safetensors")
    assert found[0].read_bytes() == found[1].read_bytes()


def test_ids_are_written_and_matched(tasks, teachers, tmp_path):
    """The experiment that will read the file says which column; or an option does."""
    teacher = teachers / "regression"
    lines = (tasks.root / "regression" / "train.csv").read_text().splitlines()
    keyed = [f"{number},{line}" for number, line in enumerate(lines[1:])]
    (tmp_path / "train.csv").write_text("\n".join(["key,text,label", *keyed]) + "\n")
    task = {"train": {"files": [str(tmp_path / "train.csv")]}}
    scored = tmp_path / "scores.jsonl"
    taught = task | {"teacher_outputs": {"files": str(scored), "id": "key", "column": "said"}}
    settings = config(tmp_path, tasks, "regression", teacher, teacher=None, task=taught)
    predict(tmp_path, teacher, settings, "scores.jsonl")
    rows = rows_of(scored)
    assert [list(row) for row in rows[:1]] == [["key", "text", "said"]]
    assert [row["key"] for row in rows] == [str(number) for number in range(len(rows))]
    run("train", "--config", settings, "--dry-run")
    plain = config(tmp_path, tasks, "regression", teacher, name="plain", task=task)
    named = rows_of(predict(tmp_path, teacher, plain, "named.jsonl", "--id", "key"))
    assert [row["key"] for row in named] == [row["key"] for row in rows]


def test_a_file_is_measured_as_the_teacher_where_it_knows_the_dev_rows(tasks, teachers, tmp_path):
    kind, teacher = "regression", teachers / "regression"
    settings = config(tmp_path, tasks, kind, teacher, name="of-model")
    run("train", "--config", settings)
    scored = predict(tmp_path, teacher, settings, "train.jsonl")
    dev = tasks.root / kind / "dev.csv"
    of_dev = predict(tmp_path, teacher, settings, "dev.parquet", "--rows", dev)
    student = tmp_path / "runs" / "of-model" / "student"
    expected = run("eval", student, "--config", settings, "--output", tmp_path / "model")["models"]
    for files, names in (([scored, of_dev], ["teacher", "of-model"]), ([scored], ["of-model"])):
        taught = {"teacher_outputs": {"files": [str(file) for file in files]}}
        changes = {"name": "of-file", "teacher": None, "task": taught}
        of_file = config(tmp_path, tasks, kind, teacher, **changes)
        words = [student, "--config", of_file, "--output", tmp_path / "file"]
        found = run("eval", *words)["models"]
        assert list(found) == names
        own, same = found["of-model"], expected["of-model"]
        assert own["scores"] == same["scores"]
        if "teacher" in found:
            # Eval computes the teacher in fp32, predict in the precision of teachers.
            for key, value in found["teacher"]["scores"].items():
                assert value == pytest.approx(expected["teacher"]["scores"][key], abs=0.02)
            assert (found["teacher"]["parameters"], found["teacher"]["size_mib"]) == (None, None)
            assert own["agreement"] == pytest.approx(same["agreement"], abs=0.02)
            assert found["teacher"]["retained"] in (1.0, None)
        else:
            assert own["agreement"] is None
    shown = tiny_suites.invoke(
        str(student), "--config", str(config_with(of_file, [scored, of_dev])), command="eval"
    )
    assert shown.exit_code == 0, shown.output
    assert "agreement: Pearson" in shown.stdout


def config_with(path: Path, files: list[Path]) -> Path:
    tree = yaml.safe_load(path.read_text())
    tree["task"]["teacher_outputs"]["files"] = [str(file) for file in files]
    path.write_text(yaml.safe_dump(tree))
    return path


def test_resuming_with_other_outputs_is_refused(tasks, teachers, tmp_path):
    """They are what is learned from."""
    teacher = teachers / "regression"
    settings = config(tmp_path, tasks, "regression", teacher)
    scored = predict(tmp_path, teacher, settings, "scores.jsonl")
    taught = {"teacher_outputs": {"files": str(scored)}}
    of_file = config(tmp_path, tasks, "regression", teacher, teacher=None, task=taught)
    run("train", "--config", of_file)
    rows = rows_of(scored)
    rows[3]["score"] += 0.5
    scored.write_text("".join(json.dumps(row) + "\n" for row in rows))
    error = run("train", "--config", of_file, "--resume", code=2)["error"]
    assert f"has changed since: task.teacher_outputs of train rows ({scored})" in error["message"]
    assert "task.train" not in error["message"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--output", "s.txt"], "--output s.txt: its ending says no format"),
        (["--output", "there.jsonl"], "--output there.jsonl: it is there already"),
        (["--output", "TEACHER/s.jsonl"], "--output: TEACHER/s.jsonl would be written over or"),
        (["TEACHER"], "one model is needed, and 2 is given"),
        (["task.teacher_outputs={holds: probabilities}"], "task.teacher_outputs.holds: what is"),
        (["--id", "none"], "train.jsonl: 160 bad rows"),
        (["--rows", "none.csv"], "--rows: none.csv matches no file"),
        (["task.teacher_outputs={column: text}"], "text: the rows have a column of this name"),
    ],
)
def test_what_cannot_be_written_is_said_at_once(
    words, message, tasks, teachers, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("there.jsonl").touch()
    teacher = teachers / "multi-label"
    settings = config(tmp_path, tasks, "multi-label", teacher, teacher=None)
    words = [word.replace("TEACHER", str(teacher)) for word in words]
    given = ["--output", "s.jsonl"] if "--output" not in words else []
    before = listing(tmp_path)
    error = refused(str(teacher), "--config", str(settings), *given, *words)
    assert message.replace("TEACHER", str(teacher)) in error
    assert listing(tmp_path) == before
    assert not (teacher / "s.jsonl").exists()


def test_other_experiments_and_models_are_refused(tasks, teachers, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    output = ["--output", "s.jsonl"]
    assert refused(str(teachers / "tagging"), *output) == "no experiment says what the task is"
    settings = config(tmp_path, tasks, "tagging", teachers / "tagging")
    other = refused(str(teachers / "classification"), "--config", str(settings), *output)
    assert other == "the teacher's classes are no, yes, the task's are B-X, I-X, O"
    words = [str(tasks.model), "--config", str(config(tmp_path, tasks, "regression", tasks.model))]
    assert "it has no head for this task" in refused(*words, *output)
    answers = tasks.experiment("question-answering")
    Path("qa.yaml").write_text(yaml.safe_dump(answers))
    for words in ([], ["--id", "id"]):
        error = refused(str(tasks.model), "--config", "qa.yaml", *output, *words)
        assert error == "the outputs of this kind of task are not written down"
    assert not Path("s.jsonl").exists()
