"""Narrower students through the commands: on text and on a task, trimmed, killed and resumed."""

import json
from pathlib import Path

import pytest
from family_worlds import save_model, told
from held_steps import start_held
from refusals import invoke, refused
from tiny_experiments import TinyWorld, last_step, make_world, weights
from tiny_tasks import make_tasks
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

from distilcli.distillation.masked_lm_parts import keep_or_save_initial_student
from distilcli.errors import ModelError
from distilcli.models.loading import load_masked_lm
from distilcli.models.narrowing.sizes import Sizes, sizes_of
from distilcli.text.tokenizers import load_tokenizer

# Its hidden states are compared with the teacher's, too, by a learned projection.
NARROWER = ["student.hidden_size=24", "train.max_steps=8"]
SIZES = Sizes(24, 4, 36)  # of a teacher with 32, 4 and 48


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> TinyWorld:
    return make_world(tmp_path_factory.mktemp("narrower"))


def command(name: str, world: TinyWorld, folder: Path, *more: str) -> list[str]:
    return [name, "--config", str(world.config), f"output_dir={folder}", *more]


def made(world: TinyWorld, output: Path, *options: str) -> dict:
    given = ["--teacher", str(world.teacher), "--output", str(output), *options, "--json"]
    result = invoke("init-student", *given)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_student_is_cut_by_a_text(world, tmp_path):
    options = ["--hidden-size", "24", "--text", str(world.text)]
    found = made(world, tmp_path / "narrow", *options)
    assert found["sizes"] == SIZES._asdict()
    assert found["vocabulary"] is None
    student = AutoModelForMaskedLM.from_pretrained(tmp_path / "narrow")
    assert sizes_of(student.config) == SIZES
    assert student.config.vocab_size == load_masked_lm(str(world.teacher)).config.vocab_size
    heads = ["--num-heads", "2", "--intermediate-size", "40", "--vocabulary", "80"]
    found = made(world, tmp_path / "both", "--hidden-size", "16", *heads, *options[2:])
    assert found["sizes"] == Sizes(16, 2, 40)._asdict()
    student = AutoModelForMaskedLM.from_pretrained(tmp_path / "both")
    assert sizes_of(student.config) == Sizes(16, 2, 40)
    assert student.config.vocab_size == found["vocabulary"]["tokens"] == 80


def test_people_are_told_the_widths_of_both(world, tmp_path):
    given = ["--teacher", str(world.teacher), "--output", str(tmp_path / "narrow")]
    result = invoke("init-student", *given, "--hidden-size", "24", "--text", str(world.text))
    assert result.exit_code == 0, result.output
    said = " ".join(result.stdout.split())
    assert (
        "hidden states of 24, 4 heads of 6, inner states of 36, cut from "
        "hidden states of 32, 4 heads of 8, inner states of 48" in said
    )


def test_options_that_cannot_be_are_refused(world, tmp_path):
    output = tmp_path / "never"
    given = ["init-student", "--teacher", str(world.teacher), "--output", str(output)]
    text = ["--text", str(world.text)]
    refused(*given, "--hidden-size", "24", words=["--hidden-size", "--num-heads", "need text"])
    refused(*given, *text, "--hidden-size", "64", words=["--hidden-size 64: the source has 32"])
    refused(*given, *text, "--num-heads", "3", words=["--num-heads 3 does not divide"])
    refused(*given, *text, "--intermediate-size", "49", words=["--intermediate-size 49"])
    refused(*given, "--hidden-size", "24", "--text", "no-such.txt", words=["--text"])
    config = ["init-student", "--config", str(world.config), "--hidden-size", "24"]
    refused(*config, words=["--hidden-size can only be used with --teacher"])
    assert not output.exists()


@pytest.mark.slow
def test_a_run_starts_from_the_student_that_lies_there_and_resumes_to_the_same(world, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    started = told(*command("init-student", world, whole, *NARROWER))
    assert started["sizes"] == SIZES._asdict()
    assert set(started["held_out"]) == {"teacher", "student"}
    told(*command("train", world, whole, *NARROWER))
    running = start_held(6, tmp_path / "never", *command("train", world, killed, *NARROWER))
    assert running.wait_until(lambda: last_step(killed / "tiny") >= 5), running.wait()
    running.kill()
    told(*command("train", world, killed, "--resume", *NARROWER))
    assert weights(killed / "tiny") == weights(whole / "tiny")
    student, info = AutoModelForMaskedLM.from_pretrained(
        whole / "tiny" / "student", output_loading_info=True
    )
    assert not any(info.values())
    assert sizes_of(student.config) == SIZES
    measured = told("eval", str(whole / "tiny"), "--no-speed")["models"]
    assert measured["tiny trained"]["parameters"] < measured["teacher"]["parameters"] / 2


@pytest.mark.slow
def test_it_may_have_a_part_of_the_vocabulary_too(world, tmp_path):
    given = [*NARROWER, "student.vocabulary.keep=80", "student.num_heads=3"]
    told(*command("prepare", world, tmp_path, *given))
    told(*command("train", world, tmp_path, "--dry-run", *given))
    assert not (tmp_path / "tiny").exists()
    told(*command("train", world, tmp_path, *given))
    student = AutoModelForMaskedLM.from_pretrained(tmp_path / "tiny" / "student")
    assert sizes_of(student.config) == SIZES._replace(num_heads=3)
    assert student.config.vocab_size == 80


@pytest.mark.slow
def test_a_student_of_a_task_is_cut_by_the_inputs_of_the_task(tmp_path):
    tasks = make_tasks(tmp_path)
    base = save_model("bert", tmp_path / "base", untrained=True)
    shape = {"source": str(base), "num_layers": 2, "hidden_size": 16, "num_heads": 2}
    experiment = tasks.experiment("classification", output_dir=str(tmp_path), student=shape)
    experiment["train"] |= {"num_epochs": 1, "max_steps": 4}
    config = tmp_path / "task.yaml"
    config.write_text(json.dumps(experiment), encoding="utf-8")
    result = told("train", "--config", str(config))
    student, info = AutoModelForSequenceClassification.from_pretrained(
        result["student"], output_loading_info=True
    )
    assert not any(info.values())
    assert sizes_of(student.config) == Sizes(16, 2, 24)
    refused(
        "train",
        "--config",
        str(config),
        "student.hidden_size=48",
        "name=never",
        words=["student.hidden_size 48: the source has 32"],
    )
    assert not (tmp_path / "never").exists()


def test_another_student_that_lies_there_is_refused(world, tmp_path):
    tokenizer = load_tokenizer(str(world.teacher))
    student = load_masked_lm(str(world.teacher), role="student")
    keep_or_save_initial_student(student, tokenizer, tmp_path / "student")
    weight = student.get_input_embeddings().weight
    weight.data *= 1.0 + 1e-5
    keep_or_save_initial_student(student, tokenizer, tmp_path / "student", is_computed=True)
    with pytest.raises(ModelError, match="not the student that this experiment starts from"):
        keep_or_save_initial_student(student, tokenizer, tmp_path / "student")
    weight.data *= 1.1
    with pytest.raises(ModelError, match="not the student that this experiment starts from"):
        keep_or_save_initial_student(student, tokenizer, tmp_path / "student", is_computed=True)
