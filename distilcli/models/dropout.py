"""Dropout on a CPU, from 16 random bits a number.

PyTorch draws a float for every number that it may drop, which takes longer than a layer's norm and
activation together. A number is dropped here if 16 bits, of which four come out of one draw, are
below the share of 65,536; so the share is rounded to a multiple of 1/65,536, and what is kept is
divided by the share that is really kept: the expected value is exact.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_VALUES = 1 << 16
# Integers as wide as the numbers whose bits they keep.
_INTEGERS = {
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}


def can_drop(tensor: Tensor, share: float) -> bool:
    """Whether `KeptBits` serves for such a tensor and such a share of it."""
    return (
        tensor.device.type == "cpu"
        and tensor.dtype in _INTEGERS
        and 0 < round(share * _VALUES) < _VALUES
        and not torch.compiler.is_compiling()
    )


class KeptBits:
    """Which numbers of a tensor are kept, drawn from PyTorch's own generator.

    Args:
        shape: of the tensor.
        share: of the numbers that are dropped, for which `can_drop` holds.

    Attributes:
        scale: what kept numbers are multiplied by, 1 / share kept.
    """

    def __init__(self, shape: torch.Size, share: float) -> None:
        dropped = round(share * _VALUES)
        self.scale = _VALUES / (_VALUES - dropped)
        count = shape.numel()
        draws = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None)
        # From -32,768 on; those below the limit become 0, and the others -1, which is all bits.
        below = dropped - _VALUES // 2 - 1
        bits = draws.view(torch.int16)[:count].view(shape)
        self._bits = bits.clamp_(below, below + 1).neg_().add_(below)

    def apply(self, tensor: Tensor) -> Tensor:
        """A copy of a tensor with 0 for what is dropped, and the rest as it is, not yet scaled."""
        integers = _INTEGERS[tensor.dtype]
        kept: Tensor = tensor.contiguous().view(integers) & self._bits.to(integers)
        return kept.view(tensor.dtype)


class _Dropout(torch.autograd.Function):
    """Keeps two bytes for each number, where PyTorch's keeps a number."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, share: float) -> Tensor:
        ctx.kept = KeptBits(inputs.shape, share)
        kept: KeptBits = ctx.kept
        return kept.apply(inputs).mul_(kept.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        kept: KeptBits = ctx.kept
        return kept.apply(gradient).mul_(kept.scale), None


class FewBitsDropout(nn.Dropout):
    """`nn.Dropout`, with the bits of this module where they can be used."""

    def forward(self, input: Tensor) -> Tensor:
        """The numbers that are kept, scaled; all of them outside training."""
        if self.training and not self.inplace and can_drop(input, self.p):
            output: Tensor = _Dropout.apply(input, self.p)
            return output
        return super().forward(input)


def use_few_bits(model: nn.Module) -> None:
    """Replace the dropout of a model by `FewBitsDropout`; nothing else of it changes."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                replaced = FewBitsDropout(child.p, child.inplace)
                setattr(module, name, replaced.train(child.training))
