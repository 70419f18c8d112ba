"""An ONNX file with its weights in int8, and what is multiplied with them rounded as it comes.

Every column of a matrix has a scale of its own, and so has every product's other side, each time
that it is computed. Where the score falls too far, the products that disturb the outputs most are
left in fp32, as few of them as it takes.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from distilcli.errors import counted, extra
from distilcli.export.certificates import Certificate, certificate, falls_too_far
from distilcli.export.graph import (
    NEEDS,
    data_of,
    is_too_long,
    quietly,
    save,
    transpose_weights,
)
from distilcli.export.running import batches_of, by_onnxruntime, by_torch, evenly_spaced
from distilcli.export.subjects import Subject

_TYPES = ["MatMul", "Gather"]
_LOOKED_AT = 32  # inputs by which products are ranked


def write_int8(source: Path, target: Path, left_out: Sequence[str] = ()) -> None:
    """Write an ONNX file in int8.

    Args:
        source: the file in fp32.
        target: the new file.
        left_out: names of products that stay as they are.

    Raises:
        ConfigError: the extra `export` is not installed.
    """
    with extra("export", NEEDS):
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic
    model = onnx.load(source)
    transpose_weights(model, those_read_twice=True)
    is_large = is_too_long(_bytes_in_int8(model, left_out))
    with quietly():
        quantize_dynamic(
            model,
            target,
            op_types_to_quantize=_TYPES,
            per_channel=True,
            # 7 bits: a processor without VNNI adds products of 8 bits in pairs, in 16 bits, which
            # overflow. What was measured on one processor would not hold on another.
            reduce_range=True,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=list(left_out),
            use_external_data_format=is_large,
        )
    if is_large:  # under another name, and to be added to by the next one
        written = onnx.load(target)
        target.with_name(f"{target.name}.data").unlink()
        save(written, target)
    else:
        data_of(target).unlink(missing_ok=True)


def _bytes_in_int8(model: Any, left_out: Sequence[str]) -> int:
    """About how long the weights are when all products but some are in int8."""
    sizes = {one.name: len(one.raw_data) for one in model.graph.initializer}
    nodes = (node for node in model.graph.node if node.name in set(left_out))
    in_fp32 = sum(sizes.get(name, 0) for node in nodes for name in node.input)
    return in_fp32 + (sum(sizes.values()) - in_fp32) // 4


def certified_int8(
    subject: Subject,
    source: Path,
    target: Path,
    reference: float,
    most: float,
    on_note: Callable[[str], None],
) -> Certificate:
    """Write an ONNX file in int8 with as many of its products as the score allows.

    Args:
        subject: what it is made of.
        source: the file in fp32.
        target: the new file.
        reference: the score of the model.
        most: how far the score may fall.
        on_note: told what goes on.

    Returns:
        What was measured of the file, whose score may have fallen too far all the same.
    """
    write_int8(source, target)
    on_note(f"measuring {subject.score} of {target.name}")
    found = certificate(subject, by_onnxruntime(target), reference, target.name)
    if not falls_too_far(found.drop, most):
        return found
    ranked = _by_disturbance(subject, source, target, on_note)
    count = 1
    while falls_too_far(found.drop, most) and count <= len(ranked) // 2:
        left_out = tuple(ranked[:count])
        of_those = counted(count, "product")
        on_note(f"{subject.score} falls by {found.drop:.4f}: trying with {of_those} in fp32")
        write_int8(source, target, left_out)
        run = by_onnxruntime(target)
        found = certificate(subject, run, reference, target.name, left_out=left_out)
        count *= 2
    return found


def _by_disturbance(
    subject: Subject, source: Path, target: Path, on_note: Callable[[str], None]
) -> list[str]:
    """Names of the products, the one that changes outputs most when it alone is in int8 first."""
    products = products_of(source)
    on_note(f"looking which of {len(products)} products lose most in int8")
    inputs = subject.first_inputs
    samples = evenly_spaced(_LOOKED_AT, len(inputs))
    batches = [batch for _, batch in batches_of(subject.graph, inputs, samples, 8, subject.padding)]
    of_model = by_torch(subject.graph)
    expected = [of_model(batch) for batch in batches]
    disturbance = {}
    for name in products:
        write_int8(source, target, [one for one in products if one != name])
        run = by_onnxruntime(target)
        disturbance[name] = sum(
            _squared_error(wanted, run(batch), batch)
            for wanted, batch in zip(expected, batches, strict=True)
        )
    return sorted(products, key=lambda name: -disturbance[name])


def _squared_error(
    expected: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray], batch: Mapping[str, Tensor]
) -> float:
    """Sum over the outputs of real tokens."""
    is_token = batch["attention_mask"].bool().numpy()
    total = 0.0
    for name, values in expected.items():
        squares = np.square(values - found[name])
        of_tokens = squares.shape[:2] == is_token.shape
        total += float((squares[is_token] if of_tokens else squares).sum())
    return total


def products_of(path: Path) -> list[str]:
    """Names of the products with weights, and of the tables, that an ONNX file has in fp32.

    Raises:
        ConfigError: the extra `export` is not installed.
    """
    with extra("export", NEEDS):
        import onnx
    model = onnx.load(path)
    transpose_weights(model, those_read_twice=True)
    weights = {one.name for one in model.graph.initializer}
    which = {"MatMul": 1, "Gather": 0}  # the input that is a weight
    return [
        node.name
        for node in model.graph.node
        if node.op_type in which and node.input[which[node.op_type]] in weights
    ]
