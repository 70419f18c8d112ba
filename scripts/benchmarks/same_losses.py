"""That what makes a step fast does not change what it computes.

    python scripts/benchmarks/same_losses.py [--steps 200] [--json]

Trains the student of the built-in teacher for some steps, dropout off, in several ways: as
`distilcli train` does in fp32, and then with one thing different at a time. In fp32 the losses must
stay equal to rounding; in bf16, where the hardware has it, to its noise. Ten minutes on 2 cores.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from contestants import Packed, Padded

from distilcli.config.experiment import MaskedLMExperiment
from distilcli.distillation.masked_lm_parts import assemble_unsaved
from distilcli.distillation.tokenization import ensure_store, tokenization_of
from distilcli.models.placement import computes_in_bf16

SEQUENCES, MAX_LENGTH = 8, 48
ONE_BATCH = SEQUENCES * MAX_LENGTH
PLAIN = "packed, fused head, fp32"
# What differs from PLAIN: the kind of step, then settings of the train section.
WAYS: dict[str, tuple[type[Packed] | type[Padded], dict[str, Any]]] = {
    PLAIN: (Packed, {}),
    "padded, full logits": (Padded, {}),
    "in four micro-batches": (Packed, {"tokens_per_micro_batch": ONE_BATCH // 4}),
    "read by two workers": (Packed, {"num_workers": 2}),
    "compiled layers": (Packed, {"compile": True}),
    "bf16": (Packed, {"precision": "bf16"}),
}


def experiment_of(folder: str, steps: int, train: dict[str, Any]) -> MaskedLMExperiment:
    """The built-in teacher and text, with these settings of the train section."""
    batch = {"global_batch_size": SEQUENCES, "tokens_per_micro_batch": ONE_BATCH}
    return MaskedLMExperiment.model_validate(
        {
            "name": "same-losses",
            "output_dir": folder,
            "teacher": {"model": "builtin:teacher", "precision": train.get("precision", "fp32")},
            "student": {"num_layers": 3, "dropout": 0.0, "attention_dropout": 0.0},
            "data": {
                "sources": [{"files": "builtin:text.jsonl.gz"}],
                "store": f"{folder}/store",
                "max_length": MAX_LENGTH,
            },
            "train": batch | {"precision": "fp32", "max_steps": steps} | train,
        }
    )


def losses(folder: str, steps: int, way: str) -> list[float]:
    """The weighted loss of every step."""
    kind, train = WAYS[way]
    experiment = experiment_of(folder, steps, train)
    ensure_store(tokenization_of(experiment), num_proc=1)
    accelerator = Accelerator(cpu=True)
    parts = assemble_unsaved(experiment, accelerator.device)
    contestant = kind(experiment, parts, accelerator)
    found = []
    for step in range(steps):
        contestant.read(step)
        found.append(contestant.step(step))
    AcceleratorState._reset_state(reset_partial_state=True)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Train in every way and print how far the losses are apart."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--json", action="store_true", help="print one object")
    options = parser.parse_args(arguments)
    report: dict[str, dict[str, float]] = {}
    plain: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for way, (_, train) in WAYS.items():
            if train.get("precision") == "bf16" and not computes_in_bf16(torch.device("cpu")):
                print("bf16: this CPU has no instructions for it; left out", file=sys.stderr)
                continue
            found = losses(folder, options.steps, way)
            plain = plain or found
            differences = [abs(a - b) / b for a, b in zip(found, plain, strict=True)]
            last = max(1, options.steps // 10)
            report[way] = {
                "first": found[0],
                "last": sum(found[-last:]) / last,
                "largest_relative_difference": max(differences),
            }
            print(f"{way}: {report[way]}", file=sys.stderr)
    if options.json:
        print(json.dumps({"steps": options.steps, "ways": report}))
        return
    print(f"| {options.steps} steps | first loss | mean of the last tenth | largest difference |")
    print("|---|---|---|---|")
    for way, figures in report.items():
        print(
            f"| {way} | {figures['first']:.6f} | {figures['last']:.6f} "
            f"| {figures['largest_relative_difference']:.1e} |"
        )


if __name__ == "__main__":
    main()
