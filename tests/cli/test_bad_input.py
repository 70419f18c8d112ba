"""What users get wrong: exit code 2, one line that says what and where, and nothing is written."""

import gzip
import json
import os
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from tiny_experiments import RARE_WORD, TinyWorld, bert, documents, listing, save, word_tokenizer
from transformers import (
    BertModel,
    ElectraConfig,
    ElectraForMaskedLM,
)
from typer.testing import CliRunner, Result

from distilcli.cli.app import app
from distilcli.corpus.store import TokenStore


@pytest.fixture(autouse=True)
def _fresh_accelerator(monkeypatch):
    """A command has a process of its own; here each gets an accelerator of its own."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def refused(*arguments: str, words: list[str], code: int = 2) -> str:
    """Run a command that must fail; its error line, which must have these words."""
    result = invoke(*arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, result.stderr
    missing = [word for word in words if word not in errors[0]]
    assert not missing, errors[0]
    return result.stderr


@pytest.fixture
def folder(tmp_path) -> Path:
    """Where nothing may be written."""
    empty = tmp_path / "out"
    empty.mkdir()
    return empty


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """Models that do not fit, by what is wrong with them."""
    root = tmp_path_factory.mktemp("models")
    save(bert(), root / "same")
    save(bert(vocab_size=97), root / "vocabulary")
    save(bert(max_position_embeddings=16), root / "positions")
    save(bert(hidden_size=16), root / "narrow")
    save(BertModel(bert().config), root / "headless")
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    electra = ElectraConfig(vocab_size=len(word_tokenizer()), intermediate_size=48, **shape)
    save(ElectraForMaskedLM(electra), root / "electra")
    other = save(bert(), root / "tokenizer") / "tokenizer.json"
    tree = json.loads(other.read_text(encoding="utf-8"))
    vocabulary = tree["model"]["vocab"]
    vocabulary["ba"], vocabulary["be"] = vocabulary["be"], vocabulary["ba"]
    other.write_text(json.dumps(tree), encoding="utf-8")
    return root


def train(world: TinyWorld, folder: Path, *more: str) -> list[str]:
    return ["train", "--config", str(world.config), f"output_dir={folder}", *more]


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


# Models

TEACHERS = {
    "no such folder": ("./nowhere", ["./nowhere"]),
    "no masked-LM head": ("headless", ["headless", "no masked-LM head"]),
    "another architecture": ("electra", ["electra", "not bert, distilbert or roberta"]),
    "too few positions": ("positions", ["data.max_length 24", "16 positions"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("command", ["init-student", "train"])
@pytest.mark.parametrize("case", TEACHERS)
def test_teachers(tiny_world, models, folder, case, command):
    """A folder that is not a usable teacher is refused, and no file is written."""
    name, words = TEACHERS[case]
    model = name if name.startswith(".") else models / name
    arguments = ["--config", str(tiny_world.config), f"output_dir={folder}"]
    refused(command, *arguments, f"teacher.model={model}", words=words)
    assert listing(folder) == {}


STUDENTS = {
    "vocabulary": ("vocabulary", [], ["97 tokens", "the teacher's"]),
    "width": ("narrow", [], ["loss.hidden_cosine: ", "hidden size is 16", "32"]),
    "positions": ("positions", [], ["data.max_length 24", "16 positions"]),
    "no masked-LM head": ("headless", [], ["headless", "no masked-LM head"]),
    "architecture": ("electra", ["student.new_head=true"], ["not bert, distilbert or roberta"]),
}


@pytest.mark.parametrize("command", ["init-student", "train"])
@pytest.mark.parametrize("case", STUDENTS)
def test_students_from_a_checkpoint(tiny_world, models, folder, tmp_path, case, command):
    name, more, words = STUDENTS[case]
    student = {"kind": "checkpoint", "model": str(models / name)}
    config = tiny_world.write_config(tmp_path / "own.yaml", student=student)
    refused(command, "--config", str(config), f"output_dir={folder}", *more, words=words)
    assert listing(folder) == {}


def test_width_does_not_matter_without_the_cosine(tiny_world, models, folder, tmp_path):
    student = {"kind": "checkpoint", "model": str(models / "narrow")}
    config = tiny_world.write_config(tmp_path / "own.yaml", student=student)
    settings = [f"output_dir={folder}", "loss.hidden_cosine.weight=0", "train.max_steps=2"]
    result = invoke("train", "--config", str(config), *settings)
    assert result.exit_code == 0, result.stderr


LAYERS = {
    "outside": ("student.layers=[0,4]", ["student.layers", "4 is not a layer", "has 4"]),
    "none": ("student.layers=[]", ["student.layers", "empty"]),
    "negative": ("student.layers=[-1]", ["student.layers"]),
    "too deep": ("student.num_layers=5", ["student.num_layers 5", "4 layers"]),
}


@pytest.mark.parametrize("command", ["init-student", "train"])
@pytest.mark.parametrize("case", LAYERS)
def test_layers_that_there_are_not(tiny_world, folder, case, command):
    override, words = LAYERS[case]
    arguments = ["--config", str(tiny_world.config), f"output_dir={folder}", override]
    refused(command, *arguments, words=words)
    assert listing(folder) == {}


ALONE = {
    "neither": ([], ["no teacher is named"]),
    "no output": (["--teacher", "TEACHER"], ["--output is missing"]),
    "two teachers": (["--config", "x.yaml", "--teacher", "TEACHER"], ["cannot be used together"]),
    "both": (["--config", "x.yaml", "--layers", "0,1"], ["--layers", "--teacher"]),
    "override": (["--teacher", "TEACHER", "--output", "OUT", "seed=1"], ["seed=1", "--config"]),
    "list": (["--teacher", "TEACHER", "--output", "OUT", "--layers", "0,x"], ["--layers 0,x"]),
    "strategy": (
        ["--teacher", "TEACHER", "--output", "OUT", "--strategy", "middle"],
        ["--strategy middle", "alternate"],
    ),
    "list and strategy": (
        ["--teacher", "TEACHER", "--output", "OUT", "--layers", "0", "--strategy", "top"],
        ["--layers", "--strategy"],
    ),
    "layer": (["--teacher", "TEACHER", "--output", "OUT", "--layers", "9"], ["9", "4"]),
    "no such teacher": (["--teacher", "./nowhere", "--output", "OUT"], ["nowhere"]),
}


@pytest.mark.parametrize("case", ALONE)
def test_init_student_without_a_config(tiny_world, folder, case):
    given, words = ALONE[case]
    places = {"TEACHER": str(tiny_world.teacher), "OUT": str(folder / "student")}
    refused("init-student", *(places.get(word, word) for word in given), words=words)
    assert listing(folder) == {}


def test_a_student_is_not_overwritten(tiny_world, folder):
    arguments = ["--teacher", str(tiny_world.teacher), "--output", str(folder)]
    (folder / "mine.txt").write_text("mine")
    before = listing(folder)
    refused("init-student", *arguments, words=[str(folder), "no distilcli.json", "mine.txt"])
    assert listing(folder) == before
    file = folder / "mine.txt"
    refused("init-student", *arguments[:-1], str(file), words=[str(file)])
    refused("init-student", *arguments[:-1], str(file / "deeper"), words=[str(file)])
    assert listing(folder) == before


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


# A loss that is not finite


@pytest.fixture
def poisoned(tiny_world, tmp_path) -> Path:
    """An experiment whose teacher overflows on one word, which one line of text has."""
    lines = documents()
    lines[200] = lines[200].replace(".", f"{RARE_WORD} {RARE_WORD} {RARE_WORD} .")
    text = tmp_path / "poisoned.txt"
    text.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    teacher = bert(tie_word_embeddings=False)
    word = word_tokenizer().convert_tokens_to_ids(RARE_WORD)
    with torch.no_grad():
        row = teacher.bert.embeddings.word_embeddings.weight[word]
        row.fill_(3e38)[::2].neg_()  # finite, but no difference of two of them is
    save(teacher, tmp_path / "teacher")
    data = tiny_world.experiment()["data"] | {"store": str(tmp_path / "store")}
    data |= {"sources": [{"files": str(text), "documents": "line"}], "held_out_fraction": 0.0}
    return tiny_world.write_config(
        tmp_path / "own.yaml",
        data=data,
        teacher={"model": str(tmp_path / "teacher")},
        student={"kind": "random"},
        masking={"random_share": 0.0},
        output_dir=str(tmp_path / "runs"),
    )


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_before_the_update(poisoned, tmp_path):
    """The step and the sample are named, and what was reached before is intact."""
    assert invoke("prepare", "--config", str(poisoned), "--num-proc", "1").exit_code == 0
    train_split = TokenStore.open(tmp_path / "store").train
    word = word_tokenizer().convert_tokens_to_ids(RARE_WORD)
    [sample] = [i for i in range(len(train_split)) if word in train_split.tokens(i)]

    settings = ["train.max_steps=200", "train.save_every=1"]
    arguments = ["train", "--config", str(poisoned), *settings]
    stderr = refused(*arguments, code=1, words=[f"sample {sample} of the training split", "step "])
    assert "not updated" in stderr
    step = int(stderr.partition("error: step ")[2].partition(":")[0])
    assert step > 1  # so there is a checkpoint before it
    checkpoints = tmp_path / "runs" / "tiny" / "checkpoints"
    newest = max(checkpoints.glob("step-*"))
    assert newest.name == f"step-{step - 1:08d}"
    assert not (tmp_path / "runs" / "tiny" / "student").exists()

    before = {path: path.read_bytes() for path in newest.iterdir()}
    AcceleratorState._reset_state(reset_partial_state=True)
    again = refused(*arguments, "--resume", code=1, words=[f"step {step}:", f"sample {sample} "])
    assert f"resumed after step {step - 1}" in again
    assert before == {path: path.read_bytes() for path in newest.iterdir()}


@pytest.mark.slow
def test_steps_after_a_gradient_that_is_not_finite_leave_no_trace(poisoned, tmp_path):
    """It is found at the next log line; until then steps go on, and change nothing."""
    assert invoke("prepare", "--config", str(poisoned), "--num-proc", "1").exit_code == 0
    arguments = ["train", "--config", str(poisoned), "train.max_steps=200"]
    often = [*arguments, "train.save_every=1", "name=often"]
    stderr = refused(*often, code=1, words=["step "])
    AcceleratorState._reset_state(reset_partial_state=True)
    step = int(stderr.partition("error: step ")[2].partition(":")[0])
    seldom = [*arguments, f"train.log_every={step + 5}", "train.save_every=1000", "name=seldom"]
    assert (
        stderr.partition("error: ")[2]
        == refused(*seldom, code=1, words=["sample"]).partition("error: ")[2]
    )
    assert not (tmp_path / "runs" / "seldom" / "metrics.jsonl").exists()
    assert not (tmp_path / "runs" / "seldom" / "checkpoints").exists()


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
