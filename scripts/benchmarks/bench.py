"""How fast a distillation step is, beside the ways others take it.

    cd scripts/benchmarks
    python bench.py          # BERT-base and a small BERT, some 15 minutes on 2 cores
    python bench.py --quick  # a rough answer in under 4 minutes
    python bench.py --device cuda --max-length 512 --sequences 256 --micro-batch 16384
    python bench.py --teacher DIR --text FILE.txt.gz --max-length 320

Every contestant (`contestants.py`) lives in a process of its own, all start from the same models
and take the same steps, in turns, one after the other in every round. The figures are medians over
rounds, the ratios medians of the ratios within a round. Reading and masking are not timed (they
take a thousandth of a step); memory is the peak once the models are loaded. TextBrewer takes part
where it is installed: `pip install -c constraints.txt '.[bench]'`.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from memory import forget_peak_memory, peak_memory_gib
from reckoning import Shape, step_gflop
from workload import ROOT, SHAPES, Task, machine, write_teacher, write_text

NAMES = {
    "padded": "padded, full logits, fp32",
    "padded_bf16": "padded, full logits, bf16 autocast",
    "textbrewer": "TextBrewer 0.2.1, fp32",
    "all": "distilcli, all positions",
    "masked": "distilcli, masked positions",
}
FP32 = ("padded", "textbrewer")


# One contestant, in its own process


def work(name: str, task: Task) -> None:
    """Answer each line on stdin with the figures of one step."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print must not mix with the answers
    import torch
    from accelerate import Accelerator

    torch.set_num_threads(task.threads)
    from contestants import (
        Contestant,
        Packed,
        Padded,
        PaddedBf16,
        PaddedCompiled,
        TextBrewer,
    )

    from distilcli.batches.plan import StepPlan
    from distilcli.config.experiment import MaskedLMExperiment
    from distilcli.distillation.masked_lm_parts import assemble_unsaved
    from distilcli.distillation.tokenization import ensure_store, tokenization_of
    from distilcli.training.host_memory import settle_host_memory

    kinds: dict[str, type[Padded] | type[TextBrewer] | type[Packed]]
    kinds = {"padded": Padded, "padded_bf16": PaddedBf16, "textbrewer": TextBrewer}
    kinds |= {"padded_compiled": PaddedCompiled, "all": Packed, "masked": Packed}
    experiment = MaskedLMExperiment.model_validate(task.experiment(name))
    accelerator = Accelerator(cpu=task.device == "cpu")
    if task.device == "cpu" and kinds[name] is Packed:
        settle_host_memory()
    ensure_store(tokenization_of(experiment), num_proc=1)
    peak = _matrix_peak(task, name)
    parts = assemble_unsaved(experiment, accelerator.device)
    assert parts.teacher is not None
    teacher, student = Shape.of(parts.teacher.config), Shape.of(parts.student.config)
    contestant: Contestant = kinds[name](experiment, parts, accelerator)
    lengths = parts.store.train.lengths
    plan = StepPlan(lengths, task.sequences, task.micro_batch, experiment.seed)
    forget_peak_memory(task.device)
    for index, _ in enumerate(sys.stdin):
        contestant.read(index)
        start = time.perf_counter()
        loss = contestant.step(index)
        if task.device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        memory_gib = peak_memory_gib(task.device)
        if task.device == "cpu":  # whose speed depends on what else the machine does
            peak = _matrix_peak(task, name)
        step_lengths = lengths[plan.samples(index)].tolist()
        share = 1.0 if name != "masked" else experiment.masking.mlm_probability
        answer = {
            "seconds": seconds,
            "tokens": sum(step_lengths),
            "loss": loss,
            "gflop": step_gflop(teacher, student, step_lengths, share),
            "memory_gib": memory_gib,
            "peak_gflops": peak,
        }
        print(json.dumps(answer), file=answers, flush=True)


def _matrix_peak(task: Task, name: str, seconds: float = 0.3) -> float:
    """GFLOP/s of a large matrix product, in the precision of the contestant."""
    import torch

    from distilcli.models.placement import resolve_precision

    device = torch.device(task.device)
    dtype = torch.float32 if name in FP32 else resolve_precision("auto", device)
    size = 8192 if task.device == "cuda" else 1024
    one, other = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    one @ other
    runs, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        one @ other
        if task.device == "cuda":
            torch.cuda.synchronize()
        runs += 1
    return 2 * size**3 * runs / (time.perf_counter() - start) / 1e9


# All of them


class Worker:
    """A contestant's process."""

    def __init__(self, name: str, task: Task) -> None:
        self.name = name
        environment = os.environ | {"OMP_NUM_THREADS": str(task.threads), "HF_HUB_OFFLINE": "1"}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--worker", name, json.dumps(asdict(task))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def step(self) -> dict[str, float]:
        """The figures of its next step."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        line = ""
        with contextlib.suppress(BrokenPipeError):  # it has ended, and says why on stderr
            self.process.stdin.write("step\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"error: {self.name} ended with {self.process.wait()}")
        answer: dict[str, float] = json.loads(line)
        return answer

    def close(self) -> None:
        """Let it end."""
        self.process.communicate()


def compare(task: Task, names: Sequence[str]) -> dict[str, Any]:
    """Medians over rounds for each contestant, after one step to warm up."""
    workers = {name: Worker(name, task) for name in names}
    losses = {name: worker.step()["loss"] for name, worker in workers.items()}
    rounds = []
    for number in range(task.rounds):
        rounds.append({name: worker.step() for name, worker in workers.items()})
        print(f"{task.size}: round {number + 1} of {task.rounds}", file=sys.stderr)
    for worker in workers.values():
        worker.close()
    return {
        "task": asdict(task),
        "first_losses": losses,
        "contestants": {name: _summary(name, rounds) for name in names},
        "rounds": rounds,
    }


def _summary(name: str, rounds: list[dict[str, dict[str, float]]]) -> dict[str, float]:
    def speed(of: str, number: int) -> float:
        return rounds[number][of]["tokens"] / rounds[number][of]["seconds"]

    numbers = range(len(rounds))
    own = [figures[name] for figures in rounds]
    gflops = statistics.median(figures["gflop"] / figures["seconds"] for figures in own)
    return {
        "tokens_per_second": statistics.median(speed(name, number) for number in numbers),
        "ratio": statistics.median(speed(name, n) / speed("padded", n) for n in numbers),
        "memory_gib": own[-1]["memory_gib"],
        "gflops": gflops,
        "peak_gflops": statistics.median(figures["peak_gflops"] for figures in own),
        "floor_share": statistics.median(
            figures["gflop"] / figures["seconds"] / figures["peak_gflops"] for figures in own
        ),
    }


def headline(table: dict[str, Any]) -> dict[str, float]:
    """The figures of a table that one wants to compare from machine to machine."""
    of = table["contestants"]
    found = {
        "ratio_all": of["all"]["ratio"],
        "ratio_masked": of["masked"]["ratio"],
        "memory_ratio": of["all"]["memory_gib"] / of["padded"]["memory_gib"],
        "floor_share": of["all"]["floor_share"],
        "floor_share_masked": of["masked"]["floor_share"],
    }
    for name in ("padded_bf16", "textbrewer"):
        if name in of:
            found[f"ratio_{name}"] = of[name]["ratio"]
    return found


def show(table: dict[str, Any]) -> str:
    """One table, in Markdown."""
    task = table["task"]
    share = "of the matrix peak"
    lines = [
        f"{task['size']}: {task['sequences']} sequences per step of at most {task['max_length']} "
        f"tokens, {task['micro_batch']} tokens a micro-batch, dropout {task['dropout']}, "
        f"{task['device']}, {task['threads']} thread(s), {task['rounds']} rounds",
        "",
        f"| | tokens/s | x padded | peak memory, GiB | useful GFLOP/s | {share} |",
        "|---|---|---|---|---|---|",
    ]
    for name, figures in table["contestants"].items():
        lines.append(
            f"| {NAMES[name]} | {figures['tokens_per_second']:,.0f} | {figures['ratio']:.2f} "
            f"| {figures['memory_gib']:.2f} | {figures['gflops']:,.0f} "
            f"| {figures['floor_share']:.0%} of {figures['peak_gflops']:,.0f} |"
        )
    return "\n".join(lines)


# The command line


def _contestants(device: str) -> list[str]:
    """Those that can take part here."""
    import torch

    from distilcli.models.placement import computes_in_bf16

    names = list(NAMES)
    if not importlib.util.find_spec("textbrewer"):
        names.remove("textbrewer")
    if not computes_in_bf16(torch.device(device)):
        names.remove("padded_bf16")
    return names


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--json", action="store_true", help="print one object")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--size", choices=sorted(SHAPES), action="append", help="default: both")
    parser.add_argument("--teacher", help="folder of a BertForMaskedLM to take instead of a shape")
    parser.add_argument("--text", help="text file, a document a line, instead of the built-in text")
    parser.add_argument("--max-length", type=int, default=128, help="tokens of a sequence")
    parser.add_argument("--sequences", type=int, help="of an optimiser step")
    parser.add_argument("--micro-batch", type=int, default=2560, help="tokens")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--compile", action="store_true", help="train.compile for distilcli")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare the contestants on every size and print the tables."""
    options = _parse(arguments)
    if options.worker:
        name, task = options.worker
        work(name, Task(**json.loads(task)))
        return
    names = _contestants(options.device)
    rounds = options.rounds or (2 if options.quick else 5)
    sequences = 16 if options.quick else 32
    tables = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        text = write_text(
            root, options.text, num_lines=(options.sequences or 2 * sequences) * (rounds + 2)
        )
        sizes = [options.teacher] if options.teacher else options.size or ["base", "small"]
        for size in sizes:
            teacher = options.teacher or write_teacher(root, size, options.max_length)
            task = Task(
                size=size,
                teacher=teacher,
                text=text,
                folder=folder,
                device=options.device,
                threads=options.threads,
                sequences=options.sequences or sequences * (1 if size == "base" else 2),
                max_length=options.max_length,
                micro_batch=options.micro_batch,
                dropout=options.dropout,
                rounds=rounds,
                compile=options.compile,
            )
            tables.append(compare(task, names))
    hardware = machine(options.device)
    if options.json:
        first = headline(tables[0])
        by_size = {table["task"]["size"]: headline(table) for table in tables}
        print(json.dumps(first | {"machine": hardware, "sizes": by_size, "tables": tables}))
        return
    print(", ".join(f"{key} {value}" for key, value in hardware.items()))
    for table in tables:
        print(f"\n{show(table)}")
        print("\n" + ", ".join(f"{key} {value:.2f}" for key, value in headline(table).items()))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
