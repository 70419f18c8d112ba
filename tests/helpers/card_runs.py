"""Run folders as training leaves them, made by hand in a moment, to write cards for."""

import json
from pathlib import Path
from typing import Any

import yaml
from tiny_experiments import bert, save
from torch import nn

from distilcli.config.reading import dump, load_any_experiment
from distilcli.config.stages import StagedExperiment, dump_stages
from distilcli.training.run_folder import RunFolder

TEACHER = {"parameters": 20_000, "retained": 1.0}
STUDENT = {"parameters": 10_000, "retained": 0.75}


def make_run(root: Path, experiment: dict[str, Any], student: nn.Module | None = None) -> RunFolder:
    """A run folder with a student, the experiment, and the records of two steps."""
    root.mkdir(parents=True)
    file = root / "given.yaml"
    file.write_text(yaml.safe_dump({"name": root.name} | experiment), encoding="utf-8")
    found = load_any_experiment(file)
    file.unlink()
    run = RunFolder(root)
    text = dump_stages(found) if isinstance(found, StagedExperiment) else dump(found)
    run.experiment.write_text(text, encoding="utf-8")
    save(student or bert(), run.student)
    environment = {"distilcli": "9.9.9", "python": "3.11.7", "cpu": "A CPU", "cpu_cores_usable": 2}
    run.environment.write_text(json.dumps(environment), encoding="utf-8")
    steps = [{"step": n, "speed/tokens": 100, "speed/tokens_per_second": 50.0} for n in (1, 2)]
    run.metrics.write_text("".join(json.dumps(step) + "\n" for step in steps), encoding="utf-8")
    return run


def write_results(
    run: RunFolder, own: dict[str, Any], teacher: dict[str, Any], **more: Any
) -> None:
    """A results.json with scores of both, as `eval` writes it."""
    models = {
        "teacher": {"path": "elsewhere/teacher", **TEACHER, "scores": teacher},
        "own": {"path": str(run.student), **STUDENT, "scores": own},
    }
    run.results.write_text(json.dumps({**more, "models": models}), encoding="utf-8")
