"""`distilcli export`: what it writes, what it refuses, and who loads it without torch."""

import functools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_suites
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file
from task_models import make_model
from tiny_tasks import TinyTasks, make_tasks, pair_tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from distilcli.cli import export as command
from distilcli.errors import CertificateError
from distilcli.export import certificates, folder
from distilcli.export.certificates import Certificate, check_drop, check_same
from distilcli.files.marks import refuse_foreign, write_mark
from distilcli.files.shown_paths import short_name

refused = functools.partial(tiny_suites.refused, command="export")
LABELS = ["no", "yes"]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> TinyTasks:
    return make_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Path:
    """A DistilBERT with a head for pairs, marked as this tool marks students."""
    root = tmp_path_factory.mktemp("models") / "student"
    model = make_model("distilbert", "sequence", 2, 2, vocab=len(pair_tokenizer()))
    model.config.id2label = dict(enumerate(LABELS))
    model.config.label2id = {name: index for index, name in enumerate(LABELS)}
    model.save_pretrained(root)
    tokenizer = pair_tokenizer()
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.save_pretrained(root)
    write_mark(root, "student")
    return root


@pytest.fixture(scope="module")
def config(tasks, student, tmp_path_factory) -> Path:
    source = {"kind": "checkpoint", "model": str(student)}
    path = tmp_path_factory.mktemp("config") / "pairs.yaml"
    return tasks.write_config(path, "classification", student=source)


def export(*words: str | Path, code: int = 0) -> Any:
    """The record that the command prints."""
    result = tiny_suites.invoke(*map(str, words), "--json", command="export")
    AcceleratorState._reset_state(reset_partial_state=True)
    assert result.exit_code == code, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def exported(student, config, tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """All formats but one, of a model that has learnt nothing: its score may fall."""
    output = tmp_path_factory.mktemp("exports") / "pairs"
    formats = ["--formats", "onnx,int8,bf16", "--max-drop", "1"]
    record = export(student, "--config", config, "--output", output, *formats)
    return output, record


@pytest.mark.slow
def test_every_file_and_every_figure_is_there(exported, student):
    output, record = exported
    names = {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()}
    assert names == {
        "config.json",
        "README.md",
        "distilcli.json",
        "export.json",
        "model.safetensors",
        "onnx/model.onnx",
        "onnx/model_quantized.onnx",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    text = (output / "export.json").read_text(encoding="utf-8")
    assert not re.search(r'"[~/]', text)  # an export is for others: no path of this machine
    written = json.loads(text)
    assert written["model"] == short_name(str(student))
    assert record == written | {"output": str(output)}
    assert written["score"] == "accuracy"
    assert written["formats"]["onnx"]["difference"] < 1e-5
    assert written["formats"]["onnx"]["drop"] == 0.0
    assert written["formats"]["onnx"]["scores"]["32"] == pytest.approx(written["scores"])
    assert set(written["formats"]["int8"]["scores"]) == {"1", "32"}
    assert 1e-3 < written["formats"]["int8"]["difference"] < 1.0
    assert set(written["speed"]) == {"student", "onnx", "int8"}
    assert written["threads"] == torch.get_num_threads()
    assert written["teacher_scores"] == {}
    assert written["speed"]["int8"]["mib"] < written["speed"]["onnx"]["mib"]
    own = json.loads((student / "config.json").read_text(encoding="utf-8"))
    config = json.loads((output / "config.json").read_text(encoding="utf-8"))
    assert config["id2label"] == own["id2label"] == {"0": "no", "1": "yes"}
    weights = load_file(output / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    card = (output / "README.md").read_text(encoding="utf-8")
    assert 'tokenizer.encode("The first text.", "The second.")' in card  # as the experiment has it
    refuse_foreign(output, "export")  # raises where a file is not as its mark says
    cut = json.loads((output / "tokenizer.json").read_text(encoding="utf-8"))
    assert cut["padding"] is None
    settings = json.loads((output / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert settings["model_max_length"] == config["max_position_embeddings"]
    assert cut["truncation"]["max_length"] == config["max_position_embeddings"]


def test_a_student_is_not_replaced_by_an_export(student, config, tmp_path):
    other = tmp_path / "student"
    shutil.copytree(student, other)
    before = {path.name: path.read_bytes() for path in other.iterdir()}
    words = [student, "--config", config, "--output", other, "--formats", "bf16"]
    message = export(*words, code=2)["error"]["message"]
    assert "of another kind (student, not export)" in message
    assert {path.name: path.read_bytes() for path in other.iterdir()} == before


# Runs where torch, transformers and this package cannot be imported.
_ELSEWHERE = """
import sys

class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "distilcli", "optimum"):
            raise ImportError(name)

sys.meta_path.insert(0, Forbidden())
import json, os, pathlib, re, numpy, onnxruntime, tokenizers

folder = pathlib.Path(sys.argv[1])
tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
tokenizer.enable_padding(pad_id=0)
found = tokenizer.encode_batch([("ga ge", "ba bi"), ("go", "do di du da")])
shown = {
    "input_ids": numpy.array([one.ids for one in found]),
    "attention_mask": numpy.array([one.attention_mask for one in found]),
}
for name in ("model", "model_quantized"):
    session = onnxruntime.InferenceSession(folder / "onnx" / f"{name}.onnx")
    print(json.dumps(session.run(["logits"], shown)[0].tolist()))
os.chdir(folder)
exec(re.search("```python\\n(.*?)```", pathlib.Path("README.md").read_text(), re.S)[1])
"""


@pytest.mark.slow
def test_a_process_without_torch_computes_the_same(exported, student):
    output, _ = exported
    words = [sys.executable, "-c", _ELSEWHERE, str(output)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *lines, of_the_card = done.stdout.splitlines()
    whole, quantized = (np.array(json.loads(line)) for line in lines)
    assert of_the_card in LABELS
    tokenizer = AutoTokenizer.from_pretrained(student)
    texts = tokenizer(["ga ge", "go"], ["ba bi", "do di du da"], padding=True, return_tensors="pt")
    model = AutoModelForSequenceClassification.from_pretrained(student)
    with torch.no_grad():
        expected = model(**texts).logits.numpy()
    np.testing.assert_allclose(whole, expected, atol=1e-5)
    assert 0.0 < np.abs(quantized - expected).max() < 1.0


@pytest.mark.slow
def test_a_graph_of_other_weights_is_refused(student, config, tmp_path, monkeypatch):
    """Spoilt on the way to the file: exit code 1, and what was there stays."""
    write = folder.write_onnx

    def spoilt(graph, example, path):
        with torch.no_grad():
            bias = graph.model.classifier.bias
            bias += 2e-4
            write(graph, example, path)
            bias -= 2e-4

    monkeypatch.setattr(folder, "write_onnx", spoilt)
    monkeypatch.setattr(command, "_FEW", 61)
    words = [student, "--config", config, "--output", tmp_path / "export", "--json"]
    result = tiny_suites.invoke(*map(str, words), command="export")
    assert result.exit_code == 1
    assert "warning: a score on 60 inputs says little of an export" in result.stderr
    message = json.loads(result.stdout)["error"]["message"]
    assert message.startswith("onnx/model.onnx: its outputs are up to 0.0002 away")
    assert "0.0001 is allowed; nothing is written" in message
    assert os.listdir(tmp_path) == []


def test_a_score_that_falls_too_far_is_refused():
    found = Certificate({32: {"accuracy": 0.86}}, 0.02, 0.3)
    check_drop(found, 0.02, "accuracy", 0.88, "it")
    check_drop(Certificate({}, 1.0 - 0.95, 0.0), 0.05, "accuracy", 1.0, "it")  # rounded up in fp64
    with pytest.raises(CertificateError, match=r"0\.8600, the model's 0\.8800: it falls by 0\.02"):
        check_drop(found, 0.019, "accuracy", 0.88, "it")
    with pytest.raises(CertificateError):
        check_drop(Certificate({}, float("nan"), 0.0), 1.0, "accuracy", 0.88, "it")


def test_outputs_may_differ_by_what_fp32_rounds(monkeypatch):
    """By 0.0001, or by four times the model's own distance from fp64 where that is more."""

    class Subject:
        graph = torch.nn.Linear(2, 2)

    asked: list[torch.dtype] = []

    def rounding(subject, run):
        asked.append(run.__closure__[0].cell_contents.weight.dtype)
        return 2e-4

    check_same(Subject(), Certificate({}, 0.0, 1e-4), "it")
    monkeypatch.setattr(certificates, "largest_difference", rounding)
    check_same(Subject(), Certificate({}, 0.0, 7.9e-4), "it")
    for difference in (8.1e-4, float("nan")):
        with pytest.raises(CertificateError, match=r"0\.0008 is allowed; nothing is written"):
            check_same(Subject(), Certificate({}, 0.0, difference), "it")
    assert asked == [torch.float64] * 3
    assert Subject.graph.weight.dtype == torch.float32


def test_weights_that_were_changed_are_refused(student, config, tmp_path):
    spoilt = shutil.copytree(student, tmp_path / "student")
    weights = load_file(spoilt / "model.safetensors")
    weights["classifier.weight"][0, 0] += 1.0
    save_file(weights, spoilt / "model.safetensors", {"format": "pt"})
    words = str(spoilt), "--config", str(config), "--output", str(tmp_path / "export")
    message = refused(*words)
    assert (
        f"student {spoilt}: its model.safetensors has changed since distilcli wrote it" in message
    )
    assert os.listdir(tmp_path) == ["student"]


def test_weights_that_are_not_finite_are_refused(student, config, tmp_path):
    spoilt = shutil.copytree(student, tmp_path / "student")
    (spoilt / "distilcli.json").unlink()
    weights = load_file(spoilt / "model.safetensors")
    weights["classifier.weight"][0, 0] = float("nan")
    save_file(weights, spoilt / "model.safetensors", {"format": "pt"})
    words = str(spoilt), "--config", str(config), "--output", str(tmp_path / "export")
    assert "classifier.weight holds NaN or infinite values" in refused(*words)
    assert os.listdir(tmp_path) == ["student"]


def test_a_head_that_is_left_out_is_refused(student, config, tmp_path):
    headless = shutil.copytree(student, tmp_path / "student")
    (headless / "distilcli.json").unlink()
    weights = load_file(headless / "model.safetensors")
    kept = {name: one for name, one in weights.items() if not name.startswith("classifier")}
    save_file(kept, headless / "model.safetensors", {"format": "pt"})
    words = str(headless), "--config", str(config), "--output", str(tmp_path / "export")
    assert "it has no head for this task (classifier.bias is missing)" in refused(*words)
    assert os.listdir(tmp_path) == ["student"]


@pytest.mark.parametrize(
    ("formats", "message"),
    [
        ("onnx,int4", "'int4' is not a format"),
        ("", "--formats names no format"),
        (" ,", "--formats names no format"),
        ("fp16,bf16", "fp16 and bf16 would both be model.safetensors"),
    ],
)
def test_formats_that_cannot_be(formats, message, student, config, tmp_path):
    words = "--config", str(config), "--output", str(tmp_path / "export"), "--formats", formats
    assert message in refused(str(student), *words)
    assert os.listdir(tmp_path) == []


def test_what_someone_else_wrote_is_not_replaced(student, config, tmp_path):
    other = tmp_path / "export"
    other.mkdir()
    (other / "notes.txt").write_text("mine", encoding="utf-8")
    words = str(student), "--config", str(config), "--output", str(other)
    assert f"{other}: not replaced" in refused(*words)
    assert os.listdir(other) == ["notes.txt"]


def test_what_cannot_be_written_is_told_before_anything_is_read(student, config, tmp_path):
    """Below a file, where no folder can be."""
    file = tmp_path / "file"
    file.touch()
    words = "--config", str(config), "--output", str(file / "deep" / "export")
    message = refused(str(student), *words)
    assert f"--output {file}/deep/export: cannot be written ({file} is not a folder)" in message
    assert "examples" not in message


def test_a_run_that_was_moved_is_told_where_its_paths_lead(student, tasks, tmp_path):
    run = tmp_path / "moved"
    shutil.copytree(student, run / "student")
    (run / "student" / "distilcli.json").unlink()
    task = tasks.task("classification") | {"train": {"files": ["data/train.tsv"]}}
    source = {"kind": "checkpoint", "model": str(student)}
    path = run / "experiment.yaml"
    tasks.write_config(path, "classification", student=source, task=task)
    error = export(run, "--output", tmp_path / "export", code=2)["error"]
    assert error["message"] == "task.train.files: data/train.tsv matches no file"
    assert "those of the folder that it was trained in" in error["hint"]
    assert error["hint"].endswith("--dev FILE, and settings such as task.train.files=FILE.")


def test_scores_of_the_teacher_are_those_of_the_same_data():
    """By the score of the student, which eval may have measured in another precision."""
    earlier = folder.Earlier({"f1": 0.8, "accuracy": 0.7}, {"f1": 0.9, "accuracy": 0.95, "x": 1.0})
    scores = {"accuracy": 0.7015, "f1": 0.8}
    assert earlier.of_teacher(scores) == {"accuracy": 0.95, "f1": 0.9}
    assert earlier.of_teacher(scores | {"accuracy": 0.68}) == {}
    assert folder.Earlier().of_teacher(scores) == {}


def test_an_export_into_the_student_is_refused(student, config):
    words = str(student), "--config", str(config), "--output", str(student / "onnx")
    assert "would be written over or into" in refused(*words)


def test_a_folder_of_no_run_needs_an_experiment(student, tmp_path):
    message = refused(str(student), "--output", str(tmp_path / "export"))
    assert "no experiment" in message


def test_text_says_nothing_of_a_task(student, config, tmp_path):
    words = "--config", str(config), "--output", str(tmp_path / "export"), "--text", "a.txt"
    assert "--text measures masked-LM models" in refused(str(student), *words)


def test_both_batch_sizes_count(monkeypatch):
    """Of scores in batches of 1 and of 32 the lower one."""
    values = {1: 0.80, 32: 0.85}

    class Subject:
        score = "accuracy"

        def scores(self, run, size, name):
            return {"accuracy": values[size]}

    monkeypatch.setattr(certificates, "largest_difference", lambda *_: 0.1)
    found = certificates.certificate(Subject(), None, 0.9, "it")
    assert found.drop == pytest.approx(0.1)
    assert found.record()["scores"] == {"1": {"accuracy": 0.80}, "32": {"accuracy": 0.85}}
