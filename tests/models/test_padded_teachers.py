"""What can be wrong with a teacher of another architecture: each has its one error."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from own_tokenizer_models import configuration, random_model, save
from safetensors.torch import load_file, save_file
from task_models import make_model

from distilcli.config.models import TaskTeacherModel
from distilcli.errors import ConfigError, DistilError, ModelError
from distilcli.models.load_padded_teacher import columns_of, hypotheses_of, load_padded_teacher
from distilcli.models.own_tokens import HypothesisReader, TextReader
from distilcli.models.padded import is_packed, load_padded
from distilcli.tasks.outputs import AnyOf, OneOf

SHOWN = [("ba be",), ("du da de di do du",), ("gu",)]


def task_of(labels: list[str], outputs: Any = None, head: str = "sequence") -> Any:
    """What a teacher asks of a task."""
    dev = SimpleNamespace(shown=SHOWN)
    return SimpleNamespace(labels=labels, outputs=outputs or OneOf(), head=head, dev=dev)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A DeBERTa that tells a, b and c apart; nobody writes to it."""
    model = random_model("deberta-v2", "sequence", ["a", "b", "c"])
    return save(model, tmp_path_factory.mktemp("deberta"))


@pytest.fixture
def copy(saved, tmp_path) -> Path:
    return shutil.copytree(saved, tmp_path / "copy")


def load(folder: Path, labels: list[str] | None = None, **section: Any) -> Any:
    teacher = TaskTeacherModel.model_validate({"model": str(folder)} | section)
    return load_padded_teacher(teacher, task_of(labels or ["a", "b", "c"]), "teacher", None)


def refusal(folder: Path, labels: list[str] | None = None, **section: Any) -> DistilError:
    with pytest.raises(DistilError) as caught:
        load(folder, labels, **section)
    assert caught.value.hint
    return caught.value


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    tree = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps(tree), encoding="utf-8")


def change_weights(folder: Path, change: Any) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def test_a_model_comes_back_as_it_was_saved(saved):
    expected = random_model("deberta-v2", "sequence", ["a", "b", "c"])
    found = load(saved)
    assert found.longest == 64
    assert found.dtype == torch.float32
    assert not any(parameter.requires_grad for parameter in found.parameters())
    assert not found.train().model.training
    for name, tensor in expected.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], tensor)
    assert not is_packed(str(saved), None, "teacher")


def test_a_packed_family_can_be_read_padded_too(tmp_path):
    """One whose tokenizer is another than the student's."""
    model = make_model("bert", "sequence", 2, 3)
    model.save_pretrained(tmp_path)
    assert is_packed(str(tmp_path), None, "teacher")
    found = load_padded(str(tmp_path), None, "sequence", "teacher")
    assert type(found) is type(model)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model_type": "made-up"}, "its model_type is made-up, which transformers"),
        ({"quantization_config": {"bits": 8}}, "its weights are quantized"),
        ({"is_decoder": True}, "it is a decoder (is_decoder)"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, not a whole number up"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers is 'two'"),
        ({"vocab_size": 10**9}, "embeddings.word_embeddings.weight is"),
        ({"num_hidden_layers": 1}, "config.json does not account for deberta.encoder.layer.1."),
        ({"num_hidden_layers": 3}, "weights of its body are missing, deberta.encoder.layer.2."),
        ({"hidden_size": 31}, "its config.json is not valid"),
        (
            {"architectures": ["DebertaV2ForTokenClassification"]},
            "its class is DebertaV2ForTokenClassification, and this task needs DebertaV2ForSeq",
        ),
        ({"id2label": {"0": "a", "2": "b", "3": "c"}}, "numbers the outputs 0, 2, 3"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_configuration_of_something_else_is_refused(copy, changes, expected):
    change_config(copy, **changes)
    error = refusal(copy)
    assert isinstance(error, ModelError)
    assert error.message.startswith(f"teacher {copy}: ")
    assert expected in error.message


def test_a_model_without_this_head_is_refused(copy):
    change_config(copy, architectures=["DebertaV2ForMaskedLM"])
    assert "its class is DebertaV2ForMaskedLM" in refusal(copy).message
    change_config(copy, architectures=None)
    change_weights(copy, lambda weights: weights.pop("classifier.weight"))
    error = refusal(copy)
    assert "it has no head for this task (classifier.weight is missing)" in error.message
    assert "DebertaV2ForSequenceClassification" in error.hint


def test_damaged_weights_are_refused(copy):
    change_weights(copy, lambda weights: weights["classifier.bias"].fill_(float("nan")))
    assert "classifier.bias holds NaN or infinite values" in refusal(copy).message
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert "model.safetensors is damaged" in refusal(copy).message
    path.unlink()
    (copy / "pytorch_model.bin").write_bytes(b"")
    assert "its weights are pickled" in refusal(copy).message


def test_another_tokenizer_is_refused(copy):
    path = copy / "tokenizer_config.json"
    tree = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(tree | {"pad_token": None}), encoding="utf-8")
    assert "its tokenizer has no pad_token" in refusal(copy).message
    path.write_text(json.dumps(tree), encoding="utf-8")
    change_weights(
        copy,
        lambda weights: weights.update(
            {
                "deberta.embeddings.word_embeddings.weight": weights[
                    "deberta.embeddings.word_embeddings.weight"
                ][:20].clone()
            }
        ),
    )
    change_config(copy, vocab_size=20)
    assert "its vocabulary has 20 tokens, but" in refusal(copy).message


def test_positions_after_another_padding_are_refused(tmp_path):
    model = random_model("mpnet", "sequence", ["a", "b", "c"])
    save(model, tmp_path)
    load(tmp_path)
    change_config(tmp_path, pad_token_id=3)
    assert "its pad_token_id is 3, but <pad> of its tokenizer has the id 1" in (
        refusal(tmp_path).message
    )


def test_a_model_that_padding_changes_is_refused(tmp_path):
    """FNet mixes all places of a row, and has no attention mask."""
    save(random_model("fnet", "sequence", ["a", "b", "c"]), tmp_path)
    message = refusal(tmp_path).message
    assert message.endswith("its outputs for a text change with the texts beside it in a batch")


def test_few_texts_are_read_to_try_the_padding_and_none_counts_as_cut(saved, monkeypatch):
    """What a run tells of texts that are cut is of those that the teacher is asked about."""
    seen = []
    read = TextReader.read

    def counted(reader, shown):
        seen.append(len(shown))
        return read(reader, shown)

    monkeypatch.setattr(TextReader, "read", counted)
    task = task_of(["a", "b", "c"])
    task.dev.shown = SHOWN * 200
    teacher = TaskTeacherModel.model_validate({"model": str(saved)})
    found = load_padded_teacher(teacher, task, "teacher", 6)
    assert max(seen) <= 256
    assert found.num_cut == 0
    found.run(SHOWN, 10_000)
    assert found.num_cut == 1


def test_a_type_without_this_head_is_refused(tmp_path):
    save(random_model("bart", "sequence", ["a", "b", "c"]), tmp_path)
    with pytest.raises(ModelError, match="transformers has no bart that tags tokens"):
        load_padded(str(tmp_path), None, "token", "teacher")


def test_code_beside_a_model_is_not_run(copy):
    (copy / "modeling.py").write_text("raise SystemExit('it ran')\n", encoding="utf-8")
    change_config(copy, auto_map={"AutoModelForSequenceClassification": "modeling.Model"})
    assert type(load(copy).model) is transformers.DebertaV2ForSequenceClassification


# Classes


@pytest.mark.parametrize(
    ("names", "labels", "columns"),
    [
        (["a", "b", "c"], ["a", "b", "c"], None),
        (["c", "a", "b"], ["a", "b", "c"], [1, 2, 0]),
        (["C", "a", "B"], ["a", "b", "c"], [1, 2, 0]),
        (["a", "A"], ["A", "a"], [1, 0]),  # capitals tell them apart
        (["LABEL_0", "LABEL_1"], ["no", "yes"], None),
        (["no", "yes"], ["0", "1"], None),
        (["no", "yes"], ["LABEL_0", "LABEL_1"], None),
        (["1", "0"], ["0", "1"], [1, 0]),
        (["whatever"], ["LABEL_0"], None),
    ],
)
def test_outputs_are_found_by_their_names(names, labels, columns):
    assert columns_of(names, task_of(labels), "teacher") == columns


@pytest.mark.parametrize(
    ("names", "labels", "expected"),
    [
        (["a", "b"], ["a", "b", "c"], "its head has 2 outputs, the task needs 3"),
        (["a", "b", "d"], ["a", "b", "c"], "its classes are a, b, d, the task's are a, b, c"),
        (["LABEL_1", "LABEL_0"], ["a", "b"], "its classes are LABEL_1, LABEL_0"),
    ],
)
def test_other_classes_are_refused(names, labels, expected):
    with pytest.raises(ModelError) as caught:
        columns_of(names, task_of(labels), "teacher x")
    assert caught.value.message == f"teacher x: {expected}" or expected in caught.value.message


# Zero-shot


@pytest.fixture(scope="module")
def entailing(tmp_path_factory) -> Path:
    names = ["entailment", "neutral", "contradiction"]
    return save(random_model("deberta-v2", "sequence", names), tmp_path_factory.mktemp("entailing"))


def test_hypotheses_of_the_classes(entailing):
    teacher = TaskTeacherModel(model=str(entailing), hypothesis="it is {} .")
    assert hypotheses_of(teacher, ["b", "a"], "teacher") == ["it is b .", "it is a ."]
    each = {"A": "of ba", "b": "of be"}
    teacher = TaskTeacherModel(model=str(entailing), hypotheses=each)
    assert hypotheses_of(teacher, ["b", "a"], "teacher") == ["of be", "of ba"]
    found = load(entailing, ["b", "a", "c"], hypothesis="it is {} .")
    reader = found._reader
    assert isinstance(reader, HypothesisReader)
    assert reader.identity()[2:] == [["it is b .", "it is a .", "it is c ."], 0, None]


@pytest.mark.parametrize(
    ("names", "opposite"),
    [(["contradiction", "neutral", "entailment"], 0), (["entailment", "not_entailment"], 1)],
)
def test_where_classes_exclude_nothing_what_is_against_each_counts(tmp_path, names, opposite):
    save(random_model("deberta-v2", "sequence", names), tmp_path)
    teacher = TaskTeacherModel(model=str(tmp_path), hypothesis="it is {} .")
    found = load_padded_teacher(teacher, task_of(["a", "b"], AnyOf()), "teacher", None)
    entailment = names.index("entailment")
    assert found._reader.identity()[3:] == [entailment, opposite]


def test_models_of_something_else_entail_nothing(saved, tmp_path):
    message = refusal(saved, hypothesis="it is {}").message
    assert "its outputs are a, b, c; for teacher.hypothesis one must be called entailment" in (
        message
    )
    save(random_model("deberta-v2", "sequence", ["entailment", "other"]), tmp_path)
    teacher = TaskTeacherModel(model=str(tmp_path), hypothesis="it is {} .")
    with pytest.raises(ModelError, match="and another one contradiction"):
        load_padded_teacher(teacher, task_of(["a", "b"], AnyOf()), "teacher", None)


def test_hypotheses_of_other_classes_are_refused(entailing):
    error = refusal(entailing, ["a", "b", "c"], hypotheses={"a": "x", "b": "y"})
    assert isinstance(error, ConfigError)
    assert error.message == "teacher.hypotheses: they are of a, b; the classes are a, b, c"
    error = refusal(entailing, ["0", "1"], hypothesis="it is {}")
    assert error.message.startswith("teacher.hypothesis: the classes are 0, 1, and such names")


def test_the_tiny_models_have_the_names_that_are_asked_for():
    assert configuration("albert", ["x", "y"]).id2label == {0: "x", 1: "y"}


def test_hypotheses_that_leave_no_room_for_a_text_are_refused(entailing, tmp_path):
    """Fewer tokens than the model takes, but for those around them."""
    shutil.copytree(entailing, tmp_path / "short")
    path = tmp_path / "short" / "tokenizer_config.json"
    tree = json.loads(path.read_text(encoding="utf-8")) | {"model_max_length": 12}
    path.write_text(json.dumps(tree), encoding="utf-8")
    sentences = {"a": "ba", "b": "be", "c": "ba be bi bo bu"}
    assert load(tmp_path / "short", hypotheses=sentences)._reader.room > 0
    error = refusal(tmp_path / "short", hypotheses=sentences | {"c": "ba be bi bo bu da de di do"})
    assert error.message.startswith("teacher.hypotheses: with the longest of them nothing of a ")
