"""The commands from prepare to eval on a tiny experiment, for people and for programs."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from shell_commands import done
from tiny_experiments import WORDS, Finished, TinyWorld, listing, metrics, run
from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline

from distilcli.config.reading import load_masked_lm_experiment
from distilcli.models.copying import copy_layers
from distilcli.models.loading import load_masked_lm


class Flow:
    """Every command once, in order, in a folder of its own."""

    def __init__(self, world: TinyWorld, folder: Path, *flags: str) -> None:
        self.folder = folder
        data = world.experiment()["data"] | {"store": str(folder / "store")}
        settings = {"data": data, "output_dir": str(folder / "runs"), "name": "whole"}
        config = str(world.write_config(folder / "own.yaml", **settings))
        self.run_folder = folder / "runs" / "whole"
        self.prepare = done("prepare", "--config", config, "--num-proc", "1", *flags)
        self.prepare_again = done("prepare", "--config", config, "--num-proc", "1", *flags)
        self.init_student = done("init-student", "--config", config, *flags)
        before = listing(folder)
        self.dry_run = done("train", "--config", config, "--dry-run", *flags)
        self.written_by_dry_run = listing(folder).items() ^ before.items()
        self.train = done("train", "--config", config, *flags)
        self.eval = done("eval", "--config", config, *flags)


@pytest.fixture(scope="module")
def for_people(tiny_world, tmp_path_factory) -> Flow:
    return Flow(tiny_world, tmp_path_factory.mktemp("people"))


@pytest.fixture(scope="module")
def for_programs(tiny_world, tmp_path_factory) -> Flow:
    return Flow(tiny_world, tmp_path_factory.mktemp("programs"), "--json")


@pytest.mark.slow
def test_prepare(for_people, for_programs):
    """`prepare` shows what is in the token store, and prints it as JSON."""
    assert "token store" in for_people.prepare.stdout
    assert "held out" in for_people.prepare.stdout
    result = for_programs.prepare.json
    assert result["train"]["sequences"] > 100
    assert result["held_out"]["sequences"] > 10
    assert Path(result["store"], "manifest.json").exists()


@pytest.mark.slow
def test_prepare_twice_does_nothing(for_people, for_programs):
    assert "already prepared" in for_people.prepare_again.stderr
    assert for_people.prepare_again.stdout == for_people.prepare.stdout
    assert for_programs.prepare_again.json == for_programs.prepare.json


def test_init_student(for_people, for_programs):
    """`init-student` shows layers, sizes and losses, and prints them as JSON."""
    assert "layer 1" in for_people.init_student.stdout
    assert "smaller than the teacher" in for_people.init_student.stdout
    result = for_programs.init_student.json
    assert result["layers"] == [0, 2]
    assert result["parameters"]["student"] < result["parameters"]["teacher"]
    assert 0 < result["smaller"] < 1
    assert result["megabytes"]["student"] == pytest.approx(
        4 * result["parameters"]["student"] / 1e6
    )
    losses = {name: scores["loss"] for name, scores in result["held_out"].items()}
    assert losses["teacher"] < losses["student"]


def test_dry_run_writes_nothing(for_people, for_programs):
    for flow in (for_people, for_programs):
        assert flow.written_by_dry_run == set()
    assert "nothing was written" in for_people.dry_run.stdout
    result = for_programs.dry_run.json
    assert result["num_processes"] == 1
    assert result["total_steps"] == 24
    assert len(result["losses"]) == 2
    assert result["teacher_loss"] < result["unigram_loss"]
    # The two steps are the first two of the run.
    records = metrics(for_programs.run_folder)
    assert result["losses"] == [record["loss/total"] for record in records[:2]]


def test_train(for_people, for_programs):
    """`train` records every step; the total is the weighted sum of the terms."""
    assert f"student: {for_people.run_folder / 'student'}" in for_people.train.stdout
    result = for_programs.train.json
    assert result["steps"] == 24
    assert result["already_finished"] is False
    records = metrics(for_programs.run_folder)
    assert [record["step"] for record in records] == list(range(1, 25))
    assert result["tokens"] == sum(record["speed/tokens"] for record in records)
    last = records[-1]
    terms = 5 * last["loss/kl"] + 2 * last["loss/mlm"] + 1 * last["loss/cos"]
    assert last["loss/total"] == pytest.approx(terms)
    assert {"optim/lr", "optim/grad_norm", "held_out/loss", "held_out/agreement"} <= last.keys()
    assert "loss/mse" not in last
    assert last["loss/kl"] < records[0]["loss/kl"]


def test_run_folder(for_people):
    """A finished run holds these files and no others, and its own settings."""
    names = {path.name for path in for_people.run_folder.iterdir()}
    assert names == {
        ".lock",
        "checkpoints",
        "environment.json",
        "experiment.yaml",
        "identity.json",
        "initial-student",
        "metrics.jsonl",
        "results.json",
        "student",
    }
    own = load_masked_lm_experiment(for_people.folder / "own.yaml")
    assert load_masked_lm_experiment(for_people.run_folder / "experiment.yaml") == own


def test_eval(for_people, for_programs):
    """`eval` shows teacher and students, and writes what it prints as JSON."""
    for row in ("accuracy", "retained", "perplexity", "agreement", "latency", "sequences/s"):
        assert row in for_people.eval.stdout
    result = for_programs.eval.json
    results = for_programs.run_folder / "results.json"
    assert result.pop("results") == str(results)
    assert json.loads(results.read_text()) == result
    models = result["models"]
    assert list(models) == ["teacher", "whole at start", "whole trained"]
    assert models["teacher"]["retained"] == 1.0
    assert models["teacher"]["scores"]["agreement"] == 1.0
    start, trained = models["whole at start"], models["whole trained"]
    assert trained["scores"]["kl"] < start["scores"]["kl"]
    assert trained["scores"]["loss"] < start["scores"]["loss"]
    assert trained["retained"] == pytest.approx(
        trained["scores"]["accuracy"] / models["teacher"]["scores"]["accuracy"]
    )
    for model in models.values():
        assert model["speed"]["latency_ms"] > 0
        assert model["scores"]["num_masked"] == trained["scores"]["num_masked"]


def test_json_is_one_object_and_all_that_is_on_stdout(for_people, for_programs):
    for name in ("prepare", "init_student", "dry_run", "train", "eval"):
        finished: Finished = getattr(for_programs, name)
        assert finished.stdout.count("\n") == 1
        assert isinstance(json.loads(finished.stdout), dict)
        assert "Traceback" not in finished.stderr
        assert "Warning" not in finished.stderr
        assert "Warning" not in getattr(for_people, name).stderr
        assert "{" not in getattr(for_people, name).stdout


def test_output_is_the_same_training(for_people, for_programs):
    assert metrics(for_people.run_folder) == metrics(for_programs.run_folder)


def test_eval_of_a_folder_of_a_run_and_of_a_model(for_people, tiny_world, tmp_path):
    models = [str(for_people.run_folder), str(tiny_world.teacher)]
    arguments = ["--num-sequences", "10", "--output", str(tmp_path), "--json"]
    result = done("eval", *models, *arguments).json
    names = ["teacher", "whole at start", "whole trained", str(tiny_world.teacher)]
    assert list(result["models"]) == names
    scores = [model["scores"] for model in result["models"].values()]
    assert scores[0] == scores[3]
    assert (tmp_path / "results.json").exists()
    student = str(for_people.run_folder / "student")
    alone = done("eval", student, "--config", str(for_people.folder / "own.yaml"), *arguments).json
    assert alone["models"]["whole trained"]["scores"] == scores[2]


def test_student_is_a_plain_transformers_folder(for_people):
    """Loaded without any code of ours."""
    folder = for_people.run_folder / "student"
    model = AutoModelForMaskedLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert type(model).__name__ == "DistilBertForMaskedLM"
    assert len(tokenizer) == model.config.vocab_size
    [first, *_] = pipeline("fill-mask", model=str(folder))("ba be [MASK] bi bo .")
    assert first["token_str"] in WORDS
    saved = load_file(folder / "model.safetensors")
    assert {str(tensor.dtype) for tensor in saved.values()} == {"torch.float32"}


# init-student without an experiment


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "layers"),
    [
        ([], [0, 2]),
        (["--num-layers", "3", "--strategy", "spread"], [0, 2, 3]),
        (["--strategy", "top"], [2, 3]),
        (["--layers", "3,1,1"], [3, 1, 1]),
    ],
)
def test_init_student_without_a_config(tiny_world, tmp_path, given, layers):
    output = tmp_path / "student"
    arguments = ["--teacher", str(tiny_world.teacher), "--output", str(output)]
    result = done("init-student", *arguments, *given, "--json").json
    assert result["layers"] == layers
    expected = copy_layers(load_masked_lm(str(tiny_world.teacher)), layers)
    found = load_masked_lm(str(output))
    for name, tensor in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor)
    again = run("init-student", *arguments, *given)
    assert again.code == 2
    assert "--force" in again.stderr
    done("init-student", *arguments, *given, "--force")
