"""Suites of tiny tasks and the commands that take them, for the tests of suites.

Scores to compare with come from plain transformers, a text at a time, unpadded.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from tiny_experiments import bert
from tiny_tasks import MAX_LENGTH, TinyTasks, pair_tokenizer
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedModel,
)
from typer.testing import CliRunner, Result

from distilcli.cli.app import app
from distilcli.config.suite import Suite
from distilcli.suites.plan import SuiteRun, plan

ROWS = {"train": {"files": "train.csv"}, "dev": {"files": "dev.csv"}}
PAIRS = {"kind": "classification", "max_length": 32} | ROWS
TAGS = {"kind": "tagging", "max_length": 128} | ROWS
SUITE = {
    "name": "small",
    "teacher": "big-bert",
    "student": {"num_layers": 2},
    "tasks": {"pairs": {"task": PAIRS}, "tags": {"task": TAGS}},
}
GLUE = ["CoLA", "MNLI", "MRPC", "QNLI", "QQP", "RTE", "SST-2", "STS-B", "WNLI"]
WHERE = Path("suite.yaml")


def suite_of(**changes: Any) -> Suite:
    return Suite.model_validate(SUITE | changes)


def runs_of(seeds: int = 1, **changes: Any) -> dict[str, SuiteRun]:
    """The runs of SUITE with some keys changed, by name, in order."""
    return {run.name: run for run in plan(suite_of(**changes), seeds, WHERE)}


def invoke(*arguments: str, command: str = "suite") -> Result:
    """A command in this process."""
    return CliRunner().invoke(app, [command, *arguments])


def refused(*arguments: str, command: str = "suite") -> str:
    """The error line of a command that must end with code 2 and say nothing on stdout."""
    result = invoke(*arguments, command=command)
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    [error] = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    return error.removeprefix("error: ")


def suite_file(path: Path, tiny: TinyTasks, *kinds: str, **changes: Any) -> Path:
    """A suite of some of the tiny tasks, which takes a second a run."""
    tree = {
        "name": "whole",
        "output_dir": str(path.parent / "runs"),
        "teacher": str(tiny.model),
        "student": {"num_layers": 2},
        "tasks": {kind: {"task": tiny.task(kind)} for kind in kinds},
        "optim": {"lr": 3e-3},
        "train": {
            "precision": "fp32",
            "global_batch_size": 16,
            "tokens_per_micro_batch": 256,
            "num_epochs": 3,
        },
    }
    path.write_text(yaml.safe_dump(tree | changes), encoding="utf-8")
    return path


def regression_model(folder: Path, seed: int, distilbert: bool = False) -> Path:
    """A model with a head for a number, every weight of it random and large."""
    shape = bert().config
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: PreTrainedModel
        if distilbert:
            config = DistilBertConfig(
                vocab_size=shape.vocab_size,
                dim=16,
                hidden_dim=24,
                n_layers=2,
                n_heads=4,
                max_position_embeddings=shape.max_position_embeddings,
                num_labels=1,
            )
            model = DistilBertForSequenceClassification(config)
        else:
            shape.num_labels = 1
            model = BertForSequenceClassification(shape)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    pair_tokenizer().save_pretrained(folder)
    return folder


def rows_of(tasks: TinyTasks, split: str = "dev") -> list[tuple[str, float]]:
    """Texts and numbers of the regression."""
    lines = (tasks.root / "regression" / f"{split}.csv").read_text().splitlines()[1:]
    return [(text, float(number)) for text, number in (line.rsplit(",", 1) for line in lines)]


@torch.no_grad()
def plain_outputs(folder: str | Path, tasks: TinyTasks) -> np.ndarray:
    """What a saved model puts out for each dev text, one at a time."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(tasks.model)
    found = []
    for text, _ in rows_of(tasks):
        row = tokenizer(text, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
        found.append(model(row["input_ids"]).logits[0].numpy())
    return np.stack(found)


def ranks(values: np.ndarray) -> np.ndarray:
    """Equal values share the mean of their places."""
    below, up_to = (
        (values[None] < values[:, None]).sum(1),
        (values[None] <= values[:, None]).sum(1),
    )
    return (below + up_to + 1) / 2


def plain_score(folder: str | Path, tasks: TinyTasks) -> float:
    """The mean of Pearson's and Spearman's correlation."""
    outputs = plain_outputs(folder, tasks)[:, 0].astype(np.float64)
    numbers = np.array([number for _, number in rows_of(tasks)])
    pearson = np.corrcoef(outputs, numbers)[0, 1]
    return float(pearson + np.corrcoef(ranks(outputs), ranks(numbers))[0, 1]) / 2
