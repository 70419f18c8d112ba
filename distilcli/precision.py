"""What the hardware computes well in: bf16 where it has it, fp32 elsewhere."""

import torch

from distilcli.schema import Precision


def computes_in_bf16(device: torch.device) -> bool:
    """Whether matrix products in bf16 have hardware of their own on this device.

    PyTorch multiplies bf16 on any CPU, but without such instructions much slower than fp32.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def resolve_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """The dtype that a precision setting means on this device."""
    if precision == "auto":
        return torch.bfloat16 if computes_in_bf16(device) else torch.float32
    return torch.bfloat16 if precision == "bf16" else torch.float32
