"""`teacher.offload`: a teacher whose layers wait in host memory.

Each matrix is on the device only while it is multiplied; embeddings and head stay there, for the
losses read them. A micro-batch then costs one copy of the teacher from the host, so large
micro-batches pay.
"""

import torch
from accelerate import cpu_offload

from distilcli.models import MaskedLM, encoder_layers


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
