"""What a second process is worth on one machine, and what it costs to add up gradients.

    python scripts/benchmarks/scaling.py [--size base] [--cores 2] [--rounds 3] [--steps 4] [--json]

The same optimiser steps as one process with all cores and as one process for each core, in turns,
each time started anew under torchrun; medians over rounds. The share of a step that adding up
gradients takes is measured within the same processes: steps whose gradients stay where they are,
beside steps whose gradients are added up. Some 4 minutes on 2 cores with --size base.

No more processes than cores: they would take turns, and their times would say nothing of a machine
that has a core for each. What more processes exchange is counted by `exchanges.py`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from workload import ROOT, SHAPES, Task, machine, write_teacher, write_text

_NUM_WARM_UP = 2  # steps: one of each kind


def work(task: Task, num_steps: int) -> None:
    """One rank: time steps with and without adding up gradients; the first rank prints them."""
    import torch

    from distilcli.config.experiment import MaskedLMExperiment
    from distilcli.distillation.masked_lm import MaskedLMObjective
    from distilcli.distillation.masked_lm_parts import assemble_unsaved
    from distilcli.training.processes import make_accelerator
    from distilcli.training.steps import Stepper

    torch.set_num_threads(task.threads)
    experiment = MaskedLMExperiment.model_validate(task.experiment("all"))
    accelerator = make_accelerator(experiment)
    parts = assemble_unsaved(experiment, accelerator.device)
    objective = MaskedLMObjective(experiment, parts, accelerator.device)
    stepper = Stepper(experiment, objective, accelerator)
    stepper.distillation.train()
    batches = stepper.batches_from(0)
    timed: dict[str, list[float]] = {"together": [], "apart": []}
    tokens = []
    for step in range(_NUM_WARM_UP + 2 * num_steps):
        # Outside a step, no_sync keeps all of its gradients apart.
        apart: AbstractContextManager[Any] = nullcontext()
        if step % 2 == 0 and accelerator.num_processes > 1:
            apart = accelerator.no_sync(stepper.model)
        ready = next(batches)
        accelerator.wait_for_everyone()
        start = time.perf_counter()
        with apart:
            outcome = stepper.take(step, ready)
        accelerator.wait_for_everyone()
        seconds = (time.perf_counter() - start) / outcome.tokens
        if step >= _NUM_WARM_UP:
            timed["apart" if step % 2 == 0 else "together"].append(seconds)
            tokens.append(outcome.tokens)
    if accelerator.is_main_process:
        medians = {name: statistics.median(found) for name, found in timed.items()}
        print(json.dumps(medians | {"tokens": sum(tokens)}))
    stepper.close()
    accelerator.end_training()


def measure(task: Task, num_processes: int, num_steps: int) -> dict[str, float]:
    """Start the ranks; seconds per token with gradients added up and apart."""
    environment = os.environ | {"OMP_NUM_THREADS": str(task.threads), "ACCELERATE_USE_CPU": "true"}
    environment |= {"HF_HUB_OFFLINE": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    arguments = [__file__, "--worker", json.dumps(asdict(task)), "--steps", str(num_steps)]
    done = subprocess.run(
        [*launcher, "--nproc_per_node", str(num_processes), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"error: {num_processes} process(es) ended with {done.returncode}")
    figures: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def scaling(size: str, cores: int, rounds: int, num_steps: int, sequences: int) -> dict[str, Any]:
    """Take turns and compare."""
    from distilcli.config.experiment import MaskedLMExperiment
    from distilcli.distillation.tokenization import ensure_store, tokenization_of

    ways = {f"1 process x {cores} threads": (1, cores), f"{cores} processes x 1 thread": (cores, 1)}
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        text = write_text(root, None, num_lines=sequences * (2 * num_steps + 4))
        task = Task(
            size=size,
            teacher=write_teacher(root, size, max_length=128),
            text=text,
            folder=folder,
            device="cpu",
            threads=cores,
            sequences=sequences,
            max_length=128,
            micro_batch=2560,
            dropout=0.1,
            rounds=_NUM_WARM_UP + 2 * num_steps,
            compile=False,
        )
        experiment = MaskedLMExperiment.model_validate(task.experiment("all"))
        ensure_store(tokenization_of(experiment), num_proc=1)
        for number in range(rounds):
            for way, (processes, threads) in ways.items():
                own = Task(**asdict(task) | {"threads": threads})
                found[way].append(measure(own, processes, num_steps))
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
    one, many = found.values()
    return {
        "size": size,
        "tokens_per_second": {
            way: statistics.median(1 / figures["together"] for figures in rows)
            for way, rows in found.items()
        },
        "ratio": statistics.median(
            before["together"] / after["together"] for before, after in zip(one, many, strict=True)
        ),
        "share_of_adding_up": statistics.median(
            1 - figures["apart"] / figures["together"] for figures in many
        ),
        "machine": machine("cpu"),
        "rounds": found,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--size", choices=sorted(SHAPES), default="base")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="timed ones of each kind a round")
    parser.add_argument("--sequences", type=int, default=32, help="of an optimiser step")
    parser.add_argument("--json", action="store_true", help="print one object")
    options = parser.parse_args(arguments)
    if options.worker:
        work(Task(**json.loads(options.worker)), options.steps)
        return
    report = scaling(options.size, options.cores, options.rounds, options.steps, options.sequences)
    if options.json:
        print(json.dumps(report))
        return
    print(", ".join(f"{key} {value}" for key, value in report["machine"].items()))
    for way, speed in report["tokens_per_second"].items():
        print(f"{way}: {speed:,.0f} tokens/s")
    print(f"ratio: {report['ratio']:.2f}")
    print(f"share of a step spent on adding up gradients: {report['share_of_adding_up']:.1%}")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
