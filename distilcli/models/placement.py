"""What models compute in and where: precision, compiled layers, layers in host memory.

`train.compile` compiles the layers and not the whole model, so that layers of one kind share their
graphs and so do all micro-batches: the number of tokens is symbolic. Attention is part of a graph
where one kernel computes all sequences; elsewhere its work depends on their lengths, and it stays
out. How many graphs there are is logged as `compile/graphs`: a number that keeps growing would mean
that something is compiled for every batch.

`teacher.offload` keeps a teacher's layers in host memory. Each matrix is on the device only while
it is multiplied; embeddings and head stay there, for the losses read them. A micro-batch then costs
one copy of the teacher from the host, so large micro-batches pay.
"""

import torch
from accelerate import cpu_offload
from transformers import AttentionInterface, PreTrainedModel

from distilcli.config.fields import Precision
from distilcli.models.attention import is_listened_to, traceable_attention
from distilcli.models.families import MaskedLM, encoder_layers


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


_TRACEABLE = "distilcli_packed_traceable"


def compile_layers(model: PreTrainedModel) -> None:
    """Compile a model's layers in place, at their first call. Names of weights stay the same.

    A layer into which a loss term looks, at queries, keys or values, is left as it is.
    """
    AttentionInterface.register(_TRACEABLE, traceable_attention)
    model.set_attn_implementation(_TRACEABLE)
    for layer in encoder_layers(model):
        # Layers share graphs, and a graph that was made of a layer without hooks leaves them out.
        has_hooks = any(module._forward_hooks for name, module in layer.named_modules() if name)
        if not has_hooks and not is_listened_to(layer):
            # Not the whole call, `layer.compile`: the layer's own hooks would be left out, too.
            layer.forward = torch.compile(layer.forward, dynamic=True)


def num_graphs() -> int:
    """Graphs compiled so far in this process."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def offload_layers(model: MaskedLM, device: torch.device) -> None:
    """Move a model that is not trained to the device, but for its layers: they come when called.

    The layers' parameters are then on the `meta` device, without memory: such a model can be run,
    and neither moved nor saved.
    """
    # accelerate calls the one CPU cpu:0 where there are several processes; a parameter that is
    # moved there from cpu comes out as a plain tensor, which its hooks cannot take.
    where = torch.device("cpu") if device.type == "cpu" else device
    for layer in encoder_layers(model):
        cpu_offload(layer, where)
    for tensor in (*model.parameters(), *model.buffers()):
        if not tensor.is_meta:
            tensor.data = tensor.data.to(device)
