"""`train.compile`: the layers compiled, whatever the number of tokens.

Compiled are the layers and not the whole model, so that layers of one kind share their graphs and
so do all micro-batches: the number of tokens is symbolic, and attention, whose work depends on the
lengths of the sequences, stays out. How many graphs there are is logged as `compile/graphs`: a
number that keeps growing would mean that something is compiled for every batch.
"""

import torch
from transformers import AttentionInterface, PreTrainedModel

from distilcli.attention import packed_attention
from distilcli.models import encoder_layers

_PACKED_UNCOMPILED = "distilcli_packed_uncompiled"


def compile_layers(model: PreTrainedModel) -> None:
    """Compile a model's layers in place, at their first call. Names of weights stay the same."""
    AttentionInterface.register(_PACKED_UNCOMPILED, torch.compiler.disable(packed_attention))
    model.set_attn_implementation(_PACKED_UNCOMPILED)
    for layer in encoder_layers(model):
        layer.compile(dynamic=True)


def num_graphs() -> int:
    """Graphs compiled so far in this process."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])
