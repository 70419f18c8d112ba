"""`--push-to-hub` and `distilcli push`, from the command line to a server that is the hub here."""

import json
from pathlib import Path

import hub_server
import pytest
from hub_contents import Repository
from hub_server import hub_of
from huggingface_hub import ModelCard, constants
from tiny_experiments import start_function
from typer.testing import CliRunner

from distilcli.cli.app import app
from distilcli.cli.options import push_words
from distilcli.hub import model_files

TOKEN = "hf_verysecretverysecretverysecret"
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub(tmp_path, monkeypatch, fresh_accelerator):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    model_files._commit.cache_clear()
    with hub_of(None, tmp_path / "cache", monkeypatch) as server:
        server.tokens[TOKEN] = "write"
        yield server
    model_files._commit.cache_clear()


def run(*words: object) -> tuple[int, dict, str]:
    """Exit code, JSON on stdout, and all that was printed."""
    found = CliRunner().invoke(app, [*map(str, words), "--json"])
    printed = found.stdout + found.stderr
    assert TOKEN not in printed
    return found.exit_code, json.loads(found.stdout) if found.stdout else {}, printed


@pytest.fixture
def train(tiny_world, tmp_path):
    def start(*words: str) -> tuple[int, dict, str]:
        settings = [f"output_dir={tmp_path}/runs", "train.max_steps=2", "validation.every=0"]
        return run("train", "--config", tiny_world.config, *settings, *words)

    return start


def holds_token(folder: Path) -> list[Path]:
    """The files in which the token stands."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if TOKEN.encode() in path.read_bytes()]


def test_a_run_is_sent_with_its_card_and_can_be_sent_again_when_it_is_measured(
    hub, train, tmp_path
):
    code, record, _ = train("--push-to-hub", "someone/tiny")
    assert code == 0
    repository = hub.repositories["someone/tiny"]
    assert repository.is_private
    assert record["hub"]["repository"] == "someone/tiny"
    assert record["hub"]["commit"].endswith(repository.head)
    sent = repository.files[repository.head]
    student = tmp_path / "runs" / "tiny" / "student"
    assert sent["model.safetensors"] == (student / "model.safetensors").read_bytes()
    card = ModelCard(sent["README.md"].decode())
    assert 'model="someone/tiny"' in card.text
    assert card.data.pipeline_tag == "fill-mask"
    assert [one.metric_type for one in card.data.eval_results] == ["accuracy", "loss"]
    assert "while it was trained" in card.text

    code, _, _ = run("eval", student.parent, "--no-speed")
    assert code == 0
    code, _, _ = run("push", student.parent, "someone/tiny")
    assert code == 0
    assert len(repository.messages) == 2
    sent = repository.files[repository.head]
    assert "| retained |" in sent["README.md"].decode()
    assert holds_token(tmp_path / "runs") == []


def test_what_stands_in_the_way_is_found_before_anything_is_made(hub, train, tmp_path):
    hub.tokens[TOKEN] = "read"
    code, record, _ = train("--push-to-hub", "someone/tiny")
    assert code == 2
    assert "may only read" in record["error"]["message"]
    assert not (tmp_path / "runs").exists()
    code, _, _ = train("--push-to-hub", "someone/tiny", "--dry-run")
    assert code == 2
    hub.tokens[TOKEN] = "write"
    for more in ([], ["--dry-run"]):
        code, record, _ = train("--push-to-hub", "someone/tiny", "card.license=invented", *more)
        assert code == 2
        assert "it refuses the card" in record["error"]["message"]
    assert hub.repositories == {}
    code, record, _ = train("--public")
    assert code == 2
    assert "--push-to-hub" in record["error"]["message"]


def test_a_dry_run_makes_no_repository(hub, train, tiny_world):
    assert run("prepare", "--config", tiny_world.config)[0] == 0
    code, _, printed = train("--push-to-hub", "someone/tiny", "--dry-run")
    assert code == 0, printed
    assert hub.repositories == {}


def test_a_student_that_the_hub_does_not_take_is_kept_and_the_way_on_is_said(hub, train, tmp_path):
    hub.failures["POST .*/commit/"] = 9, (403, {})
    code, record, _ = train("--push-to-hub", "someone/tiny", "--public")
    assert code == 1
    student = tmp_path / "runs" / "tiny" / "student"
    assert (student / "model.safetensors").exists()
    assert record["steps"] == 2
    assert "your token may not write there (403)" in record["error"]["message"]
    again = f"distilcli push {student} someone/tiny --public"
    assert record["error"]["hint"].endswith(again)
    hub.failures.clear()
    code, record, _ = run(*again.split()[1:])
    assert code == 0
    assert hub.repositories["someone/tiny"].messages == ["Model and card by distilcli"]


def test_a_folder_without_a_model_is_not_sent(hub, tmp_path):
    code, record, _ = run("push", tmp_path, "someone/tiny")
    assert code == 2
    assert "there is no model in it" in record["error"]["message"]
    code, record, _ = run("push", "someone/tiny", tmp_path)  # the wrong way round
    assert code == 2
    assert record["error"]["message"] == "someone/tiny: there is no such run or folder"
    assert "then its name on the hub" in record["error"]["hint"]
    assert hub.asked == []


def test_a_student_on_the_hub_is_a_teacher_for_others(hub, tiny_world, train, tmp_path):
    """Downloaded by the same client, by its name and a tag; its card says what the next one is."""
    files = {path.name: path.read_bytes() for path in tiny_world.teacher.iterdir()}
    files["README.md"] = b"---\nlicense: cc-by-4.0\nlanguage: [en]\n---\n# Theirs\n"
    commit = "a" * 40
    hub.repositories["lab/teacher"] = Repository({commit: files, "b" * 40: {}}, {"v1": commit})
    code, _, printed = train("teacher.model=lab/teacher", "teacher.revision=v1")
    assert code == 0, printed
    card = ModelCard.load(tmp_path / "runs" / "tiny" / "student" / "README.md")
    assert card.data.base_model == ["lab/teacher"]
    assert (card.data.license, card.data.language) == ("cc-by-4.0", ["en"])
    assert f"(commit {commit[:12]})" in card.text


def test_several_stages_send_the_student_of_the_last(hub, tiny_world, tmp_path):
    settings = tiny_world.experiment()
    data = {"data": settings.pop("data")}
    settings["train"]["max_steps"] = 2
    stages = {"stages": [{"name": "one", **data}, {"name": "two", **data}]}
    settings |= {"output_dir": str(tmp_path / "runs"), "teacher": settings["teacher"], **stages}
    config = tmp_path / "staged.yaml"
    config.write_text(json.dumps(settings))
    code, record, printed = run("train", "--config", config, "--push-to-hub", "someone/tiny")
    assert code == 0, printed
    sent = hub.repositories["someone/tiny"]
    card = ModelCard(sent.files[sent.head]["README.md"].decode())
    assert "Stage one: " in card.text
    assert "Stage two: " in card.text
    assert record["hub"]["repository"] == "someone/tiny"
    assert [stage["stage"] for stage in record["stages"]] == ["one", "two"]


@pytest.mark.slow
def test_the_first_of_two_processes_sends_and_the_other_waits_for_nothing(
    hub, tiny_world, tmp_path
):
    """What is refused before training ends both; an upload that fails is the first one's error."""
    train = ["train", "--config", str(tiny_world.config), f"output_dir={tmp_path}/runs", "--json"]
    train += ["train.max_steps=2", "validation.every=0", "--push-to-hub", "someone/tiny"]

    def codes(*more: str) -> tuple[list[int | None], dict, str]:
        words = [hub.endpoint, str(tmp_path / "cache"), TOKEN, *train, *more]
        running = start_function(hub_server.command, words, 2)
        finished = running.wait()
        assert TOKEN not in finished.stdout + finished.stderr
        return [one.exitcode for one in running.processes], finished.json, finished.stderr

    hub.tokens[TOKEN] = "read"
    assert codes()[0] == [2, 2]
    assert not (tmp_path / "runs").exists()
    hub.tokens[TOKEN] = "write"
    hub.failures["POST .*/commit/"] = 9, (403, {})
    found, record, errors = codes()
    assert found == [1, 0]
    assert record["error"]["message"] in errors
    assert record["steps"] == 2
    hub.failures.clear()
    found, record, _ = codes("--resume")
    assert found == [0, 0]
    repository = hub.repositories["someone/tiny"]
    assert record["hub"]["commit"].endswith(repository.head)
    assert len(repository.messages) == 1
    assert sum("repos/create" in request for request in hub.asked) == 1


@pytest.mark.slow
def test_an_export_is_sent_with_its_card(hub, tiny_world, tmp_path):
    text = ["--text", tiny_world.text, "--documents", "line", "--formats", "onnx", "--no-speed"]
    output = tmp_path / "exported"
    push = ["--push-to-hub", "someone/tiny-onnx"]
    hub.tokens[TOKEN] = "read"
    assert run("export", tiny_world.teacher, "--output", output, *text, *push)[0] == 2
    assert not output.exists()
    hub.tokens[TOKEN] = "write"
    code, record, printed = run("export", tiny_world.teacher, "--output", output, *text, *push)
    assert code == 0, printed
    repository = hub.repositories["someone/tiny-onnx"]
    sent = repository.files[repository.head]
    assert sent["onnx/model.onnx"] == (output / "onnx" / "model.onnx").read_bytes()
    card = ModelCard(sent["README.md"].decode())
    assert card.data.library_name == "transformers.js"
    assert record["hub"]["repository"] == "someone/tiny-onnx"


def test_an_interrupted_run_is_told_to_go_on_with_the_same_destination():
    assert push_words("a/b", True) == ["--push-to-hub", "a/b", "--public"]
    assert push_words(None, False) == []
