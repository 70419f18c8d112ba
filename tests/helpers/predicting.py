"""`predict` on the tiny tasks: experiments for it, running it, what it has written."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import tiny_suites
import yaml
from accelerate.state import AcceleratorState
from loss_settings import weights
from tiny_tasks import TinyTasks


def config(folder: Path, tasks: TinyTasks, kind: str, model: Path, **changes: Any) -> Path:
    """An experiment that learns from a model: eight steps, without dropout."""
    source = {"kind": "copied", "num_layers": 1, "source": str(model)}
    tree = tasks.experiment(kind, output_dir=str(folder / "runs"), student=source)
    tree["teacher"] = {"model": str(model), "cache": str(folder / "cache")}
    tree["loss"] = weights(soft_targets=1.0, labels=0.5)
    tree["train"] |= {"max_steps": 8}
    for key, value in changes.items():
        tree[key] = tree[key] | value if isinstance(value, dict) else value
    path = folder / f"{tree['name']}.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


def run(command: str, *words: str | Path, code: int = 0) -> Any:
    """The record that a command prints."""
    result = tiny_suites.invoke(*map(str, words), "--json", command=command)
    AcceleratorState._reset_state(reset_partial_state=True)
    assert result.exit_code == code, result.stderr
    return json.loads(result.stdout)


def predict(folder: Path, teacher: Path, settings: Path, name: str, *words: str | Path) -> Path:
    """The file that predict writes."""
    output = folder / name
    record = run("predict", teacher, "--config", settings, "--output", output, *words)
    assert record["output"] == str(output)
    return output


def rows_of(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
