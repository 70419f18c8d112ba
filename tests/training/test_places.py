"""Nothing is written over or into what is read, whatever links lead there."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from distilcli.cli.app import app
from distilcli.config.experiment import MaskedLMExperiment, TaskExperiment
from distilcli.errors import ConfigError
from distilcli.training.folder_checks import check_apart, check_places


def masked_lm(**changes: object) -> MaskedLMExperiment:
    data = {"sources": [{"files": "a.txt", "documents": "line"}], "store": "data/store"}
    return MaskedLMExperiment.model_validate(
        {"name": "x", "teacher": {"model": "models/teacher"}, "data": data} | changes
    )


def on_task(**changes: object) -> TaskExperiment:
    rows = {"files": "rows.csv"}
    tree = {
        "name": "x",
        "teacher": {"model": "models/teacher", "cache": "data/cache"},
        "student": {"kind": "checkpoint", "model": "models/student"},
        "task": {"kind": "classification", "train": rows, "dev": rows},
    }
    return TaskExperiment.model_validate(tree | changes)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    for name in ("models/teacher", "models/student", "runs/x/student", "runs/x/initial-student"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to("models/teacher")
    (tmp_path / "models" / "again").symlink_to("../link")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_usual_places():
    """None of the usual combinations of inputs and outputs is refused."""
    check_places(masked_lm())
    check_places(on_task())
    check_places(masked_lm(teacher={"model": "builtin:teacher"}, output_dir="models"))
    check_places(masked_lm(teacher={"model": "runs/other/student"}))
    check_places(masked_lm(teacher={"model": "someone/bert"}, output_dir="someone"))  # a hub's
    store = {"sources": [{"files": "a.txt", "documents": "line"}], "store": "runs/x/store"}
    check_places(masked_lm(data=store))


DATA = {"sources": [{"files": "a.txt", "documents": "line"}]}
ROWS = {"files": "rows.csv"}


@pytest.mark.parametrize(
    ("experiment", "words"),
    [
        (lambda: masked_lm(output_dir="models/teacher"), "teacher.model models/teacher"),
        (lambda: masked_lm(output_dir="models", name="teacher"), "teacher.model models/teacher"),
        # A folder of that name would be taken for the hub's model from then on.
        (
            lambda: masked_lm(teacher={"model": "a/b"}, output_dir="a", name="b"),
            "teacher.model a/b",
        ),
        (lambda: masked_lm(output_dir="link/deep"), "teacher.model models/teacher"),
        (lambda: masked_lm(output_dir="models/again"), "teacher.model models/teacher"),
        (lambda: masked_lm(teacher={"model": "link"}, output_dir="models/teacher"), "model link"),
        (lambda: masked_lm(teacher={"model": "runs/x/student"}), "teacher.model runs/x/student"),
        (
            lambda: masked_lm(student={"kind": "checkpoint", "model": "runs/x/initial-student"}),
            "student.model runs/x/initial-student",
        ),
        (lambda: masked_lm(student={"source": "models/student"}, output_dir="models/student"), "e"),
        (lambda: masked_lm(data=DATA | {"store": "models/teacher/store"}), "data.store: models/t"),
        (lambda: masked_lm(data=DATA | {"store": "runs"}), "data.store runs"),
        (lambda: masked_lm(data=DATA | {"store": "runs/x"}), "data.store runs/x"),
        (
            lambda: masked_lm(
                data={"sources": [{"hub": "models/student"}], "store": "models/student"}
            ),
            "data.sources.0.hub models/student",
        ),
        (lambda: on_task(output_dir="models/student"), "student.model models/student"),
        (lambda: on_task(output_dir="data/cache"), "teacher.cache data/cache"),
        (
            lambda: on_task(teacher={"model": "models/teacher", "cache": "models/teacher/cache"}),
            "teacher.cache: models/teacher/cache would be written",
        ),
        (
            lambda: on_task(
                task={"kind": "glue", "name": "RTE", "folder": "models/student"},
                student={"kind": "checkpoint", "model": "b"},
                output_dir="models/student",
            ),
            "task.folder models/student",
        ),
        (
            lambda: on_task(
                task={
                    "kind": "classification",
                    "train": ROWS,
                    "dev": {"hub": "./models", "split": "dev"},
                },
                output_dir="models/runs",
            ),
            "task.dev.hub ./models",
        ),
    ],
)
def test_an_output_in_an_input_is_refused_with_both_names(experiment, words):
    with pytest.raises(ConfigError, match="would be written over or into") as error:
        check_places(experiment())
    assert words in error.value.message
    assert error.value.hint == "Name another folder to write to."


def test_the_package_is_not_written_into():
    import distilcli

    inside = Path(distilcli.__file__).parent / "builtin" / "teacher" / "student"
    with pytest.raises(ConfigError, match="into --teacher builtin:teacher, which is read"):
        check_apart({"--output": inside}, {"--teacher": "builtin:teacher"})


@pytest.mark.parametrize("output", ["models/teacher", "models/teacher/deep/student", "link"])
@pytest.mark.parametrize("force", [[], ["--force"]])
def test_init_student_does_not_touch_its_teacher(here, output, force):
    (here / "models" / "teacher" / "config.json").write_text("{}")
    words = ["init-student", "--teacher", "models/again", "--output", output, *force]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert f"error: --output: {output} would be written over or into" in result.stderr
    assert [path.name for path in (here / "models" / "teacher").iterdir()] == ["config.json"]


THESIS = "thesis.tex"


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_init_student_does_not_replace_a_folder_of_someone_else(here, force):
    """A transformers folder of someone's is one of these too: it has no mark."""
    (here / "mine").mkdir()
    (here / "mine" / "config.json").write_text("{}")
    (here / "mine" / THESIS).write_text("years")
    words = ["init-student", "--teacher", "builtin:teacher", "--output", "mine", *force]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert "error: mine: not replaced" in result.stderr
    assert "it holds config.json, thesis.tex" in result.stderr
    assert "--force" not in result.stderr  # what is refused is not proposed
    assert (here / "mine" / THESIS).read_text() == "years"
