"""Experiments on embeddings: what fits together, what is refused, and where they are not taken."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from distilcli.config.embedding import EmbeddingExperiment
from distilcli.config.experiment import MaskedLMExperiment
from distilcli.config.reading import dump, load_any_experiment, load_experiment
from distilcli.errors import ConfigError
from distilcli.suites.ablations import load_ablation, plan_ablation

TREE = {
    "name": "x",
    "task": {"kind": "embedding", "train": {"files": "texts.txt"}},
    "teacher": {"model": "t"},
}
DATA = {"sources": [{"files": "a.txt", "documents": "line"}], "store": "s"}
DEV = {"files": "pairs.tsv"}
RETRIEVAL = {name: {"files": f"{name}.jsonl"} for name in ("corpus", "queries", "relevant")}


def write(path: Path, tree: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


@pytest.fixture
def read(tmp_path):
    """Reads the experiment with overrides."""

    def load(*overrides: str) -> EmbeddingExperiment:
        found = load_experiment(write(tmp_path / "x.yaml", TREE), overrides)
        assert isinstance(found, EmbeddingExperiment)
        return found

    return load


def test_the_kind_of_the_task_says_which_experiment_it_is(read, tmp_path):
    experiment = read()
    assert experiment.loss.weights == {"cosine": 1.0, "mse": 0.0, "similarities": 1.0}
    assert experiment.task.texts == ["text"]
    assert experiment.student.layers == "spread"
    assert experiment.loss.similarities.temperature == 0.2
    assert experiment.rows_per_group == 32
    again = tmp_path / "again.yaml"
    again.write_text(dump(experiment), encoding="utf-8")
    assert load_experiment(again) == experiment


def test_a_group_is_of_texts_and_a_step_of_rows(read):
    pairs = ["task.texts=[a, b]", "task.group_size=16"]
    assert read(*pairs).rows_per_group == 8
    # Where nothing compares the texts of a group, there are none.
    assert read(*pairs, "loss.similarities.weight=0").rows_per_group == 1


def test_the_score_is_that_of_what_there_is_to_measure_on(read):
    dev, retrieval = f"task.dev={DEV}", f"task.retrieval={RETRIEVAL}"
    assert read().task.chosen_score == "spearman"
    assert not read().task.is_measured
    assert read(dev, retrieval).task.chosen_score == "spearman"
    assert read(retrieval).task.chosen_score == "ndcg@10"
    assert read(dev, retrieval, "task.score=ndcg@10").task.chosen_score == "ndcg@10"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["task.kind=embeddings"], "task.kind: must be embedding (given: 'embeddings')"),
        (["task.kind=embeding"], "task.kind: must be embedding (given: 'embeding')"),
        (["task.texts=[a, b, c]"], "group_size 32 is no multiple of the 3 texts of a row"),
        (["task.texts=[a, a]"], "texts names a column twice: a, a"),
        (["task.texts=[a, b, c, d]"], "task.texts"),
        (["task.group_size=2"], "task.group_size"),
        (["train.global_batch_size=100"], "100 is no multiple of the 32 rows that make a group"),
        (
            ["task.texts=[a, b]", "train.global_batch_size=24"],
            "24 is no multiple of the 16 rows of 2 texts each that make a group",
        ),
        (["task.score=spearman"], "score: spearman is measured on task.dev, which is null"),
        (["task.score=ndcg@10"], "score: ndcg@10 is measured on task.retrieval, which is null"),
        (["loss.cosine.weight=0", "loss.similarities.weight=0"], "every weight is 0"),
        (["loss.similarities.matryoshka=[64, 64]"], "matryoshka names a width twice"),
        (
            ["loss.similarities.matryoshka=[64]", "loss.similarities.weight=0"],
            "matryoshka: [64], but weight is 0",
        ),
        (["loss.labels.weight=1"], "loss.labels"),
        (["teacher.others=[]"], "teacher.others"),
        (["teacher=null"], "teacher"),
        (["task.max_length=9000"], "is under task.max_length 9000"),
        (["student.kind=random"], "student.kind"),
    ],
)
def test_what_does_not_fit_together_is_named(read, overrides, said):
    with pytest.raises(ConfigError) as caught:
        read(*overrides)
    assert said in caught.value.message


def test_a_stage_may_be_of_embeddings(tmp_path):
    """Of a shared section it has the keys that it knows, and others those that they know."""
    loss = {"similarities": {"weight": 2.0}, "masked_lm": {"weight": 3.0}}
    stages = [{"name": "a", "task": TREE["task"]}, {"name": "b", "data": DATA}]
    tree = {"name": "x", "stages": stages, "teacher": {"model": "t"}, "loss": loss}
    found = load_any_experiment(write(tmp_path / "x.yaml", tree))
    first, second = (stage.experiment for stage in found.stages)
    assert isinstance(first, EmbeddingExperiment)
    assert isinstance(second, MaskedLMExperiment)
    assert first.loss.weights["similarities"] == 2.0
    assert second.loss.weights["masked_lm"] == 3.0
    assert second.student.model == "runs/x/stages/1-a/student"
    tree["stages"][1]["loss"] = {"similarities": {"weight": 1.0}}
    with pytest.raises(ConfigError, match=r"stages\.1\.loss\.similarities: unknown key"):
        load_any_experiment(write(tmp_path / "x.yaml", tree))


def test_an_ablation_may_be_of_embeddings_that_are_measured(tmp_path):
    base = {key: value for key, value in TREE.items() if key != "name"}
    base["task"] = base["task"] | {"dev": DEV}
    changes = {"warm": {"loss.similarities.temperature": 0.1}}
    path = write(tmp_path / "x.yaml", {"name": "x", "base": base, "changes": changes})
    runs = plan_ablation(load_ablation(path, []), 1, path)
    found = [run.experiment.loss.similarities.temperature for run in runs]
    assert found == [0.2, 0.1]
    path = write(path, {"name": "x", "base": base | {"task": TREE["task"]}, "changes": changes})
    with pytest.raises(ConfigError, match="there is nothing to compare on"):
        plan_ablation(load_ablation(path, []), 1, path)
