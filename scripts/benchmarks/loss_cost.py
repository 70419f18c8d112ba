"""What each loss costs in time and memory, beside the three that are on by default.

    cd scripts/benchmarks
    python loss_cost.py                          # BERT-base, some 15 minutes on one core
    python loss_cost.py --max-length 512 --only attention_relations
    python loss_cost.py --device cuda --max-length 512 --micro-batch 16384

One micro-batch, forward and backward, of a student of six layers beside its teacher: first with the
default losses, then with each of the others added, and with the relations of attention alone. All
ways share the models and take turns on the same micro-batches; times are medians over rounds,
ratios medians of the ratios within a round. On a CPU it is the time that the process computes,
which other work on the machine changes less than how long it takes. The update of the weights,
which costs the same in all ways, is left out. Memory is the peak above what is held before the
micro-batch, in a process of its own for each way.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from memory import forget_peak_memory, held_memory_gib, peak_memory_gib
from workload import ROOT, SHAPES, Task, machine, write_teacher, write_text

DEFAULT = "the default losses"
ALONE = "attention_relations alone"


def ways(only: Sequence[str] | None) -> dict[str, dict[str, Any]]:
    """The settings of the losses, by what they are called in the table.

    Args:
        only: losses that are added to the default ones; None: every other.
    """
    from distilcli.config.losses import LossConfig

    weights = LossConfig().weights
    others = only or [name for name, weight in weights.items() if not weight]
    found: dict[str, dict[str, Any]] = {DEFAULT: {}}
    found |= {f"+ {name}": {name: {"weight": 1.0}} for name in others}
    if "attention_relations" in others:
        found[ALONE] = {name: {"weight": float(name == "attention_relations")} for name in weights}
    return found


class MicroBatches:
    """Runs micro-batches of one task in several ways, with the same models.

    Args:
        task: what is run.
        losses: the settings of the losses of each way.
    """

    def __init__(self, task: Task, losses: Mapping[str, dict[str, Any]]) -> None:
        import torch

        from distilcli.batches.plan import StepPlan
        from distilcli.config.experiment import MaskedLMExperiment
        from distilcli.distillation.masked_lm import MaskedLMObjective
        from distilcli.distillation.masked_lm_parts import assemble_unsaved
        from distilcli.models.placement import resolve_precision

        torch.set_num_threads(task.threads)
        self.device = torch.device(task.device)
        self.dtype = resolve_precision("auto", self.device)
        tree = task.experiment("cost")
        experiment = MaskedLMExperiment.model_validate(tree)
        parts = assemble_unsaved(experiment, self.device)
        self.objectives = {}
        for way, loss in losses.items():
            changed = MaskedLMExperiment.model_validate(tree | {"loss": tree["loss"] | loss})
            objective = MaskedLMObjective(changed, parts, self.device)
            objective.module.to(self.device).train()
            self.objectives[way] = objective
        lengths = parts.store.train.lengths
        self.plan = StepPlan(lengths, task.sequences, task.micro_batch, experiment.seed)

    def run(self, way: str, index: int) -> dict[str, float]:
        """Seconds and tokens of the first micro-batch of a step."""
        import torch

        objective = self.objectives[way]
        batch = objective.pack(self.plan.micro_batches(index, 0, 1)[0]).to(self.device)
        module = objective.module
        coefficients = [
            torch.tensor(alpha / max(count, 1), device=self.device)
            for alpha, count in zip(module.alphas(), module.counts(batch), strict=True)
        ]
        start = self._now()
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            total = module(batch, coefficients).total
        total.backward()
        seconds = self._now() - start
        module.zero_grad(set_to_none=False)  # so that gradients are held, and not what is measured
        return {"seconds": seconds, "tokens": batch.num_tokens}

    def _now(self) -> float:
        import torch

        if self.device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()


def peak_kib(task: Task, way: str, loss: dict[str, Any]) -> float:
    """Peak of memory of one micro-batch above what is held before it, for each token."""
    batches = MicroBatches(task, {way: loss})
    batches.run(way, 0)  # gradients are there, and what PyTorch sets up once
    held = held_memory_gib(task.device)
    forget_peak_memory(task.device)
    tokens = batches.run(way, 0)["tokens"]
    return (peak_memory_gib(task.device) - held) * 2**20 / tokens


def measure(task: Task, losses: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Of each way the time a token, beside that of the default losses, and the peak of memory."""
    from distilcli.training.host_memory import settle_host_memory

    if task.device == "cpu":
        settle_host_memory()
    batches = MicroBatches(task, losses)
    for way in losses:
        batches.run(way, 0)
    found = []
    for index in range(1, task.rounds + 1):
        found.append({way: batches.run(way, index) for way in losses})
        times = ", ".join(f"{way} {figures['seconds']:.3f} s" for way, figures in found[-1].items())
        print(f"round {index} of {task.rounds}: {times}", file=sys.stderr, flush=True)
    del batches
    memory = {way: _in_a_process(peak_kib, task, way, loss) for way, loss in losses.items()}
    return {way: _summary(way, found) | {"peak_kib_per_token": memory[way]} for way in losses}


def _summary(way: str, rounds: list[dict[str, dict[str, float]]]) -> dict[str, float]:
    seconds = [figures[way]["seconds"] for figures in rounds]
    tokens = [figures[way]["tokens"] for figures in rounds]
    first = [figures[DEFAULT]["seconds"] for figures in rounds]
    return {
        "microseconds_per_token": 1e6 * statistics.median(map(_ratio, seconds, tokens)),
        "ratio": statistics.median(map(_ratio, seconds, first)),
        "tokens": statistics.median(tokens),
    }


def _ratio(one: float, other: float) -> float:
    return one / other


def _in_a_process(function: Callable[..., float], *arguments: Any) -> float:
    # What is freed goes back at once, so that what is held is what is in use.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found: float = pool.apply(function, arguments)
    del os.environ["MALLOC_MMAP_THRESHOLD_"]
    return found


def show(found: Mapping[str, Mapping[str, float]]) -> str:
    """The table, in Markdown."""
    lines = ["| losses | us a token | x the default | peak, KiB a token |", "|---|---|---|---|"]
    for way, figures in found.items():
        lines.append(
            f"| {way} | {figures['microseconds_per_token']:,.1f} | {figures['ratio']:.3f} "
            f"| {figures['peak_kib_per_token']:,.1f} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one object")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--size", choices=sorted(SHAPES), default="base")
    parser.add_argument("--max-length", type=int, default=128, help="tokens of a sequence")
    parser.add_argument("--micro-batch", type=int, default=1280, help="tokens")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", action="append", help="loss to add (default: each in turn)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        # A step of two micro-batches, of which the first is full.
        sequences = 2 * options.micro_batch // options.max_length
        # A paragraph has some hundred tokens: so many make a sequence full.
        paragraphs = max(1, options.max_length // 100)
        num_lines = paragraphs * sequences * (options.rounds + 3)
        text = _joined(write_text(Path(folder), None, num_lines), paragraphs)
        task = Task(
            size=options.size,
            teacher=write_teacher(Path(folder), options.size, options.max_length),
            text=text,
            folder=folder,
            device=options.device,
            threads=options.threads,
            sequences=sequences,
            max_length=options.max_length,
            micro_batch=options.micro_batch,
            dropout=0.1,
            rounds=options.rounds,
            compile=False,
        )
        _prepare(task)
        found = measure(task, ways(options.only))
    if options.json:
        print(json.dumps({"machine": machine(options.device), "losses": found}))
        return
    print(", ".join(f"{key} {value}" for key, value in machine(options.device).items()))
    print(f"\n{show(found)}")


def _joined(text: str, count: int) -> str:
    """Join so many lines of a file at a time."""
    lines = Path(text).read_text(encoding="utf-8").splitlines()
    joined = (" ".join(lines[i : i + count]) for i in range(0, len(lines), count))
    Path(text).write_text("".join(f"{line}\n" for line in joined), encoding="utf-8")
    return text


def _prepare(task: Task) -> None:
    from distilcli.config.experiment import MaskedLMExperiment
    from distilcli.distillation.tokenization import ensure_store, tokenization_of

    experiment = MaskedLMExperiment.model_validate(task.experiment("cost"))
    ensure_store(tokenization_of(experiment), num_proc=1)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
