"""Steps on embeddings: in this process, and as one rank of several."""

import json
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from gradient_worker import gradient_of_step
from safetensors.torch import save_file

from distilcli.config.embedding import EmbeddingExperiment
from distilcli.config.reading import load_experiment
from distilcli.distillation.embeddings import EmbeddingRun
from distilcli.training.processes import make_accelerator
from distilcli.training.steps import Stepper


def make_stepper(
    experiment: EmbeddingExperiment, accelerator: Accelerator, *, may_write: bool = False
) -> Stepper:
    """A stepper at the beginning of the experiment; with `may_write` the teacher runs once."""
    run = EmbeddingRun(experiment)
    parts = run.assemble_unsaved(accelerator.device, by_content=False)
    objective = run.objective(parts, accelerator, lambda _: None, may_write=may_write)
    stepper = Stepper(experiment, objective, accelerator)
    stepper.distillation.train()
    return stepper


def work(folder: str, config: str, *overrides: str) -> None:
    """What one rank does: one step, for its gradient."""
    experiment: Any = load_experiment(Path(config), overrides)
    accelerator = make_accelerator(experiment)
    rank = accelerator.process_index
    stepper = make_stepper(experiment, accelerator)
    save_file(gradient_of_step(stepper, 0), Path(folder) / f"gradient-{rank}.safetensors")
    groups = [list(batch.groups) for batch in stepper.step_batches[0]]
    (Path(folder) / f"{rank}.json").write_text(json.dumps(groups), encoding="utf-8")
    stepper.close()
    accelerator.end_training()
