"""A model as an ONNX graph: its padded forward pass, with a mask as an input.

The axes `batch` and `sequence` are dynamic. Inputs are named as transformers names them; outputs
are named as pipelines of other tools look for them:

    masked LM, classes, tags, numbers   logits
    answers                             start_logits, end_logits
    sentence encoders                   last_hidden_state, sentence_embedding
"""

import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from distilcli.errors import DistilError, extra, shortened
from distilcli.models.sentence_encoders import Encoding, Pooling

# The first with Gelu as an operator; runtimes of 2024 and later read it.
OPSET = 20
NEEDS = "exports are made with onnx, onnxruntime and onnxscript"
_LONGEST_IN_ONE_FILE = 1_800_000_000  # bytes of weights: a file of protobuf has 2 GiB at most
_MOST_SAID = 300  # characters of an error of the exporter
_AXES = {0: "batch", 1: "sequence"}


class Graph(nn.Module):
    """A model whose outputs come in a fixed order.

    Args:
        model: of transformers, in eval mode.
        output_names: which of its outputs, in order.
    """

    def __init__(self, model: PreTrainedModel, output_names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.output_names = output_names

    def forward(
        self,
        input_ids: Int[Tensor, "batch sequence"],
        attention_mask: Int[Tensor, "batch sequence"],
        token_type_ids: Int[Tensor, "batch sequence"] | None = None,
    ) -> tuple[Tensor, ...]:
        """The outputs, in the order of their names."""
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        found = self.model(input_ids=input_ids, attention_mask=attention_mask, **types)
        return self.outputs(found, attention_mask)

    def outputs(
        self, found: Any, attention_mask: Int[Tensor, "batch sequence"]
    ) -> tuple[Tensor, ...]:
        """The outputs among those of the model."""
        return tuple(getattr(found, name) for name in self.output_names)


class EncoderGraph(Graph):
    """A sentence encoder with its pooling and normalisation.

    Args:
        model: a body without a head.
        encoding: how a text becomes a vector.
    """

    def __init__(self, model: PreTrainedModel, encoding: Encoding) -> None:
        super().__init__(model, ("last_hidden_state", "sentence_embedding"))
        self._pooling: Pooling = encoding.pooling
        self._normalizes = encoding.normalizes

    def outputs(
        self, found: Any, attention_mask: Int[Tensor, "batch sequence"]
    ) -> tuple[Tensor, ...]:
        """Last hidden states, and one vector for each text."""
        hidden: Tensor = found.last_hidden_state
        vectors = pooled(hidden.float(), attention_mask, self._pooling)
        if self._normalizes:
            vectors = nn.functional.normalize(vectors, dim=-1)
        return hidden, vectors


def pooled(
    states: Float[Tensor, "batch sequence width"],
    mask: Int[Tensor, "batch sequence"],
    pooling: Pooling,
) -> Float[Tensor, "batch width"]:
    """One vector for each text out of the states of its tokens."""
    if pooling == "cls":
        return states[:, 0]
    is_token = mask[..., None].to(states.dtype)
    if pooling == "mean":
        return (states * is_token).sum(dim=1) / is_token.sum(dim=1)
    # What is no token must not be the largest: a number below all, since infinity times 0 is NaN.
    below = torch.finfo(states.dtype).min
    return (states * is_token + (1.0 - is_token) * below).amax(dim=1)


def write_onnx(graph: Graph, example: Mapping[str, Tensor], path: Path) -> None:
    """Write a graph as an ONNX file; of large ones the weights go to a file beside it.

    Args:
        graph: in fp32 and eval mode, on the CPU.
        example: two padded inputs or more, by which it is traced.
        path: of the new file.

    Raises:
        ConfigError: the extra `export` is not installed.
        DistilError: torch cannot trace the model.
        OSError: it cannot be written.
    """
    with extra("export", NEEDS):
        import onnxruntime  # noqa: F401  # missed before minutes are spent
        import onnxscript  # noqa: F401
    with quietly(), torch.no_grad():
        try:
            program = torch.onnx.export(
                graph,
                (),
                kwargs=dict(example),
                input_names=list(example),
                output_names=list(graph.output_names),
                dynamic_shapes=dict.fromkeys(example, _AXES),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
        except Exception as error:  # what the exporter raises shares no base class
            said = shortened(" ".join(str(error).split()), _MOST_SAID)
            raise DistilError(
                f"{type(graph.model).__name__} cannot be traced ({said})",
                "Please report it: every family that distilcli knows should become a graph.",
            ) from error
    assert program is not None
    model = program.model_proto
    _forget_origin(model)
    transpose_weights(model, those_read_twice=False)
    save(model, path)


def _forget_origin(model: Any) -> None:
    """Leave out what the exporter says of each operator: lines of code, and in which folders."""
    graph = model.graph
    notes = (graph.node, graph.value_info, graph.input, graph.output, graph.initializer)
    for one in (model, graph, *(one for some in notes for one in some)):
        one.ClearField("metadata_props")
        one.ClearField("doc_string")


def save(model: Any, path: Path) -> None:
    """Write an `onnx.ModelProto`, with its weights in a file beside it where they are large.

    Raises:
        OSError: it cannot be written.
    """
    with extra("export", NEEDS):
        import onnx
    data = data_of(path)
    data.unlink(missing_ok=True)  # what is there would be added to
    is_large = is_too_long(sum(len(one.raw_data) for one in model.graph.initializer))
    onnx.save(model, path, save_as_external_data=is_large, location=data.name)


def is_too_long(num_bytes: int) -> bool:
    """Whether weights are too large to be in the file of the graph."""
    return num_bytes > _LONGEST_IN_ONE_FILE


def data_of(path: Path) -> Path:
    """Where the weights of a large graph are; transformers.js looks for no other name."""
    return path.with_name(f"{path.name}_data")


def files_of(path: Path) -> list[Path]:
    """The file of a graph, and that of its weights where there is one."""
    return [one for one in (path, data_of(path)) if one.exists()]


def transpose_weights(model: Any, *, those_read_twice: bool) -> None:
    """Turn weights round in the file that the graph turns round whenever it runs.

    The exporter leaves large ones as they are, and what is turned round while the graph runs is no
    weight for a quantiser.

    Args:
        model: an `onnx.ModelProto`, changed in place.
        those_read_twice: also weights that something else reads as they are, such as embeddings
            that are tied to a decoder, which are then stored twice.
    """
    with extra("export", NEEDS):
        from onnx import numpy_helper
    weights = {one.name: one for one in model.graph.initializer}
    readers = Counter(name for node in model.graph.node for name in node.input)
    for node in [node for node in model.graph.node if node.op_type == "Transpose"]:
        weight = weights.get(node.input[0])
        if weight is None or len(weight.dims) != 2:
            continue
        is_read_twice = readers[weight.name] > 1
        if is_read_twice and not those_read_twice:
            continue
        turned = np.ascontiguousarray(numpy_helper.to_array(weight).T)
        model.graph.initializer.append(numpy_helper.from_array(turned, node.output[0]))
        model.graph.node.remove(node)
        readers[weight.name] -= 1
        if not is_read_twice:
            model.graph.initializer.remove(weight)


@contextmanager
def quietly() -> Iterator[None]:
    """Silence what the exporter and the quantiser say of packages that are not needed here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
