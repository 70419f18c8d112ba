"""What users get wrong: exit code 2, one line that says what and where, and nothing is written."""

import gzip
import os
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from refusals import invoke, refused, train
from tiny_experiments import bert, documents, listing, save

pytestmark = pytest.mark.usefixtures("alone_and_offline")


# The experiment

SETTINGS = {
    "unknown key": (["train.batch_size=8"], ["train.batch_size", "train.global_batch_size"]),
    "unknown section": (["optimizer.lr=1"], ["optimizer", "optim"]),
    "wrong type": (["train.max_steps=many"], ["train.max_steps", "whole number", "many"]),
    "a bool is no number": (["optim.lr=true"], ["optim.lr", "number"]),
    "out of bounds": (["masking.mlm_probability=1.5"], ["mlm_probability", "below 1", "1.5"]),
    "no override": (["train.max_steps"], ["train.max_steps", "key.sub=value"]),
    "no such strategy": (["student.layers=middle"], ["student.layers", "alternate", "middle"]),
    "nothing to learn": (
        ["loss.soft_targets.weight=0", "loss.masked_lm.weight=0", "loss.hidden_cosine.weight=0"],
        ["loss", "nothing to learn"],
    ),
    "micro-batch too small": (
        ["train.tokens_per_micro_batch=23"],
        ["tokens_per_micro_batch 23", "data.max_length 24"],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "case"),
    [
        (command, case)
        for command in ("prepare", "init-student", "train", "eval")
        for case in SETTINGS
        if (command, case) != ("eval", "no override")  # a word without = is a model there
    ],
)
def test_settings(tiny_world, folder, command, case):
    """A wrong setting is refused by every command, and no file is written."""
    overrides, words = SETTINGS[case]
    arguments = [command, "--config", str(tiny_world.config), f"output_dir={folder}"]
    refused(*arguments, *overrides, words=words)
    assert listing(folder) == {}


@pytest.mark.parametrize("command", ["prepare", "init-student", "train", "eval"])
def test_no_such_config(tmp_path, command):
    """A missing experiment file is named by every command."""
    missing = tmp_path / "missing.yaml"
    refused(command, "--config", str(missing), words=[str(missing), "no such file"])
    assert listing(tmp_path) == {}


# Text and token stores

DATA = {
    "missing file": ("/nowhere/text.txt", ["data.sources.0.files", "text.txt", "matches no file"]),
    "empty corpus": ("empty.txt", ["no sequence to train on"]),
    "corrupt gzip": ("corrupt.txt.gz", ["corrupt.txt.gz"]),
    "truncated gzip": ("truncated.txt.gz", ["truncated.txt.gz"]),
    "not text": ("bytes.txt", ["bytes.txt", "UTF-8"]),
    "unknown ending": ("text.doc", ["data.sources.0.format", "text.doc"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", DATA)
def test_text_that_cannot_be_read(tiny_world, folder, tmp_path, case):
    packed = gzip.compress("\n".join(documents(50)).encode())
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "corrupt.txt.gz").write_bytes(packed[:60] + bytes(40) + packed[100:])
    (tmp_path / "truncated.txt.gz").write_bytes(packed[:-30])
    (tmp_path / "bytes.txt").write_bytes(b"fine\n\xff\xfe\n")
    (tmp_path / "text.doc").write_text("text")
    name, words = DATA[case]
    data = tiny_world.experiment()["data"]
    source = {"files": str(tmp_path / name), "documents": "line"}
    data |= {"sources": [source], "store": str(folder / "store")}
    config = tiny_world.write_config(tmp_path / "own.yaml", data=data, output_dir=str(folder))
    refused("prepare", "--config", str(config), "--num-proc", "1", words=words)
    assert listing(folder) == {}


def test_documents_must_be_said(tiny_world, folder, tmp_path):
    data = tiny_world.experiment()["data"]
    data |= {"sources": [{"files": str(tiny_world.text)}], "store": str(folder / "store")}
    config = tiny_world.write_config(tmp_path / "own.yaml", data=data)
    words = ["data.sources.0.documents", str(tiny_world.text)]
    refused("prepare", "--config", str(config), words=words)
    assert listing(folder) == {}


@pytest.mark.parametrize("command", ["prepare", "train"])
def test_store_of_another_tokenizer(tiny_world, models, folder, command):
    before = listing(tiny_world.store, without=".lock")
    model = models / "tokenizer"
    arguments = ["--config", str(tiny_world.config), f"output_dir={folder}"]
    words = [str(tiny_world.store), "another tokenizer", str(tiny_world.teacher), str(model)]
    refused(command, *arguments, f"teacher.model={model}", words=words)
    assert listing(folder) == {}
    assert listing(tiny_world.store, without=".lock") == before


def test_store_of_other_settings(tiny_world, folder):
    words = [str(tiny_world.store), "max_length was 24, is 20"]
    refused(*train(tiny_world, folder, "data.max_length=20"), words=words)
    assert listing(folder) == {}


def test_store_in_a_folder_of_something_else(tiny_world, folder):
    (folder / "thesis.txt").write_text("mine")
    before = listing(folder)
    arguments = ["prepare", "--config", str(tiny_world.config), f"data.store={folder}"]
    refused(*arguments, words=[str(folder), "not a token store"])
    assert listing(folder) == before


def test_global_batch_larger_than_the_split(tiny_world, folder):
    words = ["train.global_batch_size 5000", "sequences of the training split"]
    refused(*train(tiny_world, folder, "train.global_batch_size=5000"), words=words)


# Run folders


@pytest.fixture(scope="module")
def trained(tiny_world, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    os.environ["ACCELERATE_USE_CPU"] = "true"
    result = invoke(*train(tiny_world, folder, "train.max_steps=4"))
    AcceleratorState._reset_state(reset_partial_state=True)
    assert result.exit_code == 0, result.stderr
    return folder


def test_run_folder_that_exists(tiny_world, trained):
    before = listing(trained)
    stderr = refused(*train(tiny_world, trained), words=[str(trained / "tiny"), "exists"])
    assert "--resume" in stderr
    assert "--force" in stderr
    refused(
        *["init-student", "--config", str(tiny_world.config), f"output_dir={trained}"],
        words=[str(trained / "tiny"), "training has begun"],
    )
    assert listing(trained) == before


def test_checkpoint_of_another_experiment(tiny_world, trained):
    before = listing(trained)
    words = ["another experiment", "optim.lr", "seed"]
    settings = ["train.max_steps=4", "seed=9", "optim.lr=1e-4"]
    refused(*train(tiny_world, trained, *settings, "--resume"), words=words)
    assert listing(trained) == before


def test_resume_and_force(tiny_world, trained):
    """The two cannot be used together; the run stays as it was."""
    before = listing(trained)
    both = ["--resume", "--force"]
    refused(*train(tiny_world, trained, *both), words=["--resume", "--force"])
    assert listing(trained) == before


def test_output_dir_in_a_file(tiny_world, folder):
    (folder / "file").write_text("a file")
    before = listing(folder)
    refused(*train(tiny_world, folder / "file"), words=[str(folder / "file")])
    assert listing(folder) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_output_dir_that_may_not_be_written(tiny_world, folder):
    folder.chmod(0o555)
    refused(*train(tiny_world, folder), words=[str(folder), "cannot be written"])
    folder.chmod(0o755)
    assert listing(folder) == {}


# Evaluation


def test_eval_without_an_experiment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused("eval", words=["no experiment"])
    refused("eval", "some-model", words=["no experiment"])
    assert listing(tmp_path) == {}


def test_eval_before_training(tiny_world, folder):
    """`eval` of a run without a student says so and writes nothing."""
    arguments = ["eval", "--config", str(tiny_world.config), f"output_dir={folder}"]
    refused(*arguments, words=[str(folder / "tiny"), "no student"])
    assert listing(folder) == {}


def test_eval_of_a_model_with_another_vocabulary(tiny_world, trained, models, folder):
    save(bert(vocab_size=60), folder / "small")
    before = listing(folder)
    arguments = ["eval", "--config", str(tiny_world.config), f"output_dir={folder}"]
    refused(*arguments, str(folder / "small"), words=["small", "60"])
    assert listing(folder) == before


def test_eval_without_held_out_text(tiny_world, folder, tmp_path):
    data = tiny_world.experiment()["data"] | {"held_out_fraction": 0.0}
    data["store"] = str(tmp_path / "store")
    config = tiny_world.write_config(tmp_path / "own.yaml", data=data, output_dir=str(folder))
    assert invoke("prepare", "--config", str(config), "--num-proc", "1").exit_code == 0
    words = [str(tmp_path / "store"), "no held-out text"]
    refused("eval", "--config", str(config), str(tiny_world.teacher), words=words)
    assert listing(folder) == {}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--profile", "23"], ["--profile 23", "24 steps"]),
        (["--profile", "2", "--dry-run"], ["--dry-run", "--profile"]),
    ],
)
def test_a_profile_that_cannot_be(tiny_world, folder, options, words):
    refused(*train(tiny_world, folder, *options), words=words)
    assert listing(folder) == {}


def test_debug_shows_where_an_error_comes_from(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILCLI_DEBUG", "1")
    result = invoke("prepare", "--config", str(tmp_path / "missing.yaml"))
    assert result.exit_code == 1
    assert not isinstance(result.exception, SystemExit)
