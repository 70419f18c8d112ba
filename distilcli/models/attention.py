"""Attention over packed sequences: block-diagonal, without a mask of the whole row.

Registered with transformers' attention interface under `PACKED`; a model whose config asks for it
must be called with `packing=Packing(...)`. Shapes: B=1 H=heads T=tokens of all sequences D=head.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NoReturn
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from distilcli.batches.packing import PackedSequences
from distilcli.errors import ModelError
from distilcli.models.dropout import can_drop
from distilcli.models.grouped_attention import Groups, grouped_attention
from distilcli.models.variable_length import has_kernel, variable_length_attention
from distilcli.models.windowed_attention import windowed_attention

PACKED = "distilcli_packed"
# Tokens of a sequence up to which training without dropout keeps all probabilities of attention.
_LONGEST_KEPT = 512
# By the modules that call attention. Compiled layers know nothing of them (`is_listened_to`).
_LISTENERS: WeakKeyDictionary[nn.Module, list[Callable[[Tensor, Tensor], None]]] = (
    WeakKeyDictionary()
)


@dataclass(frozen=True)
class Packing:
    """How a row of tokens divides into sequences.

    Attributes:
        runs: (number of sequences, their length) for each run of neighbours of equal length.
        boundaries: first token of each sequence, then the number of tokens; int32.
        max_length: tokens of the longest sequence.
    """

    runs: tuple[tuple[int, int], ...]
    boundaries: Int[Tensor, " sequences_plus_1"]
    max_length: int
    _groups: dict[int, Groups] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def of(cls, batch: PackedSequences) -> "Packing":
        """The packing of a batch."""
        runs = tuple((len(list(group)), length) for length, group in groupby(batch.lengths))
        return cls(runs, batch.boundaries, max(batch.lengths))

    def groups(self, num_heads: int) -> Groups:
        """The sequences in groups of similar length, made once for all layers."""
        if num_heads not in self._groups:
            lengths = [length for count, length in self.runs for _ in range(count)]
            self._groups[num_heads] = Groups.of(lengths, num_heads)
        return self._groups[num_heads]


def use_packed_attention(model: PreTrainedModel) -> None:
    """Switch a model to packed attention; it then needs `packing` at every call."""
    AttentionInterface.register(PACKED, packed_attention)
    model.set_attn_implementation(PACKED)


def listen_to_attention(
    attention: nn.Module,
    listener: Callable[[Float[Tensor, "1 H T D"], Float[Tensor, "1 H T D"]], None],
) -> None:
    """Have a function called with the queries and keys that a layer's attention multiplies.

    Args:
        attention: what calls `packed_attention` in a layer.
        listener: is called whenever it does, before attention is computed.
    """
    _LISTENERS.setdefault(attention, []).append(listener)


def is_listened_to(layer: nn.Module) -> bool:
    """Whether some attention within has a listener, which a compiled layer would leave out."""
    return any(module in _LISTENERS for module in layer.modules())


def traceable_attention(
    module: nn.Module,
    query: Float[Tensor, "1 H T D"],
    key: Float[Tensor, "1 H T D"],
    value: Float[Tensor, "1 H T D"],
    attention_mask: None,
    *,
    packing: Packing,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Float[Tensor, "1 T H D"], None]:
    """`packed_attention` for layers that are compiled: within their graph where it is one kernel.

    Otherwise it stays out, because its work depends on the lengths of the sequences.
    """
    if torch.compiler.is_compiling() and has_kernel(query):
        radius = None if sliding_window is None else sliding_window - 1
        bounds = packing.boundaries, packing.max_length
        output = variable_length_attention(query, key, value, *bounds, dropout, scaling, radius)
        return output, None
    output, _ = _untraced_attention(
        module,
        query,
        key,
        value,
        attention_mask,
        packing=packing,
        dropout=dropout,
        scaling=scaling,
        sliding_window=sliding_window,
        **others,
    )
    return output, None


def packed_attention(
    module: nn.Module,
    query: Float[Tensor, "1 H T D"],
    key: Float[Tensor, "1 H T D"],
    value: Float[Tensor, "1 H T D"],
    attention_mask: None,
    *,
    packing: Packing,
    dropout: float = 0.0,
    scaling: float | None = None,
    position_ids: Int[Tensor, "1 T"] | None = None,
    encoder_hidden_states: None = None,
    sliding_window: int | None = None,
    deterministic: bool = False,
    **others: Any,
) -> tuple[Float[Tensor, "1 T H D"], None]:
    """Softmax attention of each token over the tokens of its own sequence, or the nearest of them.

    Args:
        module: the layer's attention, which calls this.
        query: of all sequences end to end.
        key: likewise.
        value: likewise.
        attention_mask: none: `packing` says who sees whom.
        packing: where sequences begin.
        dropout: share of attention probabilities that is dropped.
        scaling: of the scores; None: 1 / sqrt(D).
        position_ids: handed through by transformers; the embeddings have used them.
        encoder_hidden_states: none: attention across two models is no attention of an encoder.
        sliding_window: each token sees those that are fewer than so many places away, to either
            side; None: all.
        deterministic: asks this of one kernel, which is not used here, and changes no value.
        others: what is not computed here, and therefore refused.

    Raises:
        ModelError: `others`, a mask or the states of another model are given: this function would
            compute something else than the model says.
    """
    if others or attention_mask is not None or encoder_hidden_states is not None:
        _refuse(module, others, attention_mask, encoder_hidden_states)
    for listener in _LISTENERS.get(module, ()):
        listener(query, key)
    radius = None if sliding_window is None else sliding_window - 1
    if has_kernel(query):
        bounds = packing.boundaries, packing.max_length
        output = variable_length_attention(query, key, value, *bounds, dropout, scaling, radius)
        return output, None
    if radius is None and _is_grouped(query, key, value, packing, dropout):
        groups = packing.groups(query.shape[1])
        return grouped_attention(query, key, value, groups, dropout, scaling), None
    in_bf16 = query.device.type == "cpu" and query.dtype == torch.bfloat16
    if in_bf16 and _has_gradient(query, key, value):
        # In bf16 a CPU's backward pass makes kernels anew for every length, which takes longer
        # than fp32 does.
        with torch.autocast("cpu", enabled=False):  # which would make it bf16 again
            exact = query.float(), key.float(), value.float()
            output = _attention_by_sequence(*exact, packing, dropout, scaling, radius)
        return output.to(query.dtype), None
    return _attention_by_sequence(query, key, value, packing, dropout, scaling, radius), None


def _is_grouped(
    query: Tensor, key: Tensor, value: Tensor, packing: Packing, dropout: float
) -> bool:
    """Whether attention is computed in groups, which is faster on a CPU but keeps probabilities."""
    if query.device.type != "cpu":
        return False
    if dropout:
        return can_drop(query, dropout)
    if query.dtype != torch.bfloat16:
        return False
    return packing.max_length <= _LONGEST_KEPT or not _has_gradient(query, key, value)


def _has_gradient(*tensors: Tensor) -> bool:
    return any(tensor.requires_grad for tensor in tensors)


_untraced_attention = torch.compiler.disable(packed_attention)


def _refuse(module: nn.Module, others: dict[str, Any], mask: Any, states: Any) -> NoReturn:
    given = others | {"attention_mask": mask, "encoder_hidden_states": states}
    named = ", ".join(sorted(name for name in given if name in others or given[name] is not None))
    raise ModelError(
        f"{type(module).__name__} is called with {named}, which attention over packed sequences "
        "does not compute",
        "Use a model whose layers attend to whole sequences or to windows of them, and call it "
        "without that.",
    )


def _attention_by_sequence(
    query: Float[Tensor, "1 H T D"],
    key: Float[Tensor, "1 H T D"],
    value: Float[Tensor, "1 H T D"],
    packing: Packing,
    dropout: float,
    scaling: float | None,
    radius: int | None,
) -> Float[Tensor, "1 T H D"]:
    """Each sequence by itself, neighbours of equal length together."""
    num_heads, head_size = query.shape[1], query.shape[3]
    # split, not slicing: its backward is one concatenation instead of a sum of padded copies.
    sizes = [count * length for count, length in packing.runs]
    outputs = []
    for (count, length), q, k, v in zip(
        packing.runs,
        query[0].split(sizes, dim=1),
        key[0].split(sizes, dim=1),
        value[0].split(sizes, dim=1),
        strict=True,
    ):
        shape = (num_heads, count, length, head_size)
        q, k, v = (tensor.view(shape).transpose(0, 1) for tensor in (q, k, v))
        output = _attention(q, k, v, dropout, scaling, radius)
        outputs.append(output.transpose(1, 2).reshape(count * length, num_heads, head_size))
    return torch.cat(outputs)[None]


def _attention(
    query: Float[Tensor, "N H T D"],
    key: Float[Tensor, "N H T D"],
    value: Float[Tensor, "N H T D"],
    dropout: float,
    scaling: float | None,
    radius: int | None,
) -> Float[Tensor, "N H T D"]:
    """Of sequences of equal length."""
    if radius is not None:
        return windowed_attention(query, key, value, radius, dropout, scaling)
    return scaled_dot_product_attention(query, key, value, dropout_p=dropout, scale=scaling)
