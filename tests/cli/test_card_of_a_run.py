"""The card of a run's student: there after training and after a kill, never over someone's own."""

import pytest
from typer.testing import CliRunner

from distilcli.cli.app import app
from distilcli.training.tracker_kinds import TensorBoardRun


@pytest.fixture
def train(tiny_world, tmp_path, fresh_accelerator):
    def start(*words: str) -> tuple[int, str]:
        settings = [f"output_dir={tmp_path}/runs", "train.max_steps=2", "validation.every=0"]
        line = ["train", "--config", str(tiny_world.config), *settings, *words]
        found = CliRunner().invoke(app, line)
        return found.exit_code, found.stdout + found.stderr

    return start


def test_the_card_of_a_run_that_was_killed_before_it_comes_with_the_resume(train, tmp_path):
    assert train()[0] == 0
    card = tmp_path / "runs" / "tiny" / "student" / "README.md"
    text = card.read_text()
    card.unlink()  # as after a kill between the student and its card
    assert train("--resume")[0] == 0
    assert card.read_text() == text
    assert train("--resume", "card.license=mit")[0] == 0
    assert "license: mit\n" in card.read_text()


def test_a_card_that_was_edited_stays_and_nothing_removes_it(train, tmp_path):
    assert train()[0] == 0
    card = tmp_path / "runs" / "tiny" / "student" / "README.md"
    card.write_text(card.read_text() + "My own words.\n")
    code, printed = train("--resume")
    assert code == 0
    assert "kept, because it is not as distilcli wrote it" in printed.replace("\n", " ")
    code, printed = train("--force")
    assert code == 2
    assert "did not write: README.md" in printed
    assert card.read_text().endswith("My own words.\n")


def test_trackers_are_given_the_student_with_its_card(train, monkeypatch):
    """What copies a student after training copies all of its folder."""
    given: list[set[str]] = []
    monkeypatch.setattr(
        TensorBoardRun,
        "student",
        lambda _, folder, upload: given.append({path.name for path in folder.iterdir()}),
    )
    code, printed = train("train.trackers=[tensorboard]")
    assert code == 0, printed
    [names] = given
    assert {"README.md", "model.safetensors", "tokenizer.json"} <= names
