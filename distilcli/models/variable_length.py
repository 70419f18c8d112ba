"""Attention over packed sequences in one kernel, whatever their lengths: FlashAttention, on CUDA.

The kernel finds the sequences by where they begin, and drops attention probabilities itself. It is
the one that PyTorch ships; its public function `varlen_attn` knows no dropout, so the operator
below that function is called. Shapes: H=heads T=tokens of all sequences D=head.

Source: Dao 2023 (FlashAttention-2), sec. 3.
"""

from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

# Sizes of a head that the kernel takes; others it refuses with an error.
_HEAD_SIZES = range(8, 257, 8)
_DTYPES = (torch.bfloat16, torch.float16)
# Older devices lack the instructions.
_MIN_CAPABILITY = (8, 0)


def has_kernel(query: Float[Tensor, "1 H T D"]) -> bool:
    """Whether the kernel takes such a tensor."""
    return query.is_cuda and why_no_kernel(query.device, query.dtype, query.shape[-1]) is None


def why_no_kernel(device: torch.device, dtype: torch.dtype, head_size: int) -> str | None:
    """What keeps the kernel from being used on a CUDA device; None: nothing does."""
    if dtype not in _DTYPES:
        return f"attention is computed in {str(dtype).removeprefix('torch.')}"
    if head_size not in _HEAD_SIZES:
        return f"heads are of {head_size}, which is no multiple of 8 up to {_HEAD_SIZES[-1]}"
    if not _is_supported(device.index):
        return "this device has no FlashAttention"
    return None


def note_of_slow_attention(
    model: PreTrainedModel, device: torch.device, dtype: torch.dtype
) -> str | None:
    """What to tell who trains this model on a CUDA device without the kernel; else None.

    Args:
        model: what is trained.
        device: where.
        dtype: that attention is computed in.
    """
    if device.type != "cuda":
        return None
    config = model.config
    reason = why_no_kernel(device, dtype, config.hidden_size // config.num_attention_heads)
    if reason is None:
        return None
    return f"attention takes one call for each length of sequences, which is slow: {reason}"


def _is_supported(index: int | None) -> bool:
    return bool(_constant_answer(index))


@cache
def _has_flash_attention(index: int | None) -> bool:
    if not torch.backends.cuda.is_flash_attention_available():
        return False
    return torch.cuda.get_device_capability(index) >= _MIN_CAPABILITY


def _answer(index: int | None) -> bool:
    return _has_flash_attention(index)


# To a compiler that traces a layer the answer is a constant.
_constant_answer: Any = torch.compiler.assume_constant_result(_answer)


def variable_length_attention(
    query: Float[Tensor, "1 H T D"],
    key: Float[Tensor, "1 H T D"],
    value: Float[Tensor, "1 H T D"],
    boundaries: Int[Tensor, " sequences_plus_1"],
    max_length: int,
    dropout: float,
    scaling: float | None,
    radius: int | None,
) -> Float[Tensor, "1 T H D"]:
    """Softmax attention of each token over the tokens of its own sequence, or the nearest of them.

    Which probabilities are dropped is drawn from the device's generator: the same seed and the same
    calls drop the same ones. The kernel knows the share to be kept in units of 1/256 only.

    Args:
        query: of all sequences end to end.
        key: likewise.
        value: likewise.
        boundaries: first token of each sequence, then the number of tokens; int32.
        max_length: tokens of the longest sequence.
        dropout: share of attention probabilities that is dropped.
        scaling: of the scores; None: 1 / sqrt(D).
        radius: places to either side that a token sees, from 0; None: all.
    """
    # PyTorch knows the derivative of this operator. By name: versions differ in what comes last.
    output: Tensor = torch.ops.aten._flash_attention_forward(
        query=query[0].transpose(0, 1),
        key=key[0].transpose(0, 1),
        value=value[0].transpose(0, 1),
        cum_seq_q=boundaries,
        cum_seq_k=boundaries,
        max_q=max_length,
        max_k=max_length,
        dropout_p=dropout,
        is_causal=False,
        return_debug_mask=False,
        scale=scaling,
        window_size_left=radius,
        window_size_right=radius,
    )[0]
    return output[None]
