"""Students beside their teacher: quality on text, size, and speed on this machine.

Quality is measured under one fixed mask (`validation.py`); speed with the plain transformers
forward pass that users will run, on the CPU, the models taking turns.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from distilcli.attention import use_packed_attention
from distilcli.batches import held_out_batches
from distilcli.masking import Masker
from distilcli.models import MaskedLM, num_parameters, size_mib
from distilcli.processes import single_accelerator
from distilcli.store import Split
from distilcli.validation import HeldOutScores, held_out_scores

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


@dataclass(frozen=True)
class Evaluation:
    """One model's row.

    Attributes:
        name: folder or hub name.
        parameters: tied ones counted once.
        size_mib: of the weights as they are stored.
        scores: held-out quality.
        retained: accuracy over the teacher's; None without a teacher.
        speed: on this machine's CPU; None where it is not measured.
    """

    name: str
    parameters: int
    size_mib: float
    scores: HeldOutScores
    retained: float | None
    speed: Speed | None

    def record(self) -> dict[str, Any]:
        """For results.json."""
        return {**asdict(self), "perplexity": self.scores.perplexity}


def evaluate(
    models: dict[str, MaskedLM],
    teacher_name: str | None,
    split: Split,
    masker: Masker,
    tokens_per_micro_batch: int,
    on_note: Callable[[str], None],
    num_sequences: int | None = None,
    with_speed: bool = True,
) -> list[Evaluation]:
    """Measure models on the sequences of a split.

    Args:
        models: by name, all with the vocabulary of the split's store.
        teacher_name: which of them the others are compared with.
        split: the text.
        masker: the fixed mask of that text, see `held_out_masker`.
        tokens_per_micro_batch: tokens in one forward pass, at most.
        on_note: told what is being measured.
        num_sequences: sequences to measure quality on, evenly spaced; None: all.
        with_speed: measure speed too.

    Raises:
        NonFiniteLossError: a model's loss is NaN or infinite.
    """
    speeds: dict[str, Speed] = {}
    if with_speed:
        on_note("measuring speed on the CPU")
        speeds = measure_speed(models, split)
    accelerator = single_accelerator()
    teacher = models[teacher_name] if teacher_name else None
    scores = {}
    for name, model in models.items():
        on_note(f"measuring quality of {name}")
        use_packed_attention(model.to(accelerator.device))
        if teacher is not None:
            use_packed_attention(teacher.to(accelerator.device))
        batches = held_out_batches(
            split, masker, num_sequences or len(split), tokens_per_micro_batch
        )
        scores[name] = held_out_scores(model, teacher, batches, accelerator, name)
    reference = scores[teacher_name].accuracy if teacher_name else None
    return [
        Evaluation(
            name=name,
            parameters=num_parameters(model),
            size_mib=size_mib(model),
            scores=scores[name],
            retained=scores[name].accuracy / reference if reference else None,
            speed=speeds.get(name),
        )
        for name, model in models.items()
    ]


def measure_speed(models: dict[str, MaskedLM], split: Split) -> dict[str, Speed]:
    """Latency and throughput of each model on the CPU; they take turns, so noise hits all."""
    length = int(statistics.median(split.lengths.tolist()))
    tokens = _sequences(split, length)
    for model in models.values():
        model.cpu().eval()
        model.set_attn_implementation("sdpa")
    single = _medians(models, tokens[:1], _LATENCY_RUNS)
    batched = _medians(models, tokens, _THROUGHPUT_RUNS)
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


@torch.no_grad()
def _medians(models: dict[str, MaskedLM], input_ids: Tensor, runs: int) -> dict[str, float]:
    """Median seconds of one forward pass of each model."""
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for run in range(_WARMUP_RUNS + runs):
        for name, model in models.items():
            start = time.perf_counter()
            model(input_ids=input_ids)
            if run >= _WARMUP_RUNS:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}
