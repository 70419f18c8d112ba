"""int8: what loses most stays in fp32, and a score that falls too far all the same is refused."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from task_models import make_model
from tiny_tasks import make_tasks, pair_tokenizer

from distilcli.cli.console import Console
from distilcli.config.experiment import TaskExperiment
from distilcli.distillation.run_kinds import kind_of
from distilcli.errors import CertificateError
from distilcli.evaluation.asked import Asked
from distilcli.export import graph, int8
from distilcli.export.certificates import Certificate, check_drop
from distilcli.export.graph import OPSET, save, write_onnx
from distilcli.export.int8 import certified_int8, products_of, write_int8
from distilcli.export.opening import open_subject
from distilcli.export.running import batches_of, by_onnxruntime, by_torch
from distilcli.export.subjects import Subject

LABELS = ["no", "yes"]
OUTLIER = 1e4  # how much larger than the others one channel of the values of a layer is


def test_products_that_lose_most_stay_in_fp32(monkeypatch, tmp_path):
    """One, then two, as long as the score has fallen too far, and half of them at most."""
    tried: list[tuple[str, ...]] = []
    drops = iter([0.1, 0.05, 0.0])

    def measured(subject, run, reference, name, left_out=()):
        return Certificate({}, next(drops), 0.0, left_out)

    monkeypatch.setattr(int8, "write_int8", lambda source, target, out=(): tried.append(tuple(out)))
    monkeypatch.setattr(int8, "by_onnxruntime", lambda path: None)
    monkeypatch.setattr(int8, "certificate", measured)
    monkeypatch.setattr(int8, "_by_disturbance", lambda *_: list("abcd"))
    subject = type("Subject", (), {"score": "accuracy"})()
    source = tmp_path / "model.onnx"
    found = int8.certified_int8(subject, source, source, 0.9, 0.005, lambda _: None)
    assert tried == [(), ("a",), ("a", "b")]
    assert found.left_out == ("a", "b")


def test_weights_that_are_too_large_for_one_file_lie_beside_it(tmp_path, monkeypatch):
    """In fp32 and in int8, under the name that others look for; later they may fit again."""
    monkeypatch.setattr(graph, "_LONGEST_IN_ONE_FILE", 50_000)
    draw = np.random.default_rng(0)
    weights = {"table": draw.normal(size=(90, 128)), "matrix": draw.normal(size=(128, 90))}
    tensors = [
        onnx.numpy_helper.from_array(value.astype(np.float32), name)
        for name, value in weights.items()
    ]
    nodes = [
        onnx.helper.make_node("Gather", ["table", "ids"], ["vectors"], name="gather"),
        onnx.helper.make_node("MatMul", ["vectors", "matrix"], ["logits"], name="product"),
    ]
    ids = onnx.helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["length"])
    logits = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["length", 90])
    whole = onnx.helper.make_graph(nodes, "g", [ids], [logits], tensors)
    opset = [onnx.helper.make_opsetid("", OPSET)]
    source, target = tmp_path / "model.onnx", tmp_path / "model_quantized.onnx"
    save(onnx.helper.make_model(whole, opset_imports=opset, ir_version=10), source)
    batch = {"ids": torch.tensor([3, 80, 3])}
    expected = by_onnxruntime(source)(batch)["logits"]
    np.testing.assert_allclose(expected, (weights["table"] @ weights["matrix"])[[3, 80, 3]], 1e-4)
    found = {}
    for name, left_out in (("whole", ()), ("half", ("product",)), ("whole again", ())):
        write_int8(source, target, left_out)
        logits = by_onnxruntime(target)(batch)["logits"]
        found[name] = sorted(path.name for path in tmp_path.iterdir())
        np.testing.assert_allclose(logits, expected, atol=1.5)  # of up to 30
    alone = ["model.onnx", "model.onnx_data", "model_quantized.onnx"]
    assert found == {
        "whole": alone,
        "half": [*alone, "model_quantized.onnx_data"],
        "whole again": alone,
    }


def with_an_outlier(folder: Path) -> Path:
    """A DistilBERT that computes what it did before; but one number in 48 of a product is large."""
    model = make_model(
        "distilbert", "sequence", 2, 2, vocab=len(pair_tokenizer()), width=48, seed=2
    )
    model.config.id2label = dict(enumerate(LABELS))
    model.config.label2id = {name: index for index, name in enumerate(LABELS)}
    attention = model.distilbert.transformer.layer[0].attention
    with torch.no_grad():
        attention.v_lin.weight[3] *= OUTLIER
        attention.v_lin.bias[3] *= OUTLIER
        attention.out_lin.weight[:, 3] /= OUTLIER
    model.save_pretrained(folder)
    pair_tokenizer().save_pretrained(folder)
    return folder


def right_by_itself(subject: Subject) -> None:
    """Make a model right about every dev example, of which half have either class."""
    outputs = np.concatenate(subject.outputs(subject.task.dev, by_torch(subject.graph), 32, "it"))
    further = outputs[:, 1] - outputs[:, 0]
    with torch.no_grad():
        subject.model.classifier.bias[0] += float(np.median(further))
    subject.task.dev.targets[:] = further > np.median(further)


@pytest.mark.slow
def test_a_product_with_an_outlier_stays_in_fp32(tmp_path):
    """All others are in int8; and where nothing helps, the export is refused."""
    tasks = make_tasks(tmp_path / "tasks")
    student = str(with_an_outlier(tmp_path / "student"))
    checkpoint = {"kind": "checkpoint", "model": student}
    sections = tasks.experiment("classification", student=checkpoint)
    experiment = TaskExperiment.model_validate(sections)
    subject = open_subject(kind_of(experiment), student, Asked(), Console(as_json=True))
    right_by_itself(subject)
    source, target = tmp_path / "model.onnx", tmp_path / "int8.onnx"
    samples = np.array([0, 1])
    _, example = next(batches_of(subject.graph, subject.task.dev, samples, 2, subject.padding))
    write_onnx(subject.graph, example, source)
    notes: list[str] = []
    found = certified_int8(subject, source, target, 1.0, 0.1, notes.append)
    assert "accuracy falls by 0.5000: trying with 1 product in fp32" in notes
    assert found.drop < 0.1
    assert len(found.left_out) == 1
    products = [name for name in products_of(target) if "MatMul" in name]
    assert products == list(found.left_out)  # the others have become MatMulInteger
    assert target.stat().st_size < 0.8 * source.stat().st_size

    refused = certified_int8(subject, source, target, 1.0, -0.5, notes.append)
    assert len(refused.left_out) == 4  # of 14, after 1 and 2
    with pytest.raises(CertificateError, match=r"and --max-drop allows -0\.5; nothing is written"):
        check_drop(refused, -0.5, "accuracy", 1.0, "onnx/model_quantized.onnx")
