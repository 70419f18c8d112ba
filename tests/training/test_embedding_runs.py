"""Runs on embeddings: one gradient however a batch is cut, a student that anybody can load, a
resume after a kill, and a measurement beside the teacher.
"""

import json
from pathlib import Path
from typing import Any

import embedding_worker
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from embedding_worker import make_stepper
from gradient_worker import gradient_of_step
from held_steps import start_held
from safetensors.torch import load_file
from scipy import stats
from tiny_embeddings import NUM_PAIRS, TinyEmbeddings, make_embeddings
from tiny_experiments import last_step, listing, metrics, run, start_function, weights
from torch import Tensor
from transformers import AutoModel, AutoTokenizer
from typer.testing import CliRunner

from distilcli.cli.app import app
from distilcli.config.embedding import EmbeddingExperiment
from distilcli.training.processes import make_accelerator

NO_DROPOUT = {"num_layers": 2, "dropout": 0.0, "attention_dropout": 0.0}
EVERY_LOSS = {
    "cosine": {"weight": 1.0},
    "mse": {"weight": 3.0},
    "similarities": {"weight": 0.7, "matryoshka": [16]},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> TinyEmbeddings:
    return make_embeddings(tmp_path_factory.mktemp("embeddings"))


@pytest.fixture
def gradient(world, fresh_accelerator):
    """The first step's gradient, and how many micro-batches it was cut into."""

    def take(
        tokens: int, may_write: bool = False, **sections: Any
    ) -> tuple[dict[str, Tensor], int]:
        settings = world.experiment(**{"student": NO_DROPOUT, "loss": EVERY_LOSS} | sections)
        settings["train"] |= {"tokens_per_micro_batch": tokens}
        experiment = EmbeddingExperiment.model_validate(settings)
        accelerator = make_accelerator(experiment)
        stepper = make_stepper(experiment, accelerator, may_write=may_write)
        found = gradient_of_step(stepper, 0)
        return found, len(stepper.step_batches[0])

    return take


def difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Length of the difference over that of the expected gradient, of the worst parameter."""
    assert found.keys() == expected.keys()
    scale = max(float(one.norm()) for one in expected.values())
    return max(float((found[name] - expected[name]).norm()) / scale for name in expected)


def test_micro_batches_do_not_change_the_gradient(gradient):
    """32 texts are four groups of 8, in one micro-batch or in four."""
    whole, one = gradient(10_000)
    parts, four = gradient(120)
    assert (one, four) == (1, 4)
    assert difference(parts, whole) < 1e-5
    assert min(float(value.norm()) for value in whole.values()) > 0.0


def test_smaller_groups_are_another_gradient(world, gradient):
    """Else the test above would show nothing of similarities."""
    whole, _ = gradient(10_000)
    others, _ = gradient(10_000, task=world.task() | {"group_size": 4})
    assert difference(others, whole) > 1e-2


def test_vectors_on_disk_are_those_of_a_teacher_in_every_step(gradient):
    once, _ = gradient(10_000, may_write=True)
    beside, _ = gradient(10_000)
    assert difference(once, beside) < 1e-5


def test_a_narrower_student_has_a_projection_that_is_trained(gradient):
    """One for each loss that compares number by number, kept out of the student."""
    student = NO_DROPOUT | {"hidden_size": 16, "num_heads": 4}
    loss = EVERY_LOSS | {"similarities": {"weight": 0.7, "matryoshka": [8]}}
    found, _ = gradient(10_000, student=student, loss=loss)
    projections = {name: tuple(one.shape) for name, one in found.items() if "projections" in name}
    assert projections == {
        "projections.cosine.weight": (32, 16),
        "projections.mse.weight": (32, 16),
    }


@pytest.mark.slow
def test_processes_do_not_change_the_gradient(world, tmp_path, gradient):
    whole, _ = gradient(10_000)
    config = world.write_config(tmp_path / "x.yaml", student=NO_DROPOUT, loss=EVERY_LOSS)
    arguments = [str(tmp_path), str(config)]
    finished = start_function(embedding_worker.work, arguments, 2).wait()
    assert finished.code == 0, finished.stderr
    for rank in range(2):
        found = load_file(tmp_path / f"gradient-{rank}.safetensors")
        assert difference(found, whole) < 1e-5
        groups = json.loads((tmp_path / f"{rank}.json").read_text())
        assert [size for batch in groups for size in batch] == [8, 8]


# Runs


def invoke(*arguments: str) -> Any:
    """A command in this process; what it said as JSON."""
    try:
        result = CliRunner().invoke(app, [*arguments, "--json"])
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def trained(world) -> dict[str, Any]:
    """A run that is measured on pairs and on retrieval."""
    config = world.write_config(
        world.root / "vectors.yaml",
        task=world.task() | {"retrieval": world.retrieval(), "prompt": "ba "},
        loss=EVERY_LOSS,
    )
    return invoke("train", "--config", str(config))


def vectors_of(folder: str, texts: list[str]) -> np.ndarray:
    """What transformers computes: means over tokens, of length 1."""
    batch = AutoTokenizer.from_pretrained(folder)(
        texts, padding=True, truncation=True, max_length=20, return_tensors="pt"
    )
    with torch.no_grad():
        states = AutoModel.from_pretrained(folder)(**batch).last_hidden_state
    mask = batch["attention_mask"][:, :, None]
    found = (states * mask).sum(1) / mask.sum(1)
    return (found / found.norm(dim=1, keepdim=True)).numpy()


def test_a_run_learns_and_its_scores_are_those_of_transformers(world, trained):
    first, *_, last = metrics(Path(trained["run_folder"]))
    assert last["loss/cos"] < 0.8 * first["loss/cos"]
    for record in (first, last):
        parts = record["loss/cos"] + 3 * record["loss/mse"] + 0.7 * record["loss/similarities"]
        assert record["loss/total"] == pytest.approx(parts, rel=1e-5)
    lines = (world.root / "pairs.tsv").read_text().splitlines()[1:]
    pairs = [line.split("\t") for line in lines]
    sides = [vectors_of(trained["student"], [f"ba {pair[i]}" for pair in pairs]) for i in (0, 1)]
    cosines = (sides[0] * sides[1]).sum(axis=1)
    expected = stats.spearmanr([float(pair[2]) for pair in pairs], cosines).statistic
    assert trained["held_out"]["held_out/spearman"] == pytest.approx(expected, abs=1e-3)
    names = {"spearman", "ndcg@10", "recall@10", "spearman_16", "ndcg@10_16", "recall@10_16"}
    assert trained["held_out"].keys() == {f"held_out/{name}" for name in names}


def test_the_student_is_a_folder_of_sentence_transformers(trained):
    folder = Path(trained["student"])
    modules = json.loads((folder / "modules.json").read_text())
    kinds = [one["type"].rpartition(".")[2] for one in modules]
    assert kinds == ["Transformer", "Pooling", "Normalize"]
    assert AutoModel.from_pretrained(folder).config.num_hidden_layers == 2
    package = pytest.importorskip("sentence_transformers")
    texts = ["ba be bi", "da", "fo fu ga ge gi"]
    found = package.SentenceTransformer(str(folder), device="cpu").encode(texts)
    expected = vectors_of(str(folder), [f"ba {text}" for text in texts])
    assert np.abs(found - expected).max() < 1e-6


def test_eval_measures_the_student_beside_its_teacher(world, trained):
    found = invoke("eval", trained["run_folder"])
    teacher, student = found["models"]["teacher"], found["models"]["vectors"]
    assert (teacher["cosine"], teacher["neighbours"]) == (pytest.approx(1.0), 1.0)
    assert teacher["retained"] == 1.0
    assert 0.0 < student["neighbours"] < 1.0
    assert -1.0 < student["cosine"] < 1.0
    score = student["scores"]["spearman"]
    assert score == pytest.approx(trained["held_out"]["held_out/spearman"], abs=1e-6)
    assert student["retained"] == pytest.approx(score / teacher["scores"]["spearman"])
    assert student["parameters"] < teacher["parameters"]
    assert Path(trained["run_folder"], "results.json").exists()
    other = world.root / "other.tsv"
    header, *pairs = (world.root / "pairs.tsv").read_text().splitlines()
    turned = [pair[: pair.rindex("\t")] + f"\t{5 - float(pair.split()[-1])}" for pair in pairs]
    other.write_text("\n".join([header, *turned]) + "\n")  # each pair alike where it was not
    again = invoke("eval", trained["run_folder"], "--dev", str(other), "--speed")
    assert again["dev"] == [str(other)]
    assert again["models"]["vectors"]["scores"]["spearman"] == pytest.approx(-score)
    # Of a score of 0 or less nothing can be retained, the teacher's own included.
    assert [one["retained"] for one in again["models"].values()] == [None, None]
    assert again["models"]["vectors"]["passes"][0]["inputs"] <= 2 * NUM_PAIRS


def test_prepare_and_a_dry_run_write_nothing(world, tmp_path):
    config = world.write_config(tmp_path / "x.yaml", output_dir=str(tmp_path / "runs"))
    before = listing(tmp_path)
    found = invoke("prepare", "--config", str(config))
    assert (found["train"]["texts"], found["rows"]) == (96, 96)
    assert found["dev"]["texts"] <= 2 * NUM_PAIRS
    report = invoke("train", "--config", str(config), "--dry-run")
    assert report["constant_score"] == 0.0 < report["teacher_score"]
    assert len(report["losses"]) == 2
    assert listing(tmp_path) == before


def test_nothing_to_measure_on_is_no_mistake_and_eval_says_so(world, tmp_path):
    task = world.task() | {"dev": None}
    config = world.write_config(tmp_path / "x.yaml", task=task, output_dir=str(tmp_path / "runs"))
    assert invoke("train", "--config", str(config))["held_out"] == {}
    folder = str(tmp_path / "runs" / "vectors")
    result = CliRunner().invoke(app, ["eval", folder])
    AcceleratorState._reset_state(reset_partial_state=True)
    assert result.exit_code == 2
    assert "there is nothing to measure on" in result.stderr
    pairs = str(world.root / "pairs.tsv")
    assert invoke("eval", folder, "--dev", pairs)["models"]["vectors"]["scores"]["spearman"]


@pytest.mark.slow
def test_a_killed_run_ends_as_if_nothing_had_happened(world, tmp_path):
    """With dropout, a projection, and the teacher's vectors of the first attempt."""
    student = {"num_layers": 2, "hidden_size": 16, "num_heads": 4, "dropout": 0.1}

    def command(folder: Path) -> list[str]:
        config = world.write_config(
            folder.with_suffix(".yaml"), student=student, output_dir=str(folder)
        )
        return ["train", "--config", str(config)]

    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    assert run(*command(undisturbed)).code == 0
    running = start_held(6, tmp_path / "never", *command(killed))
    folder, expected = killed / "vectors", undisturbed / "vectors"
    assert running.wait_until(lambda: last_step(folder) == 6), running.wait()
    running.kill()
    resumed = run(*command(killed), "--resume")
    assert resumed.code == 0, resumed.stderr
    assert "the teacher's outputs are in" in resumed.stderr
    assert weights(folder) == weights(expected)
    assert metrics(folder) == metrics(expected)


@pytest.mark.slow
def test_two_processes_train_the_same_student(world, tmp_path):
    """But for rounding: the teacher's vectors, the steps, the scores and what is saved."""
    found = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        settings = world.experiment(student=NO_DROPOUT, loss=EVERY_LOSS, output_dir=str(folder))
        settings["teacher"] |= {"cache": str(folder / "cache")}
        settings["task"] |= {"retrieval": world.retrieval()}
        config = world.write_config(tmp_path / f"{number}.yaml", **settings)
        finished = run("train", "--config", str(config), "--json", num_processes=number)
        assert finished.code == 0, finished.stderr
        told = finished.json
        states = AutoModel.from_pretrained(told["student"]).state_dict()
        [vectors] = (folder / "cache").iterdir()
        found.append((states, told["held_out"], vectors.name, metrics(folder / "vectors")[-1]))
    (alone, scores, entry, record), (shared, *others) = found
    for name, weight in alone.items():
        torch.testing.assert_close(shared[name], weight, rtol=1e-4, atol=1e-5)
    assert others[0] == pytest.approx(scores, rel=1e-3)
    assert others[1] == entry
    assert others[2]["loss/total"] == pytest.approx(record["loss/total"], rel=1e-4)
    assert others[2]["speed/tokens"] == record["speed/tokens"]


def test_a_step_that_no_micro_batch_can_hold_is_refused_before_the_teacher_runs(world, tmp_path):
    """Which may take hours over all texts."""
    cache, settings = tmp_path / "cache", world.experiment()
    settings["train"] |= {"tokens_per_micro_batch": 64}
    teacher = settings["teacher"] | {"cache": str(cache)}
    sections = {"train": settings["train"], "teacher": teacher, "output_dir": str(tmp_path)}
    config = world.write_config(tmp_path / "x.yaml", **sections)
    result = CliRunner().invoke(app, ["train", "--config", str(config)])
    AcceleratorState._reset_state(reset_partial_state=True)
    assert result.exit_code == 2
    assert "train.tokens_per_micro_batch 64 is under the" in result.stderr
    assert not cache.exists()


def test_a_resume_with_other_pooling_is_refused(world, tmp_path):
    config = world.write_config(tmp_path / "x.yaml", output_dir=str(tmp_path / "runs"))
    invoke("train", "--config", str(config))
    result = CliRunner().invoke(
        app, ["train", "--config", str(config), "--resume", "task.pooling=cls"]
    )
    AcceleratorState._reset_state(reset_partial_state=True)
    assert result.exit_code == 2
    assert "task.pooling" in result.stderr
