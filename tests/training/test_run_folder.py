"""The run folder: what may be begun, resumed and replaced in it, and its records."""

import json
import os
from pathlib import Path

import pytest
import yaml
from loss_settings import weights

from distilcli.config.experiment import MaskedLMExperiment
from distilcli.config.reading import load_masked_lm_experiment
from distilcli.errors import RunFolderError
from distilcli.files.marks import write_mark
from distilcli.training import checkpoints
from distilcli.training.environment import describe_environment
from distilcli.training.results_file import check_results, write_results
from distilcli.training.run_folder import RunFolder


def experiment(**sections: object) -> MaskedLMExperiment:
    data = {"sources": [{"files": "a.txt", "documents": "line"}], "store": "store"}
    tree = {"name": "x", "teacher": {"model": "teacher"}, "data": data}
    return MaskedLMExperiment.model_validate(tree | sections)


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return RunFolder(tmp_path / "runs" / "x")


@pytest.fixture
def begun(folder) -> RunFolder:
    folder.begin(experiment(), force=False)
    folder.append_metrics([record(1)])
    return folder


def record(step: int) -> dict:
    return {"step": step, "loss/total": 1 / step}


def test_begin_writes_the_whole_experiment_and_the_environment(folder):
    assert not folder.has_run
    folder.begin(experiment(seed=7), force=False)
    assert load_masked_lm_experiment(folder.experiment) == experiment(seed=7)
    assert yaml.safe_load(folder.experiment.read_text())["optim"]["lr"] == 5e-4
    environment = json.loads((folder.root / "environment.json").read_text())
    assert {"python", "packages", "command", "commit", "distilcli"} <= environment.keys()
    assert "torch" in environment["packages"]
    assert sorted(path.name for path in folder.root.iterdir()) == [
        "environment.json",
        "experiment.yaml",
    ]


@pytest.mark.parametrize("is_theirs", [False, True])
def test_force_removes_what_was_measured_on_the_student_that_goes(begun, is_theirs):
    """Results of someone else stay, whatever they are called."""
    results = {"accuracy": 0.5} if is_theirs else {"distilcli": "0.1.0", "models": {}}
    scores = {"author": "someone"} if is_theirs else {"accuracy": 0.5, "f1": 0.25}
    begun.results.write_text(json.dumps(results), encoding="utf-8")
    begun.scores.write_text(json.dumps(scores), encoding="utf-8")
    begun.begin(experiment(), force=True)
    assert [path.exists() for path in (begun.results, begun.scores)] == [is_theirs] * 2


def test_no_trace_takes_the_place_of_another(folder):
    assert folder.trace.name == "trace-1.json.gz"
    folder.trace.parent.mkdir(parents=True)
    folder.trace.touch()
    assert folder.trace.name == "trace-2.json.gz"


def test_environment_outside_of_a_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert describe_environment()["commit"] is None
    monkeypatch.setenv("PATH", str(tmp_path))  # no git at all
    assert describe_environment()["commit"] is None


# Who may use it


def test_a_folder_in_which_nothing_has_run_is_free(folder):
    folder.check(experiment(), resume=False, force=False)
    folder.initial_student.mkdir(parents=True)
    folder.check(experiment(), resume=False, force=False)


@pytest.mark.parametrize("trace", ["metrics", "checkpoints", "student"])
def test_a_run_is_not_overwritten(folder, trace):
    path = getattr(folder, trace)
    path.parent.mkdir(parents=True)
    path.touch() if trace == "metrics" else path.mkdir()
    with pytest.raises(RunFolderError, match="this run folder exists") as error:
        folder.check(experiment(), resume=False, force=False)
    assert str(folder.root) in error.value.message
    assert "--resume" in error.value.hint
    assert "--force" in error.value.hint


FREE = {
    "tokens_per_micro_batch": 512,
    "log_every": 3,
    "save_every": 3,
    "keep_checkpoints": 9,
    "trackers": ["tensorboard"],
}


def test_what_a_resume_may_change(begun):
    begun.check(experiment(), resume=True, force=False)
    begun.check(experiment(train=FREE, output_dir="elsewhere"), resume=True, force=False)


def test_a_run_of_an_earlier_version_goes_on(begun):
    """Its keys had other names, and terms that came later had no weight in it."""
    tree = yaml.safe_load(begun.experiment.read_text(encoding="utf-8"))
    loss = tree["loss"]
    old = {
        "temperature": loss["temperature"],
        "positions": loss["positions"],
        "alpha_ce": loss["soft_targets"]["weight"],
        "alpha_mlm": loss["masked_lm"]["weight"],
        "alpha_cos": loss["hidden_cosine"]["weight"],
        "alpha_mse": 0.0,
    }
    begun.experiment.write_text(yaml.safe_dump(tree | {"loss": old}), encoding="utf-8")
    begun.check(experiment(), resume=True, force=False)
    with pytest.raises(RunFolderError, match=r"these keys differ: loss\.masked_lm\.weight$"):
        begun.check(experiment(loss=weights(masked_lm=9)), resume=True, force=False)
    begun.experiment.write_text(
        yaml.safe_dump(tree | {"loss": old | {"alpha_mse": 1.0}}), encoding="utf-8"
    )
    with pytest.raises(RunFolderError, match=r"these keys differ: loss\.logit_mse\.weight$"):
        begun.check(experiment(), resume=True, force=False)


@pytest.mark.parametrize(
    ("changed", "keys"),
    [
        ({"seed": 1}, ["seed"]),
        ({"optim": {"lr": 1e-3}}, ["optim.lr"]),
        ({"train": {"global_batch_size": 8} | FREE}, ["train.global_batch_size"]),
        ({"teacher": {"model": "another"}}, ["teacher.model"]),
        ({"teacher": None, "student": {"source": "b"}}, ["teacher.model", "student.source"]),
        ({"student": {"layers": [0, 1]}}, ["student.layers"]),
        ({"student": {"kind": "random"}}, ["student.kind", "student.layers"]),
        ({"masking": {"whole_words": True}}, ["masking.whole_words"]),
        (
            {"loss": weights(soft_targets=1), "masking": {"smoothing": 0.7}},
            ["loss.soft_targets.weight"],
        ),
    ],
)
def test_what_a_resume_may_not_change(begun, changed, keys):
    with pytest.raises(RunFolderError, match="of another experiment; these keys differ") as error:
        begun.check(experiment(**changed), resume=True, force=False)
    named = error.value.message.rpartition(": ")[2].split(", ")
    assert set(keys) <= set(named)
    assert not any(key.startswith("train.") and key not in keys for key in named)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, ": no such file"),
        (b"", ": the file is empty; expected keys and values"),
        (b"a: [", ", line 1: expected the node content"),
        (b"\x00", ": not YAML"),
        (b"name: \xff", ", line 1: not UTF-8"),
        (b"[" * 10_000, ", line 1: nested more than 50 deep"),
    ],
)
def test_resume_without_a_readable_experiment(begun, content, message):
    begun.experiment.unlink()
    if content is not None:
        begun.experiment.write_bytes(content)
    with pytest.raises(RunFolderError) as caught:
        begun.check(experiment(), resume=True, force=False)
    assert caught.value.message.startswith(f"{begun.experiment}{message}")
    assert caught.value.exit_code == 2


def make_whole(folder: RunFolder) -> None:
    """What a run leaves, in small."""
    checkpoints.save(folder.checkpoints, 4, {"student": {}, "optimizer": {}}, {})
    for student in (folder.initial_student, folder.student):
        student.mkdir()
        (student / "config.json").write_text("{}")
        write_mark(student, "student")


def files_in(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_force_removes_what_ran_and_nothing_else(begun):
    make_whole(begun)
    theirs = ["notes.txt", "checkpoints/step-best/config.json", "results.json"]
    for name in theirs:
        (begun.root / name).parent.mkdir(exist_ok=True)
        (begun.root / name).write_text("mine")
    begun.check(experiment(seed=3), resume=False, force=True)
    begun.begin(experiment(seed=3), force=True)
    left = files_in(begun.root)
    assert sorted(left) == sorted([*theirs, "environment.json", "experiment.yaml"])
    assert {left[name] for name in theirs} == {"mine"}
    assert load_masked_lm_experiment(begun.experiment).seed == 3


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("student/thesis.tex", r"/student: not replaced, .* did not write: thesis\.tex"),
        ("student/config.json", r"/student: not replaced, .*: config\.json \(changed since\)"),
        ("initial-student/deep/a", "/initial-student: not replaced, .* write: deep/a"),
        ("checkpoints/step-00000004/a", "/step-00000004: holds what distilcli did not write: a"),
        ("checkpoints/step-00000008/a", "/step-00000008: holds what distilcli did not write: a"),
    ],
)
def test_force_names_what_it_would_lose_and_removes_nothing(begun, name, said):
    make_whole(begun)
    (begun.root / name).parent.mkdir(parents=True, exist_ok=True)
    (begun.root / name).write_text("mine")
    before = files_in(begun.root)
    for task in (begun.check, begun.begin):
        with pytest.raises(RunFolderError, match=said):
            task(experiment(), **({"resume": False} if task == begun.check else {}), force=True)
    assert files_in(begun.root) == before


def test_force_refuses_a_student_without_a_mark(begun):
    """Such as earlier versions wrote, or a person."""
    begun.student.mkdir()
    (begun.student / "config.json").write_text("{}")
    with pytest.raises(RunFolderError, match=r"no distilcli\.json\); it holds config") as error:
        begun.begin(experiment(), force=True)
    assert "an earlier version of distilcli wrote it, remove it yourself" in error.value.hint
    assert begun.metrics.exists()


@pytest.mark.parametrize(
    "name", ["experiment.yaml", "environment.json", "metrics.jsonl", "identity.json"]
)
@pytest.mark.parametrize("force", [False, True])
def test_files_of_someone_else_are_not_replaced(folder, name, force):
    """A folder that happens to have the name of a run, with files that have our names."""
    folder.root.mkdir(parents=True)
    (folder.root / name).write_text('{"mine": 1}')
    said = "this run folder exists" if name == "metrics.jsonl" and not force else "not replaced"
    with pytest.raises(RunFolderError, match=said):
        folder.check(experiment(), resume=False, force=force)
    with pytest.raises(RunFolderError, match=f"{name}: not replaced"):
        folder.begin(experiment(), force=force)
    assert files_in(folder.root) == {name: '{"mine": 1}'}


# Results


@pytest.mark.parametrize(
    ("text", "is_ours"),
    [('{"distilcli": "0.1", "models": {}}', True), ('{"models": {}}', False), ("[1]", False)],
)
def test_results_replace_only_results_of_ours(tmp_path, text, is_ours):
    path = tmp_path / "results.json"
    path.write_text(text)
    if is_ours:
        assert write_results(tmp_path, {"a": 1}) == path
        assert json.loads(path.read_text()) == {"a": 1}
        return
    for task in (check_results, lambda folder: write_results(folder, {"a": 1})):
        with pytest.raises(RunFolderError, match=r"results\.json: not replaced") as error:
            task(tmp_path)
        assert "--output" in error.value.hint
    assert path.read_text() == text


def test_results_of_an_earlier_version_in_a_run_folder_are_replaced(begun):
    (begun.root / "results.json").write_text('{"models": {}}')
    write_results(begun.root, {"a": 1})
    assert json.loads((begun.root / "results.json").read_text()) == {"a": 1}


def test_a_folder_for_results_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match=r"results\.json: cannot be written") as error:
        check_results(tmp_path / "file" / "below")
    assert error.value.exit_code == 2
    check_results(tmp_path / "not" / "there" / "yet")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(RunFolderError, match="cannot be written") as error:
        RunFolder(tmp_path / "runs" / "x").begin(experiment(), force=False)
    assert "output_dir" in error.value.hint


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(tmp_path):
    (tmp_path / "runs").mkdir(mode=0o555)
    with pytest.raises(RunFolderError, match="cannot be written"):
        RunFolder(tmp_path / "runs" / "x").begin(experiment(), force=False)


# Records


def steps(folder: RunFolder) -> list[int]:
    return [json.loads(line)["step"] for line in folder.metrics.read_text().splitlines()]


def test_truncate_drops_what_a_resume_does_again(folder):
    folder.root.mkdir(parents=True)
    folder.append_metrics([record(step) for step in range(1, 6)])
    before = folder.metrics.read_text()
    folder.truncate_metrics(5)
    assert folder.metrics.read_text() == before
    folder.truncate_metrics(3)
    assert steps(folder) == [1, 2, 3]
    folder.append_metrics([record(4)])
    assert steps(folder) == [1, 2, 3, 4]
    folder.truncate_metrics(0)
    assert folder.metrics.read_text() == ""


@pytest.mark.parametrize("cut", [2, 5, 20])
def test_truncate_drops_a_half_written_line(folder, cut):
    folder.root.mkdir(parents=True)
    folder.append_metrics([record(1), record(2), record(3)])
    folder.metrics.write_bytes(folder.metrics.read_bytes()[:-cut])
    folder.truncate_metrics(3)
    folder.append_metrics([record(3)])
    assert steps(folder) == [1, 2, 3]


def test_truncate_ends_a_line_that_lacks_only_its_end(folder):
    folder.root.mkdir(parents=True)
    folder.append_metrics([record(1), record(2)])
    folder.metrics.write_bytes(folder.metrics.read_bytes()[:-1])
    folder.truncate_metrics(2)
    folder.append_metrics([record(3)])
    assert steps(folder) == [1, 2, 3]


@pytest.mark.parametrize("damage", [b"\xff\xfe", b"[" * 100_000, b"{}", b"null", b'{"step": "x"}'])
def test_truncate_leaves_out_a_line_that_is_damaged(folder, damage):
    folder.root.mkdir(parents=True)
    folder.append_metrics([record(step) for step in range(1, 5)])
    lines = folder.metrics.read_bytes().splitlines(keepends=True)
    folder.metrics.write_bytes(b"".join([lines[0], damage + b"\n", *lines[2:]]))
    folder.truncate_metrics(3)
    assert steps(folder) == [1, 3]


def test_truncate_without_records(folder):
    """Cutting records that do not exist makes no file."""
    folder.truncate_metrics(3)
    assert not folder.metrics.exists()


def test_records_that_cannot_be_written(folder):
    folder.metrics.mkdir(parents=True)
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl: cannot be written"):
        folder.append_metrics([record(1)])
