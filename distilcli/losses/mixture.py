"""Several teachers as one: logits whose distribution is the weighted mean of theirs.

A mean of distributions is another at every temperature T, so the temperature of a term is asked
for. Where it is the softmax of the logits given here at that same T, it is the mean exactly, and a
term needs to know of one teacher alone. For logits over a vocabulary, which come in blocks,
`logits.Mixing` does the same.

Source: Hinton, Vinyals, Dean 2015, sec. 1, where the soft targets of an ensemble are the arithmetic
or the geometric mean of its members' distributions; this is the arithmetic one.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def mixed_logits(
    teachers: Sequence[Float[Tensor, "rows classes"]], shares: Sequence[float], temperature: float
) -> Float[Tensor, "rows classes"]:
    """T * log(sum_k w_k softmax(v_k / T)), of classes of which one is right.

    The rows are shifted by the mean of what the softmax of each teacher takes away, so that rows
    can be compared with each other as those of one teacher can: spans are, across the parts of a
    long text. Of one teacher with itself it is the very logits.

    Args:
        teachers: v_k.
        shares: w_k, which add up to 1.
        temperature: T.
    """
    softened = [logits / temperature for logits in teachers]
    log_sums = [torch.logsumexp(logits, dim=-1, keepdim=True) for logits in softened]
    log_probs = [F.log_softmax(logits, dim=-1) for logits in softened]
    return temperature * (_log_mean(log_probs, shares) + mean_of_numbers(log_sums, shares))


def mixed_binary_logits(
    teachers: Sequence[Float[Tensor, "rows classes"]], shares: Sequence[float], temperature: float
) -> Float[Tensor, "rows classes"]:
    """T * log(p / (1 - p)) with p = sum_k w_k sigmoid(v_k / T), where each class is right or not.

    Args:
        teachers: v_k.
        shares: w_k, which add up to 1.
        temperature: T.
    """
    softened = [logits / temperature for logits in teachers]
    right = _log_mean([F.logsigmoid(logits) for logits in softened], shares)
    wrong = _log_mean([F.logsigmoid(-logits) for logits in softened], shares)
    return temperature * (right - wrong)


def _log_mean(logs: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """log of the sum over k of w_k exp(logs_k), also where the exponentials are too small."""
    weighted = [one + math.log(share) for one, share in zip(logs, shares, strict=True)]
    return torch.logsumexp(torch.stack(weighted), dim=0)


def mean_of_numbers(
    teachers: Sequence[Float[Tensor, "rows numbers"]], shares: Sequence[float]
) -> Float[Tensor, "rows numbers"]:
    """The weighted mean of numbers."""
    return torch.stack([v * share for v, share in zip(teachers, shares, strict=True)]).sum(dim=0)
