"""Graphs compute what the models of transformers compute, for any batch and any length."""

import numpy as np
import onnx
import pytest
import torch
from task_models import make_inputs
from tiny_families import POSITIONS, VOCAB, tiny_config, with_weights
from transformers import PreTrainedModel

from distilcli.export.graph import (
    OPSET,
    EncoderGraph,
    Graph,
    pooled,
    transpose_weights,
    write_onnx,
)
from distilcli.export.running import by_onnxruntime, by_torch
from distilcli.models.attention import use_packed_attention
from distilcli.models.families import FAMILIES, takes_token_types, without_head
from distilcli.models.sentence_encoders import Encoding, encode
from distilcli.tasks.embedding import Reading
from distilcli.tasks.inputs import pack_inputs

OUTPUTS = {
    "masked-lm": ("logits",),
    "sequence": ("logits",),
    "token": ("logits",),
    "span": ("start_logits", "end_logits"),
    "encoder": ("last_hidden_state", "sentence_embedding"),
}
# Each family once, and each head of some family: to trace one takes seconds.
GRAPHS = [
    ("bert", "masked-lm"),
    ("bert", "sequence"),
    ("distilbert", "token"),
    ("distilbert", "encoder"),
    ("roberta", "sequence"),
    ("xlm-roberta", "span"),
    ("camembert", "masked-lm"),
    ("electra", "encoder"),
    ("ernie", "span"),
    ("modernbert", "token"),
    ("modernbert", "masked-lm"),
]
SHAPES = [(1, 1), (1, POSITIONS), (5, 17)]


def encoding(pooling: str = "mean", normalizes: bool = True) -> Encoding:
    reading = Reading("", "", "", lowers=False, max_length=POSITIONS)
    return Encoding(pooling, normalizes, reading, {}, None)


def model_of(family: str, head: str) -> PreTrainedModel:
    found = FAMILIES[family]
    layers = 3 if family == "modernbert" else 1  # of each kind, where there are several
    config = tiny_config(found, num_layers=layers)
    if head in ("masked-lm", "encoder"):
        model = with_weights(found.masked_lm, config)
        return model if head == "masked-lm" else without_head(model)
    return with_weights(found.task_heads[head].model_class, config)


def graph_of(model: PreTrainedModel, head: str) -> Graph:
    return EncoderGraph(model, encoding()) if head == "encoder" else Graph(model, OUTPUTS[head])


def batch_of(model: PreTrainedModel, size: int, length: int) -> dict[str, torch.Tensor]:
    """Random tokens; the last input is the shortest, and filled up."""
    draw = np.random.default_rng(size * length)
    ids = torch.from_numpy(draw.integers(5, VOCAB, (size, length)))
    mask = torch.ones_like(ids)
    mask[-1, length - length // 2 :] = 0
    ids[mask == 0] = model.config.pad_token_id or 0
    types = torch.zeros_like(ids)
    types[:, length // 2 :] = 1
    batch = {"input_ids": ids, "attention_mask": mask}
    return batch | ({"token_type_ids": types} if takes_token_types(model) else {})


def test_every_family_and_every_head_is_among_them():
    assert {family for family, _ in GRAPHS} == set(FAMILIES)
    assert {head for _, head in GRAPHS} == set(OUTPUTS)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "head"), GRAPHS)
def test_outputs_are_those_of_the_model(family, head, tmp_path):
    model = model_of(family, head)
    graph = graph_of(model, head)
    path = tmp_path / "model.onnx"
    write_onnx(graph, batch_of(model, 2, 9), path)
    read = onnx.load(path)
    assert [entry.version for entry in read.opset_import if not entry.domain] == [OPSET]
    assert b".py" not in path.read_bytes()  # no lines of code, whose folders are of this machine
    run, expected = by_onnxruntime(path), by_torch(graph)
    for size, length in SHAPES:
        batch = batch_of(model, size, length)
        is_token = batch["attention_mask"].bool().numpy()
        found = run(batch)
        assert tuple(found) == OUTPUTS[head]
        for name, values in expected(batch).items():
            assert found[name].shape == values.shape
            same = values.shape[:2] == is_token.shape
            ours, theirs = (one[is_token] if same else one for one in (found[name], values))
            np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("normalizes", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_vectors_are_those_of_packed_texts(pooling, normalizes):
    """Whatever stands at the padding: the longest text is alone in having none."""
    model = model_of("bert", "encoder")
    inputs = make_inputs([3, 9, 5], "sequence")
    how = encoding(pooling, normalizes)
    lengths = inputs.lengths.tolist()
    ids = torch.zeros((3, 9), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        start = int(inputs.offsets[row])
        ids[row, :length] = torch.from_numpy(inputs.token_ids[start : start + length])
        mask[row, :length] = 1
    with torch.no_grad():
        _, vectors = EncoderGraph(model, how)(ids, mask)
        use_packed_attention(model)
        expected, _ = encode(model, pack_inputs(inputs, [0, 1, 2]), how)
    torch.testing.assert_close(vectors, expected, atol=1e-5, rtol=1e-5)


def test_the_largest_number_of_padding_is_in_no_vector():
    states = torch.tensor([[[-3.0], [-2.0], [7.0]]])
    mask = torch.tensor([[1, 1, 0]])
    assert pooled(states, mask, "max").tolist() == [[-2.0]]
    assert pooled(states, mask, "mean").tolist() == [[-2.5]]
    assert pooled(states, mask, "cls").tolist() == [[-3.0]]


def test_weights_are_turned_round_in_the_file():
    """A weight with one reader always, tied embeddings only where that is asked for."""

    def made() -> onnx.ModelProto:
        weights = {"alone": np.arange(6.0).reshape(2, 3), "tied": np.ones((4, 3))}
        nodes = [
            onnx.helper.make_node("Transpose", ["alone"], ["turned"], perm=[1, 0]),
            onnx.helper.make_node("Transpose", ["tied"], ["decoder"], perm=[1, 0]),
            onnx.helper.make_node("Gather", ["tied", "ids"], ["vectors"]),
        ]
        tensors = [
            onnx.numpy_helper.from_array(value.astype(np.float32), name)
            for name, value in weights.items()
        ]
        return onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], [], tensors))

    once, twice = made(), made()
    transpose_weights(once, those_read_twice=False)
    transpose_weights(twice, those_read_twice=True)
    found = {one.name: onnx.numpy_helper.to_array(one) for one in once.graph.initializer}
    assert found["turned"].tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
    assert set(found) == {"turned", "tied"}
    assert [node.op_type for node in once.graph.node] == ["Transpose", "Gather"]
    assert {one.name for one in twice.graph.initializer} == {"turned", "tied", "decoder"}
    assert [node.op_type for node in twice.graph.node] == ["Gather"]
