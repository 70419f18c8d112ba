"""How long inputs may be, and what is said of those that are cut."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from task_models import make_inputs, make_model
from task_rows import open_rows, question
from tiny_tasks import TinyTasks, make_tasks, pair_tokenizer
from typer.testing import CliRunner

from distilcli.cli.app import app
from distilcli.config.experiment import TaskExperiment
from distilcli.config.reading import load_any_experiment
from distilcli.config.stages import StagedExperiment
from distilcli.config.tasks import GlueTask
from distilcli.distillation.task_parts import open_task_of
from distilcli.errors import ConfigError, ModelError
from distilcli.models.task_models import _check_inputs
from distilcli.suites.plan import builtin_suite, load_suite
from distilcli.tasks.inputs import Cut
from distilcli.tasks.task import OpenTask

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
POSITIONS = 32  # of the tiny models
WORDS = ["ba", "be", "bi", "bo", "bu", "da", "de", "di", "do", "du"]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> TinyTasks:
    return make_tasks(tmp_path_factory.mktemp("tasks"))


def text(number: int, first: str) -> str:
    return " ".join([first, *(WORDS * 10)[: number - 1]])


def experiment(tasks: TinyTasks, folder: Path, lengths: tuple[int, int], **task: Any) -> Path:
    """An experiment file; each of its splits has a text of so many words, and a short one."""
    section: dict[str, Any] = {"kind": "classification"} | task
    for split, first, number in (("train", "ga", lengths[0]), ("dev", "go", lengths[1])):
        rows = [{"text": text(number, first), "label": "x"}, {"text": f"{first} da", "label": "y"}]
        path = folder / f"{split}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        section[split] = {"files": [str(path)]}
    tree = tasks.experiment("classification", output_dir=str(folder / "runs")) | {"task": section}
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


def opened(path: Path) -> OpenTask:
    found = load_any_experiment(path)
    assert isinstance(found, TaskExperiment)
    return open_task_of(found)


def test_inputs_are_as_long_as_the_models_have_positions(tasks: TinyTasks, tmp_path: Path) -> None:
    task = opened(experiment(tasks, tmp_path, (30, 31)))
    assert task.train.lengths.tolist() == [32, 4]  # with [CLS] and [SEP]
    assert task.dev.lengths.tolist() == [32, 4]
    assert task.cuts == (Cut(0, 0, 36), Cut(1, 1, 36))
    assert task.cuts[1].share == 1 / 37
    assert task.warnings == []


def test_what_a_limit_cuts_is_counted_and_much_is_warned_of(
    tasks: TinyTasks, tmp_path: Path
) -> None:
    task = opened(experiment(tasks, tmp_path, (30, 8), max_length=12))
    assert task.train.lengths.tolist() == [12, 4]
    assert task.cuts == (Cut(1, 20, 16), Cut(0, 0, 14))
    assert task.warnings == [
        "task.train: task.max_length 12 cuts 55.6% of the tokens, in 1 text; raise it, as far as "
        "the models have positions"
    ]


def test_five_percent_is_not_much(tasks: TinyTasks, tmp_path: Path) -> None:
    task = opened(experiment(tasks, tmp_path, (30, 8), max_length=31))
    assert task.cuts[0] == Cut(1, 1, 35)
    assert task.warnings == []


def test_prepare_shows_what_is_cut(tasks: TinyTasks, tmp_path: Path) -> None:
    path = experiment(tasks, tmp_path, (30, 13), max_length=12)
    result = CliRunner().invoke(app, ["prepare", "--config", str(path), "--json"])
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert (record["train"]["cut"], record["train"]["tokens_cut"]) == (1, 20)
    assert (record["dev"]["cut"], record["dev"]["tokens_cut"]) == (1, 3)
    assert "warning: task.train: task.max_length 12 cuts 55.6% of the tokens" in result.stderr
    said = CliRunner().invoke(app, ["prepare", "--config", str(path)]).output
    assert (
        "texts that are cut: 1 of train, 55.6% of its tokens; 1 of dev, 15.8% of its tokens; "
        "the longest input has 12 tokens"
    ) in " ".join(said.split())


@pytest.mark.usefixtures("fresh_accelerator")
def test_the_dry_run_says_what_is_cut(tasks: TinyTasks, tmp_path: Path) -> None:
    dry_run, batch = ["train", "--dry-run", "--config"], "train.global_batch_size=2"
    path = experiment(tasks, tmp_path, (30, 8), max_length=12)
    result = CliRunner().invoke(app, [*dry_run, str(path), batch])
    assert result.exit_code == 0, result.output
    said = " ".join(result.stderr.split())
    assert "texts that are cut: 1 of train, 55.6% of its tokens; 0 of dev" in said
    assert "warning: task.train: task.max_length 12 cuts 55.6% of the tokens" in said
    whole = experiment(tasks, tmp_path, (20, 8))
    result = CliRunner().invoke(app, [*dry_run, str(whole), batch])
    assert "no text is cut; the longest input has 22 tokens" in " ".join(result.stderr.split())


def test_of_a_pair_both_texts_count(tmp_path: Path) -> None:
    rows = [{"a": text(10, "ga"), "b": text(6, "gu"), "label": x} for x in "xy"]
    columns = {"text": "a", "text_pair": "b", "max_length": 12}
    task = open_rows(tmp_path, pair_tokenizer(), "classification", rows, rows[:1], **columns)
    assert task.train.lengths.tolist() == [12, 12]
    assert task.cuts == (Cut(2, 2 * 7, 24), Cut(1, 7, 12))


def test_a_long_sentence_of_words_is_not_cut_but_a_long_word_is(tmp_path: Path) -> None:
    rows = [{"tokens": WORDS * 2 + ["x" * 9], "tags": ["A", "B"] * 10 + ["A"]}]
    dev = [{"tokens": ["ba"], "tags": ["A"]}]
    task = open_rows(tmp_path, pair_tokenizer(), "tagging", rows, dev, max_length=8)
    assert len(task.train) == 5  # 3 x 6 words, 2 words, 6 pieces
    assert task.cuts[0] == Cut(1, 3, len(task.train.token_ids))
    whole = open_rows(tmp_path, pair_tokenizer(), "tagging", rows, dev)
    assert (len(whole.train), whole.cuts[0].inputs) == (1, 0)


def test_a_long_context_is_not_cut_but_a_long_question_is(tmp_path: Path) -> None:
    rows = [question(text(60, "ga"), "ga", text=text(11, "go")), question("ba bo", "bo")]
    settings = {"max_length": 32, "stride": 4, "max_question_length": 8}
    kind = "question-answering"
    task = open_rows(tmp_path, pair_tokenizer(), kind, rows, rows[1:], **settings)
    assert task.cuts == (Cut(1, 3, len(task.train.token_ids)), Cut(0, 0, 6))


def test_an_input_must_fit_into_a_micro_batch(tasks: TinyTasks, tmp_path: Path) -> None:
    path = experiment(tasks, tmp_path, (20, 8))
    tree = yaml.safe_load(path.read_text())
    tree["train"]["tokens_per_micro_batch"] = 20
    path.write_text(yaml.safe_dump(tree))
    with pytest.raises(ConfigError) as caught:
        opened(path)
    assert caught.value.message == (
        "train.tokens_per_micro_batch 20 is under the 22 tokens of the longest input"
    )


def test_an_input_longer_than_a_models_positions_is_refused() -> None:
    class Task:
        train = dev = make_inputs([41, 7], "sequence")

    with pytest.raises(ModelError) as caught:
        _check_inputs(Task, make_model("distilbert", "sequence"), "student x")
    assert caught.value.message == (
        "student x: it has 40 positions, but there are inputs of 41 tokens"
    )
    assert caught.value.hint.startswith("Set task.max_length=40")


def test_a_limit_over_the_positions_is_refused(tasks: TinyTasks, tmp_path: Path) -> None:
    path = experiment(tasks, tmp_path, (20, 8), max_length=POSITIONS + 1)
    result = CliRunner().invoke(app, ["train", "--dry-run", "--config", str(path)])
    assert result.exit_code == 2
    assert "task.max_length 33 is over the 32 positions" in result.stderr


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_experiment_says_how_long_its_inputs_are(path: Path) -> None:
    """Its figures were measured with that; a default may change."""
    found = load_any_experiment(path)
    staged = isinstance(found, StagedExperiment)
    for one in [stage.experiment for stage in found.stages] if staged else [found]:
        if isinstance(one, TaskExperiment):
            assert one.task.max_length is not None


def test_the_suites_say_how_long_their_inputs_are(tmp_path: Path) -> None:
    for task in load_suite(CONFIGS / "suites" / "english.yaml").tasks.values():
        assert task.task.max_length is not None
    tree, _ = builtin_suite("glue", None, "t", {"kind": "checkpoint", "model": "m"})
    lengths = {GlueTask.model_validate(task["task"]).max_length for task in tree["tasks"].values()}
    assert lengths == {128}
    (tmp_path / "train.tsv").touch()
    (tmp_path / "dev.tsv").touch()
    tree, _ = builtin_suite("tokens", tmp_path, "t", {"kind": "checkpoint", "model": "m"})
    assert tree["tasks"]["tokens"]["task"]["max_length"] == 128
