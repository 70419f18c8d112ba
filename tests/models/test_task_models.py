"""Models with heads: packed, and saved, they compute what transformers does."""

import pytest
import torch
from head_models import LABELS, LENGTHS, each_body, each_head, experiment_of, saved, task_of
from hypothesis import given, settings
from hypothesis import strategies as st
from task_models import make_inputs, make_model, outputs_of, run_padded
from tiny_tasks import pair_tokenizer
from torch import nn
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    pipeline,
)

from distilcli.models.attention import use_packed_attention
from distilcli.models.running import run_model
from distilcli.models.saving import save_model
from distilcli.models.task_models import build_task_student
from distilcli.tasks.inputs import pack_inputs

AUTO_CLASSES = {
    "sequence": AutoModelForSequenceClassification,
    "token": AutoModelForTokenClassification,
    "span": AutoModelForQuestionAnswering,
}


@each_body
@each_head
@settings(max_examples=20)
@given(st.lists(st.integers(0, len(LENGTHS) - 1), min_size=1, max_size=6))
def test_packed_models_compute_what_padded_ones_do(body, head, samples):
    """In any order, an input twice too; of pairs, so that token types count."""
    model = make_model(body, head)
    inputs = make_inputs(LENGTHS, head)
    with torch.no_grad():
        expected = run_padded(model, inputs, samples)
        use_packed_attention(model)
        outputs, hidden = run_model(model, pack_inputs(inputs, samples))
    torch.testing.assert_close(outputs, expected.outputs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(hidden, expected.hidden, rtol=1e-5, atol=1e-5)


@each_head
def test_token_types_reach_a_bert(head):
    """Else the comparison above would say nothing of them."""
    model, samples = make_model("bert", head), [0, 3]
    inputs = make_inputs(LENGTHS, head)
    use_packed_attention(model)
    batch = pack_inputs(inputs, samples)
    assert set(batch.token_type_ids.unique().tolist()) == {0, 1}
    outputs, _ = run_model(model, batch)
    inputs.token_types[:] = 0
    others, _ = run_model(model, pack_inputs(inputs, samples))
    assert (outputs - others).abs().max() > 0.01


@each_body
@each_head
def test_dropout_stands_where_transformers_has_it(body, head):
    """The head's own takes everything away, those of the body nothing, so that nothing is left
    to chance.
    """
    model, samples = make_model(body, head), [0, 3, 5]
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    of_body = set(model.base_model.modules())
    of_head = [m for m in model.modules() if isinstance(m, nn.Dropout) and m not in of_body]
    for module in of_head:
        module.p = 1.0
    model.train()
    inputs = make_inputs(LENGTHS, head)
    expected = run_padded(model, inputs, samples)
    use_packed_attention(model)
    outputs, _ = run_model(model, pack_inputs(inputs, samples))
    torch.testing.assert_close(outputs, expected.outputs, rtol=1e-5, atol=1e-5)
    is_constant = bool((outputs == outputs[0]).all())
    assert is_constant == bool(of_head)


@each_body
@each_head
def test_outputs_are_in_fp32_whatever_the_weights_are_in(body, head):
    model = make_model(body, head).bfloat16()
    use_packed_attention(model)
    batch = pack_inputs(make_inputs(LENGTHS, head), [0, 1])
    outputs, _ = run_model(model, batch)
    assert outputs.dtype == torch.float32


# What others make of it


@each_body
@each_head
def test_a_saved_student_loads_with_plain_transformers(body, head, tmp_path):
    source = make_model(body, "masked-lm", num_layers=2)
    experiment = experiment_of({"source": saved(source, tmp_path / "source")})
    student = build_task_student(experiment, task_of(head), None)
    use_packed_attention(student)  # as training leaves it
    inputs, samples = make_inputs(LENGTHS, head), [2, 4]
    with torch.no_grad():
        expected, _ = run_model(student, pack_inputs(inputs, samples))
    save_model(student, pair_tokenizer(), tmp_path / "student")
    loaded, info = AUTO_CLASSES[head].from_pretrained(
        tmp_path / "student", output_loading_info=True
    )
    assert not any(info.values())
    assert type(loaded) is type(student)
    assert loaded.config.architectures == [type(student).__name__]
    assert loaded.config.id2label == dict(enumerate(LABELS[head]))
    with torch.no_grad():
        found = run_padded(loaded.eval(), inputs, samples).outputs
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@each_body
def test_a_saved_student_is_used_by_a_pipeline(body, tmp_path):
    """It must say by itself what its outputs are: of one class, or of several."""
    tokenizer = pair_tokenizer()
    source = make_model(body, "masked-lm", vocab=len(tokenizer))
    experiment = experiment_of({"kind": "checkpoint", "model": saved(source, tmp_path / "source")})
    texts = ["ba bi bo", "ku ma"]
    for family in ("one-of", "any-of", "number"):
        labels = ["LABEL_0"] if family == "number" else LABELS["sequence"]
        task = task_of("sequence", labels)
        task.outputs = outputs_of("sequence", family)
        student = build_task_student(experiment, task, None)
        save_model(student, tokenizer, tmp_path / family)
        found = pipeline("text-classification", str(tmp_path / family), device="cpu")(
            texts, top_k=None
        )
        for text, scores in zip(texts, found, strict=True):
            student.set_attn_implementation("eager")
            with torch.no_grad():
                logits = student(**tokenizer(text, return_tensors="pt")).logits[0].double()
            if family == "one-of":
                expected = logits.exp() / logits.exp().sum()
            else:
                expected = 1 / (1 + (-logits).exp()) if family == "any-of" else logits
            by_name = {entry["label"]: entry["score"] for entry in scores}
            assert [by_name[name] for name in labels] == pytest.approx(expected.tolist(), rel=1e-4)
