"""Stages of which some are on embeddings, before or after text and a task."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from disturbed_runs import finish
from staged_runs import experiment, make_staged_world
from tiny_embeddings import TinyEmbeddings, make_embeddings
from tiny_experiments import TinyWorld


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory) -> TinyEmbeddings:
    return make_embeddings(tmp_path_factory.mktemp("embeddings"))


def vectors(embeddings: TinyEmbeddings) -> dict[str, Any]:
    """A stage on embeddings: four steps, of batches of their own size."""
    own = embeddings.experiment()
    stage = {key: own[key] for key in ("task", "teacher", "optim")}
    train = {"global_batch_size": 32, "tokens_per_micro_batch": 256, "max_steps": 4}
    return {"name": "vectors", "train": train, **stage}


def write(path: Path, tree: dict[str, Any]) -> list[str]:
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return ["train", "--config", str(path)]


@pytest.mark.slow
def test_an_encoder_goes_on_from_the_student_of_text(tiny_world, embeddings, tmp_path):
    """As an experiment on embeddings of its own does from that student, to the last bit."""
    make_staged_world(tiny_world, tmp_path)
    tree = experiment(tiny_world, tmp_path) | {"name": "two", "output_dir": str(tmp_path / "runs")}
    general = tree["stages"][0]
    staged = write(tmp_path / "two.yaml", tree | {"stages": [general, vectors(embeddings)]})
    record = finish([*staged, "--json"]).json
    assert [one["stage"] for one in record["stages"]] == ["general", "vectors"]
    assert "held_out/spearman" in record["held_out"]
    run = tmp_path / "runs" / "two"
    assert (run / "student" / "modules.json").exists()
    stages = run / "stages"
    own = stages / "2-vectors" / "experiment.yaml"
    model = yaml.safe_load(own.read_text(encoding="utf-8"))["student"]["model"]
    assert model == str(stages / "1-general" / "student")
    finish(["train", "--config", str(own), "name=alone", f"output_dir={tmp_path}"])
    weights = "student/model.safetensors"
    assert (run / weights).read_bytes() == (tmp_path / "alone" / weights).read_bytes()


def test_text_and_a_task_go_on_from_an_encoder(
    tiny_world: TinyWorld, embeddings: TinyEmbeddings, tmp_path: Path
) -> None:
    """With new heads, and the keys of a shared loss that each of them knows."""
    make_staged_world(tiny_world, tmp_path)
    tree = experiment(tiny_world, tmp_path) | {"name": "more", "output_dir": str(tmp_path / "runs")}
    general, _, task = tree["stages"]
    tree["loss"] = tree.get("loss", {}) | {"similarities": {"weight": 2.0}}
    tree["stages"] = [vectors(embeddings), general, task]
    record = finish([*write(tmp_path / "more.yaml", tree), "--dry-run", "--json"]).json
    assert [one["stage"] for one in record["stages"]] == ["vectors", "general", "task"]
    assert not (tmp_path / "runs").exists()
