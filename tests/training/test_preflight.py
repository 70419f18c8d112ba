"""A dry run refuses what cannot work, on every process."""

import pytest
import torch
from accelerate import Accelerator
from tiny_experiments import bert, listing, run, save, start_function, word_tokenizer

from distilcli.errors import DistilError
from distilcli.training.preflight import check_ranks_agree

each_number = pytest.mark.parametrize("num_processes", [1, 2])


def dry_run(world, folder, *overrides, num_processes):
    before = listing(folder)
    arguments = ("--dry-run", "--config", str(world.config), f"output_dir={folder / 'runs'}")
    finished = run("train", *arguments, *overrides, num_processes=num_processes)
    assert listing(folder) == before
    assert "Traceback" not in finished.stderr
    return finished


@each_number
def test_a_teacher_that_knows_nothing(tiny_world, tmp_path, num_processes):
    teacher = save(bert(), tmp_path / "teacher")
    refused = dry_run(tiny_world, tmp_path, f"teacher.model={teacher}", num_processes=num_processes)
    assert refused.code == 2
    assert "is no better than the" in refused.stderr
    assert str(teacher) in refused.stderr
    assert "Check that the teacher and its tokenizer belong together" in refused.stderr


@each_number
def test_a_teacher_of_another_vocabulary(tiny_world, tmp_path, num_processes):
    teacher = save(bert(vocab_size=len(word_tokenizer()) - 3), tmp_path / "teacher")
    refused = dry_run(tiny_world, tmp_path, f"teacher.model={teacher}", num_processes=num_processes)
    assert refused.code == 2
    assert "vocabulary" in refused.stderr


@each_number
def test_a_teacher_of_another_tokenizer(tiny_world, tmp_path, num_processes):
    teacher = save(bert(vocab_size=len(word_tokenizer()) + 1), tmp_path / "teacher")
    tokenizer = word_tokenizer()
    tokenizer.add_tokens(["more"])
    tokenizer.save_pretrained(teacher)
    refused = dry_run(tiny_world, tmp_path, f"teacher.model={teacher}", num_processes=num_processes)
    assert refused.code == 2
    assert "tokenizer" in refused.stderr


def compare_weights(disturbed: str) -> None:
    """One rank: a student whose weights differ on the second one, or do not."""
    accelerator = Accelerator(cpu=True)
    student = bert()
    if disturbed == "yes" and accelerator.process_index == 1:
        with torch.no_grad():
            student.get_input_embeddings().weight[7, 3] += 1e-6
    try:
        check_ranks_agree(student.parameters(), accelerator)
    except DistilError as error:
        raise SystemExit(3) from error


@pytest.mark.parametrize(("disturbed", "code"), [("no", 0), ("yes", 3)])
def test_ranks_that_drift_apart(disturbed, code):
    assert start_function(compare_weights, [disturbed], num_processes=2).wait().code == code
