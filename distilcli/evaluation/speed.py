"""How long models take: plain forward passes on text, and all dev inputs of a task."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from distilcli.corpus.store import Split
from distilcli.models.families import MaskedLM, takes_token_types
from distilcli.models.padded_teacher import PaddedTeacher, TaskModel
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
    models: Mapping[str, TaskModel],
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
            if isinstance(model, PreTrainedModel):
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


def _best_size(model: TaskModel, inputs: Inputs, chosen: np.ndarray, device: torch.device) -> int:
    """The batch size with the fastest pass over the first inputs."""
    trial = chosen[:_TRIAL_INPUTS]
    _pass_over(model, inputs, trial[:_WARMUP_INPUTS], 1, device)()
    passes = {size: _pass_over(model, inputs, trial, size, device) for size in _BATCH_SIZES}
    seconds = median_seconds(passes, 1, device)
    return min(seconds, key=lambda size: seconds[size])


def _medians(
    models: Mapping[str, TaskModel],
    sizes: dict[str, int],
    inputs: Inputs,
    chosen: np.ndarray,
    device: torch.device,
) -> dict[str, float]:
    passes = {}
    for name, model in models.items():
        _pass_over(model, inputs, chosen[:_WARMUP_INPUTS], sizes[name], device)()
        passes[name] = _pass_over(model, inputs, chosen, sizes[name], device)
    return median_seconds(passes, _RUNS, device)


def _pass_over(
    model: TaskModel, inputs: Inputs, chosen: np.ndarray, size: int, device: torch.device
) -> Callable[[], None]:
    """One pass, its batches made; copying them to a GPU is a part of it."""
    if isinstance(model, PaddedTeacher):
        return model.passes([inputs.shown[i] for i in chosen.tolist()], size, device)
    parts = (chosen[start : start + size] for start in range(0, len(chosen), size))
    with_types, padding = takes_token_types(model), model.config.pad_token_id or 0
    batches = [padded(inputs, part.tolist(), with_types, padding) for part in parts]

    @torch.no_grad()
    def run() -> None:
        for batch in batches:
            model(**{name: tensor.to(device) for name, tensor in batch.items()})

    return run


_Key = TypeVar("_Key")


def median_seconds(
    actions: Mapping[_Key, Callable[[], object]], runs: int, device: torch.device
) -> dict[_Key, float]:
    """How long each action takes; they take turns, so that what disturbs one disturbs all.

    Args:
        actions: by name, warmed up.
        runs: how often each is timed.
        device: that they compute on, which is waited for.

    Returns:
        Median seconds of each.
    """
    seconds: dict[_Key, list[float]] = {name: [] for name in actions}
    for _ in range(runs):
        for name, action in actions.items():
            _wait_for(device)
            start = time.perf_counter()
            action()
            _wait_for(device)
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def padded(
    inputs: Inputs, samples: Sequence[int], with_types: bool, padding: int = 0
) -> dict[str, Tensor]:
    """A batch as transformers takes it, padded on the right to its longest input.

    Args:
        inputs: what they are taken from.
        samples: their indices.
        with_types: whether the model takes token types.
        padding: id that fills up; from others a model may count positions.
    """
    longest = int(inputs.lengths[list(samples)].max())
    types, mask = (torch.zeros((len(samples), longest), dtype=torch.long) for _ in range(2))
    ids = torch.full_like(mask, padding)
    for row, sample in enumerate(samples):
        span = slice(int(inputs.offsets[sample]), int(inputs.offsets[sample + 1]))
        length = span.stop - span.start
        ids[row, :length] = torch.from_numpy(inputs.token_ids[span].astype(np.int64))
        types[row, :length] = torch.from_numpy(inputs.token_types[span].astype(np.int64))
        mask[row, :length] = 1
    batch = {"input_ids": ids, "attention_mask": mask}
    return batch | ({"token_type_ids": types} if with_types else {})


_WARMUP_RUNS = 2
_LATENCY_RUNS = 15
_THROUGHPUT_RUNS = 5
_THROUGHPUT_BATCH = 16


@dataclass(frozen=True)
class Speed:
    """Forward passes of the encoder and head on the CPU, medians.

    Attributes:
        latency_ms: one sequence of `length` tokens, milliseconds.
        sequences_per_second: in batches of `batch_size` sequences of `length` tokens.
        length: tokens of a sequence: the median of the held-out text.
        batch_size: sequences in a batch.
        threads: CPU threads used.
    """

    latency_ms: float
    sequences_per_second: float
    length: int
    batch_size: int
    threads: int

    @property
    def how(self) -> str:
        """How it was measured, for people."""
        return (
            f"latency: one sequence of {self.length} tokens; sequences/s: in batches of "
            f"{self.batch_size}; CPU, {self.threads} thread(s), medians"
        )


def measure_speed(models: dict[str, MaskedLM], split: Split) -> dict[str, Speed]:
    """Latency and throughput of each model on the CPU; they take turns, so noise hits all."""
    length = int(statistics.median(split.lengths.tolist()))
    tokens = _sequences(split, length)
    for model in models.values():
        model.cpu().eval()
        model.set_attn_implementation("sdpa")
    single = _forward_medians(models, tokens[:1], _LATENCY_RUNS)
    batched = _forward_medians(models, tokens, _THROUGHPUT_RUNS)
    return {
        name: Speed(
            latency_ms=1000 * single[name],
            sequences_per_second=len(tokens) / batched[name],
            length=length,
            batch_size=len(tokens),
            threads=torch.get_num_threads(),
        )
        for name in models
    }


def _sequences(split: Split, length: int) -> Tensor:
    """Real held-out tokens, cut or repeated to a batch of equal length."""
    rows = []
    for index in range(_THROUGHPUT_BATCH):
        row = torch.from_numpy(split.tokens(index % len(split)).astype("int64"))
        rows.append(row.repeat(length // len(row) + 1)[:length])
    return torch.stack(rows)


def _forward_medians(models: dict[str, MaskedLM], input_ids: Tensor, runs: int) -> dict[str, float]:
    """Median seconds of one forward pass of each model on the CPU."""

    def forward(model: MaskedLM) -> Callable[[], None]:
        @torch.no_grad()
        def run() -> None:
            model(input_ids=input_ids)

        return run

    passes = {name: forward(model) for name, model in models.items()}
    median_seconds(passes, _WARMUP_RUNS, _CPU)
    return median_seconds(passes, runs, _CPU)
