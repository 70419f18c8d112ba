"""What an export is measured by: the scores of eval, of the same weights, whoever runs them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate import Accelerator
from task_models import make_model
from tiny_embeddings import make_embeddings
from tiny_tasks import TinyTasks, make_tasks, pair_tokenizer

from distilcli.cli.console import Console
from distilcli.config.embedding import EmbeddingExperiment
from distilcli.config.experiment import TaskExperiment
from distilcli.distillation.measured_text import settings_of, text_to_measure
from distilcli.distillation.run_kinds import kind_of
from distilcli.errors import NonFiniteLossError
from distilcli.evaluation.asked import Asked
from distilcli.evaluation.dev_examples import measured_scores
from distilcli.evaluation.embeddings import encoder_scores
from distilcli.evaluation.text import scores_on_text
from distilcli.export.opening import open_subject
from distilcli.export.running import by_torch, evenly_spaced, rows_read
from distilcli.models.attention import use_packed_attention

KINDS = {
    "classification": ("sequence", ["no", "yes"]),
    "multi-label": ("sequence", ["b", "d", "f"]),
    "regression": ("sequence", ["LABEL_0"]),
    "reranking": ("sequence", ["LABEL_0"]),
    "tagging": ("token", ["B-X", "I-X", "O"]),
    "question-answering": ("span", ["LABEL_0", "LABEL_1"]),
}
SIZES = (1, 7)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> TinyTasks:
    return make_tasks(tmp_path_factory.mktemp("tasks"))


def saved(folder: Path, body: str, head: str, labels: list[str]) -> Path:
    """A model that has learnt nothing: its outputs differ from input to input all the same."""
    model = make_model(body, head, len(labels), 2, vocab=len(pair_tokenizer()))
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {name: index for index, name in enumerate(labels)}
    model.save_pretrained(folder)
    pair_tokenizer().save_pretrained(folder)
    return folder


def of_task(tasks: TinyTasks, kind: str, folder: Path, **changes: Any) -> Any:
    head, labels = KINDS[kind]
    student = saved(folder, "distilbert", head, labels)
    tree = tasks.experiment(kind, student={"kind": "checkpoint", "model": str(student)})
    experiment = TaskExperiment.model_validate(tree)
    return open_subject(kind_of(experiment), str(student), Asked(**changes), Console(as_json=True))


@pytest.mark.parametrize("kind", KINDS)
def test_scores_of_a_task_are_those_of_eval(kind, tasks, tmp_path):
    subject = of_task(tasks, kind, tmp_path / "student")
    found = [subject.scores(by_torch(subject.graph), size, "it") for size in SIZES]
    expected = measured_scores(subject.task, subject.model, Accelerator(cpu=True), 256, "it")
    for scores in found:
        assert next(iter(scores)) == subject.score
        assert scores == pytest.approx(expected, abs=1e-5)


def test_scores_of_vectors_are_those_of_eval(tmp_path):
    world = make_embeddings(tmp_path)
    tree = world.experiment(task=world.task() | {"retrieval": world.retrieval()})
    experiment = EmbeddingExperiment.model_validate(tree)
    subject = open_subject(kind_of(experiment), str(world.teacher), Asked(), Console(as_json=True))
    found = [subject.scores(by_torch(subject.graph), size, "it") for size in SIZES]
    use_packed_attention(subject.model)
    accelerator = Accelerator(cpu=True)
    expected = encoder_scores(subject.data, subject.model, subject.encoding, accelerator, 256, ())
    for scores in found:
        assert next(iter(scores)) == subject.score
        assert scores == pytest.approx(expected.values, abs=1e-5)


def test_scores_of_text_are_those_of_eval(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    student = saved(tmp_path / "student", "bert", "masked-lm", [])
    text = tmp_path / "text.txt"
    text.write_text(
        "\n".join(["ba be bi " * 4, "do du da di " * 3, "ga ge gi go gu " * 3] * 20),
        encoding="utf-8",
    )
    experiment = settings_of([str(student)], None)
    asked, console = Asked(text=(str(text),), documents="line"), Console(as_json=True)
    subject = open_subject(kind_of(experiment), str(student), asked, console)
    found = [subject.scores(by_torch(subject.graph), size, "it") for size in SIZES]
    measured = text_to_measure(experiment, {"it": str(student)}, asked, console)
    expected = scores_on_text("it", subject.model, None, measured, Accelerator(cpu=True), None, 256)
    assert len(subject.text.targets) == expected.num_masked > 10
    for scores in found:
        assert scores["accuracy"] == pytest.approx(expected.accuracy)
        assert scores["loss"] == pytest.approx(expected.loss, abs=1e-5)


def test_outputs_that_are_not_finite_are_no_scores(tasks, tmp_path):
    subject = of_task(tasks, "classification", tmp_path / "student")

    def run(batch):
        return {"logits": np.full((len(batch["input_ids"]), 2), np.inf)}

    with pytest.raises(NonFiniteLossError, match="int8: not all of its outputs"):
        subject.scores(run, 8, "int8")


def test_outputs_are_read_where_the_task_reads_them(tasks, tmp_path):
    """Of a word at its first token, of an answer everywhere."""
    subject = of_task(tasks, "tagging", tmp_path / "student")
    inputs = subject.task.dev
    length = int(inputs.lengths[:2].max())
    values = np.arange(2 * length, dtype=np.float32).reshape(2, length, 1)
    rows = rows_read({"logits": values}, inputs, [0, 1], "it")
    for sample, found in enumerate(rows):
        begin, end = inputs.output_offsets[sample : sample + 2]
        assert (
            found[:, 0].tolist() == (inputs.output_positions[begin:end] + sample * length).tolist()
        )


def test_inputs_at_even_distances():
    assert evenly_spaced(3, 9).tolist() == [0, 3, 6]
    assert evenly_spaced(5, 2).tolist() == [0, 1]
