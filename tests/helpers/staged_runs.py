"""A tiny experiment of three stages: text, the same text in shorter sequences, then a task."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tiny_experiments import CONSONANTS, VOWELS, TinyWorld, metrics, weights

STAGES = ["1-general", "2-short", "3-task"]
STEPS = {"1-general": 5, "2-short": 3, "3-task": 4}


@dataclass(frozen=True)
class StagedWorld:
    """The experiment file, and what it needs, on disk."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "staged.yaml"

    def command(self, folder: Path, *more: str) -> list[str]:
        """`train` with its run folder in `folder`."""
        return ["train", "--config", str(self.config), f"output_dir={folder}", *more]


def make_staged_world(world: TinyWorld, root: Path) -> StagedWorld:
    """Write the rows of the task and the experiment file."""
    for split in ("train", "dev"):
        rows = [
            {"text": f"{c}{v} {c}{w}" + " ba" * (split == "dev"), "label": c in "bdfg"}
            for c in CONSONANTS
            for v in VOWELS
            for w in VOWELS[:2]
        ]
        lines = [json.dumps(row | {"label": "yn"[row["label"]]}) + "\n" for row in rows]
        (root / f"{split}.jsonl").write_text("".join(lines))
    staged = StagedWorld(root)
    staged.config.write_text(yaml.safe_dump(experiment(world, root), sort_keys=False))
    return staged


def experiment(world: TinyWorld, root: Path) -> dict[str, Any]:
    """The settings: a weight and a temperature change, and dropout is on."""
    settings = world.experiment() | {"name": "staged"}
    settings["train"] = settings["train"] | {"max_steps": STEPS["1-general"], "save_every": 2}
    settings["validation"] = {"every": 0, "num_sequences": 20}
    task: dict[str, Any] = {"kind": "classification", "max_length": 12}
    task |= {split: {"files": str(root / f"{split}.jsonl")} for split in ("train", "dev")}
    settings["stages"] = [
        {"name": "general", "loss": {"temperature": {"from": 4, "to": 1}}},
        {
            "name": "short",
            "data": {"max_length": 12, "store": str(root / "short")},
            "loss": {"masked_lm": {"weight": {"from": 0, "to": 2, "schedule": "cosine"}}},
            "train": {"max_steps": STEPS["2-short"]},
        },
        {
            "name": "task",
            "task": task,
            "teacher": None,
            "loss": {"soft_targets": {"weight": 0}},
            "train": {"max_steps": STEPS["3-task"]},
        },
    ]
    return settings


def stage(folder: Path, name: str) -> Path:
    """The folder of a stage of the run in `folder`."""
    return folder / "staged" / "stages" / name


def assert_same_stages(folder: Path, other: Path) -> None:
    """Student, optimiser and every record of every step of every stage, to the last bit."""
    for name in STAGES:
        assert weights(stage(folder, name)) == weights(stage(other, name)), name
        records = metrics(stage(folder, name))
        assert [record["step"] for record in records] == list(range(1, STEPS[name] + 1))
        assert records == metrics(stage(other, name))
    student = (folder / "staged" / "student" / "model.safetensors").read_bytes()
    assert student == (stage(other, "3-task") / "student" / "model.safetensors").read_bytes()
