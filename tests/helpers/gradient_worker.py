"""One rank of `test_invariance.py`: takes one optimiser step and writes down what it saw."""

import json
import sys
import weakref
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import save_file

from distilcli.config.experiment import MaskedLMExperiment
from distilcli.config.reading import load_masked_lm_experiment
from distilcli.distillation.masked_lm import MaskedLMObjective
from distilcli.distillation.masked_lm_parts import assemble_unsaved
from distilcli.training.processes import make_accelerator
from distilcli.training.steps import Stepper


def make_stepper(experiment: MaskedLMExperiment, accelerator: Accelerator) -> Stepper:
    """A stepper at the beginning of the experiment."""
    parts = assemble_unsaved(experiment, accelerator.device)
    objective = MaskedLMObjective(experiment, parts, accelerator.device)
    stepper = Stepper(experiment, objective, accelerator)
    stepper.distillation.train()
    return stepper


def gradient_of_step(stepper: Stepper, step: int) -> dict[str, torch.Tensor]:
    """Take a step; the gradient, by name, as the optimiser is given it."""
    named = stepper.distillation.trained()
    gradient: dict[str, torch.Tensor] = {}

    def remember(*_: Any) -> None:
        trained = {name: p for name, p in named.items() if p.requires_grad}
        gradient.update({name: p.grad.detach().clone() for name, p in trained.items()})

    hook = stepper.optimizer.register_step_pre_hook(remember)
    stepper.take(step, stepper.step_batches[step])
    hook.remove()
    return gradient


def weights_of(stepper: Stepper) -> dict[str, torch.Tensor]:
    return {
        name: parameter.detach().clone()
        for name, parameter in stepper.distillation.trained().items()
    }


def work(folder: str, config: str, *overrides: str) -> None:
    """What one rank does: a step for its gradient and weights, and some to count exchanges."""
    experiment = load_masked_lm_experiment(Path(config), overrides)
    accelerator = make_accelerator(experiment)
    rank = accelerator.process_index
    stepper = make_stepper(experiment, accelerator)
    record = {
        "num_processes": accelerator.num_processes,
        "tokens": [batch.num_tokens for batch in stepper.step_batches[0]],
        "masked": [batch.num_masked for batch in stepper.step_batches[0]],
        "placeholders": [batch.is_placeholder for batch in stepper.step_batches[0]],
    }
    save_file(gradient_of_step(stepper, 0), Path(folder) / f"gradient-{rank}.safetensors")
    save_file(weights_of(stepper), Path(folder) / f"weights-{rank}.safetensors")
    record["released"] = _is_released(stepper)
    counter = make_stepper(experiment, accelerator)
    record["exchanges"] = _exchanges_of_a_step(counter)
    counter.close()
    (Path(folder) / f"{rank}.json").write_text(json.dumps(record), encoding="utf-8")
    accelerator.end_training()


def work_last(folder: str, config: str, *overrides: str) -> None:
    """What one rank does in the last step, which may have no sample for it: its gradient."""
    experiment = load_masked_lm_experiment(Path(config), overrides)
    accelerator = make_accelerator(experiment)
    rank = accelerator.process_index
    stepper = make_stepper(experiment, accelerator)
    last = stepper.total_steps - 1
    [batch] = stepper.step_batches[last]
    outcomes = []
    take = stepper.take
    stepper.take = lambda *arguments: outcomes.append(take(*arguments))
    save_file(gradient_of_step(stepper, last), Path(folder) / f"gradient-{rank}.safetensors")
    stepper.check_finite()
    record = {
        "step": last,
        "is_placeholder": batch.is_placeholder,
        "counts": outcomes[0].counts,
        "tokens": outcomes[0].tokens,
        "sums": outcomes[0].sums.tolist(),
    }
    (Path(folder) / f"{rank}.json").write_text(json.dumps(record), encoding="utf-8")
    stepper.take = take
    stepper.close()
    accelerator.end_training()


def _is_released(stepper: Stepper) -> bool:
    """Whether closing a stepper frees the wrapped module, and with it DDP's reducer."""
    module = weakref.ref(stepper.model)
    wraps_another = stepper.model is not stepper.distillation
    stepper.close()
    return wraps_another and module() is None


def _exchanges_of_a_step(stepper: Stepper) -> list[list[Any]]:
    """Phase, place, operation, calls and bytes of the third step: DDP arranges itself before."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "benchmarks"))
    from exchanges import Counts, counting

    counts = Counts()
    with counting(counts):
        for step in range(3):
            stepper.take(step, stepper.step_batches[step])
    return [row for row in counts.rows() if row[0] in ("step", "gradient")]
