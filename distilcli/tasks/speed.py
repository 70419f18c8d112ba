"""How long models take for all dev inputs of a task: the measure of Sanh et al. 2019, table 3.

The plain transformers forward pass that users will run, one input at a time and in the batches
that are fastest here; on the CPU, and on a GPU where there is one. The models take turns, so that
noise hits all.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from distilcli.models import is_bert
from distilcli.tasks.inputs import Inputs

_RUNS = 3
_WARMUP_INPUTS = 16
_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
_TRIAL_INPUTS = 128
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Pass:
    """One model's pass over dev inputs, in fp32.

    Attributes:
        device: cpu or cuda.
        threads: CPU threads used.
        inputs: how many.
        single_seconds: one at a time, median of 3 passes.
        best_batch_size: the fastest of 1 ... 64, padded to the longest of each batch.
        batched_seconds: in batches of that size, median of 3 passes.
    """

    device: str
    threads: int
    inputs: int
    single_seconds: float
    best_batch_size: int
    batched_seconds: float


def measure_passes(
    models: dict[str, PreTrainedModel],
    inputs: Inputs,
    num_inputs: int | None,
    on_note: Callable[[str], None],
) -> dict[str, list[Pass]]:
    """Time every model's pass, on each device.

    Args:
        models: by name; they are left on the last device, with plain attention.
        inputs: of the dev split.
        num_inputs: evenly spaced ones of them; None: all.
        on_note: told what is being measured.
    """
    count = min(num_inputs or len(inputs), len(inputs))
    chosen = np.arange(count) * len(inputs) // count
    devices = [_CPU, *([torch.device("cuda")] if torch.cuda.is_available() else [])]
    found: dict[str, list[Pass]] = {name: [] for name in models}
    for device in devices:
        for model in models.values():
            nn.Module.to(model.float().eval(), device)
            model.set_attn_implementation("sdpa")
        on_note(f"timing passes over {count:,} dev inputs on {device.type}")
        sizes = {name: _best_size(m, inputs, chosen, device) for name, m in models.items()}
        single = _medians(models, dict.fromkeys(models, 1), inputs, chosen, device)
        batched = _medians(models, sizes, inputs, chosen, device)
        for name in models:
            found[name].append(
                Pass(
                    device=device.type,
                    threads=torch.get_num_threads(),
                    inputs=count,
                    single_seconds=single[name],
                    best_batch_size=sizes[name],
                    batched_seconds=batched[name],
                )
            )
    return found


def _best_size(
    model: PreTrainedModel, inputs: Inputs, chosen: np.ndarray, device: torch.device
) -> int:
    """The batch size with the fastest pass over the first inputs."""
    trial = chosen[:_TRIAL_INPUTS]
    _seconds(model, inputs, trial[:_WARMUP_INPUTS], 1, device)
    return min(_BATCH_SIZES, key=lambda size: _seconds(model, inputs, trial, size, device))


def _medians(
    models: dict[str, PreTrainedModel],
    sizes: dict[str, int],
    inputs: Inputs,
    chosen: np.ndarray,
    device: torch.device,
) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for name, model in models.items():
        _seconds(model, inputs, chosen[:_WARMUP_INPUTS], sizes[name], device)
    for _ in range(_RUNS):
        for name, model in models.items():
            seconds[name].append(_seconds(model, inputs, chosen, sizes[name], device))
    return {name: statistics.median(values) for name, values in seconds.items()}


@torch.no_grad()
def _seconds(
    model: PreTrainedModel, inputs: Inputs, chosen: np.ndarray, size: int, device: torch.device
) -> float:
    """Seconds of one pass; making batches is no part of it, copying them to a GPU is."""
    parts = (chosen[start : start + size] for start in range(0, len(chosen), size))
    batches = [padded(inputs, part.tolist(), with_types=is_bert(model)) for part in parts]
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for batch in batches:
        model(**{name: tensor.to(device) for name, tensor in batch.items()})
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def padded(inputs: Inputs, samples: Sequence[int], with_types: bool) -> dict[str, Tensor]:
    """A batch as transformers takes it, padded on the right to its longest input."""
    longest = int(inputs.lengths[list(samples)].max())
    ids, types, mask = (torch.zeros((len(samples), longest), dtype=torch.long) for _ in range(3))
    for row, sample in enumerate(samples):
        span = slice(int(inputs.offsets[sample]), int(inputs.offsets[sample + 1]))
        length = span.stop - span.start
        ids[row, :length] = torch.from_numpy(inputs.token_ids[span].astype(np.int64))
        types[row, :length] = torch.from_numpy(inputs.token_types[span].astype(np.int64))
        mask[row, :length] = 1
    batch = {"input_ids": ids, "attention_mask": mask}
    return batch | ({"token_type_ids": types} if with_types else {})
