"""Running a graph over padded batches, by torch or by onnxruntime, and reading its outputs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distilcli.errors import NonFiniteLossError, extra
from distilcli.evaluation.speed import padded
from distilcli.export.graph import NEEDS, Graph
from distilcli.models.families import takes_token_types
from distilcli.tasks.inputs import Inputs

# A padded batch in, outputs by name out.
Run = Callable[[Mapping[str, Tensor]], dict[str, np.ndarray]]


def by_torch(graph: Graph) -> Run:
    """Run a graph as it is; outputs come in fp32, whatever it computes in."""

    def run(batch: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            found = graph(**batch)
        arrays = (tensor.float().numpy() for tensor in found)
        return dict(zip(graph.output_names, arrays, strict=True))

    return run


def check_extra() -> None:
    """Refuse where exports cannot be made, before anything is measured.

    Raises:
        ConfigError: the extra `export` is not installed.
    """
    with extra("export", NEEDS):
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401


def by_onnxruntime(path: Path) -> Run:
    """Run an ONNX file on the CPU, with as many threads as torch has.

    Raises:
        ConfigError: the extra `export` is not installed.
    """
    with extra("export", NEEDS):
        import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session: Any = onnxruntime.InferenceSession(
        path, sess_options=options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]

    def run(batch: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        found = session.run(names, {name: tensor.numpy() for name, tensor in batch.items()})
        return dict(zip(names, found, strict=True))

    return run


def batches_of(
    graph: Graph, inputs: Inputs, samples: np.ndarray, size: int, padding: int
) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    """Padded batches of inputs that are about equally long, with which inputs they are.

    Args:
        graph: says which inputs it takes.
        inputs: what they are taken from.
        samples: their indices.
        size: inputs in a batch.
        padding: id that fills up.
    """
    with_types = takes_token_types(graph.model)
    in_order = samples[np.argsort(inputs.lengths[samples], kind="stable")]
    for start in range(0, len(in_order), size):
        chosen = in_order[start : start + size].tolist()
        yield chosen, padded(inputs, chosen, with_types, padding)


def rows_read(
    found: Mapping[str, np.ndarray], inputs: Inputs, samples: Sequence[int], name: str
) -> list[np.ndarray]:
    """The outputs of each input where they are read, float32 [rows, outputs].

    Args:
        found: outputs of a batch, by name.
        inputs: says where they are read.
        samples: the batch's inputs.
        name: of the model; opens the message.

    Raises:
        NonFiniteLossError: one of them is NaN or infinite.
    """
    if "sentence_embedding" in found:
        values = found["sentence_embedding"]
    elif "start_logits" in found:
        values = np.stack([found["start_logits"], found["end_logits"]], axis=-1)
    else:
        values = found["logits"]
    if values.ndim == 2:
        rows = list(values[:, None])
    else:
        rows = [
            values[row, inputs.output_positions[slice(*inputs.output_offsets[sample : sample + 2])]]
            for row, sample in enumerate(samples)
        ]
    if not all(np.isfinite(one).all() for one in rows):
        raise NonFiniteLossError(f"{name}: not all of its outputs are finite", _OVERFLOW)
    return rows


_OVERFLOW = "Numbers overflow in this format: choose another one in --formats."


def evenly_spaced(count: int, total: int) -> np.ndarray:
    """So many of the indices below `total`, int64; all where there are no more."""
    count = min(count, total)
    return np.arange(count) * total // max(count, 1)
