"""Changed copies of inputs: what stays, what is replaced; the teacher alone labels them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from hypothesis import given
from hypothesis import strategies as st
from loss_settings import by_name
from safetensors.torch import load_file
from task_models import each_task, make_inputs, make_model, outputs_of
from tiny_experiments import relative_difference
from tiny_tasks import NUM_TRAIN, TinyTasks, make_tasks, pair_tokenizer

from distilcli.config.experiment import TaskExperiment
from distilcli.config.losses import TaskLossConfig
from distilcli.config.tasks import Augmentation
from distilcli.distillation.loss_modules import TaskDistillation
from distilcli.distillation.task_parts import assemble_task
from distilcli.distillation.tasks import TaskObjective
from distilcli.distillation.teachers import PlacedTeacher
from distilcli.tasks.augmentation import augment
from distilcli.tasks.inputs import Inputs, pack_inputs, without_labels
from distilcli.training.processes import make_accelerator
from distilcli.training.steps import Stepper

LENGTHS = [9, 5, 12, 3, 20]
NUMBER = len(LENGTHS)
FIRST_ORDINARY = 5  # of the tokens in `make_inputs`; those of the tokenizer below are special


@pytest.fixture
def tokenizer():
    found = pair_tokenizer()
    assert set(found.all_special_ids) == set(range(FIRST_ORDINARY))
    return found


def with_specials(inputs: Inputs) -> Inputs:
    """Each begins and ends with a special token."""
    inputs.token_ids[inputs.offsets[:-1]] = 2
    inputs.token_ids[inputs.offsets[1:] - 1] = 3
    return inputs


def tokens_of(inputs: Inputs, index: int) -> np.ndarray:
    return inputs.token_ids[inputs.offsets[index] : inputs.offsets[index + 1]]


# The copies


@each_task
def test_the_originals_come_first_as_they_were(head, family, tokenizer):
    inputs = with_specials(make_inputs(LENGTHS, head, family))
    found = augment(inputs, Augmentation(copies=3, replaced=0.5), tokenizer, seed=1)
    assert len(found) == 4 * NUMBER
    batch, expected = pack_inputs(found, range(NUMBER)), pack_inputs(inputs, range(NUMBER))
    assert torch.equal(batch.input_ids, expected.input_ids)
    assert torch.equal(batch.targets, expected.targets)
    assert batch.num_labels == expected.num_labels > 0


@each_task
def test_copies_are_read_where_the_originals_are_and_have_no_labels(head, family, tokenizer):
    inputs = with_specials(make_inputs(LENGTHS, head, family))
    found = augment(inputs, Augmentation(copies=2, replaced=0.5), tokenizer, seed=1)
    for copy in (1, 2):
        batch = pack_inputs(found, range(copy * NUMBER, (copy + 1) * NUMBER))
        expected = pack_inputs(inputs, range(NUMBER))
        assert batch.lengths == expected.lengths
        assert torch.equal(batch.token_type_ids, expected.token_type_ids)
        assert torch.equal(batch.output_positions, expected.output_positions)
        assert batch.targets.shape == expected.targets.shape
        assert batch.targets.dtype == expected.targets.dtype
        assert batch.num_labels == 0


@given(
    replaced=st.floats(0.05, 0.95),  # below, a copy may be left as it was
    copies=st.integers(1, 3),
    seed=st.integers(0, 2**32),
)
def test_what_is_replaced(replaced, copies, seed):
    """Ordinary tokens, by ordinary tokens of the task, as many as are asked for."""
    inputs = with_specials(make_inputs([300, 500], "sequence"))
    found = augment(inputs, Augmentation(copies=copies, replaced=replaced), pair_tokenizer(), seed)
    specials = inputs.token_ids < FIRST_ORDINARY
    every_copy = found.token_ids.reshape(copies + 1, -1)
    for tokens in every_copy[1:]:
        assert np.array_equal(tokens[specials], inputs.token_ids[specials])
        assert set(tokens[~specials]) <= set(inputs.token_ids[~specials])
        changed = np.mean(tokens[~specials] != inputs.token_ids[~specials])
        # Of 796 tokens; one in 55 replacements is the token that was there.
        assert changed == pytest.approx(replaced * 54 / 55, abs=0.09)
    assert len({tokens.tobytes() for tokens in every_copy}) == copies + 1


def test_frequent_tokens_stand_in_more_often(tokenizer):
    inputs = make_inputs([2000], "sequence")
    inputs.token_ids[:] = [7] * 1500 + [8] * 500
    found = augment(inputs, Augmentation(copies=1, replaced=0.9), tokenizer, seed=0)
    assert np.mean(tokens_of(found, 1) == 7) == pytest.approx(0.75, abs=0.05)


def test_copies_depend_on_the_seed_and_their_number_alone(tokenizer):
    inputs = make_inputs(LENGTHS, "sequence")

    def copies(number: int, seed: int) -> Inputs:
        return augment(inputs, Augmentation(copies=number), tokenizer, seed)

    few, many = copies(2, seed=1), copies(5, seed=1)
    assert np.array_equal(few.token_ids, many.token_ids[: len(few.token_ids)])
    assert few.fingerprint() == copies(2, seed=1).fingerprint()
    assert few.fingerprint() != copies(2, seed=2).fingerprint()


def test_inputs_of_special_tokens_alone_stay(tokenizer):
    inputs = make_inputs([3, 2], "sequence")
    inputs.token_ids[:] = 3
    found = augment(inputs, Augmentation(copies=1, replaced=0.9), tokenizer, seed=0)
    assert np.array_equal(found.token_ids, np.full(10, 3))


# Their losses


@each_task
def test_hard_labels_count_where_there_are_some(head, family, tokenizer):
    """Copies beside the originals add to the soft targets and leave the hard ones alone."""
    inputs = with_specials(make_inputs(LENGTHS, head, family))
    found = augment(inputs, Augmentation(copies=2, replaced=0.4), tokenizer, seed=3)
    student, teacher = (
        make_model("bert", head, 1 if family == "number" else 3, seed=s) for s in (1, 2)
    )
    module = TaskDistillation(
        student, PlacedTeacher(teacher), outputs_of(head, family), TaskLossConfig()
    )
    ones = [torch.tensor(1.0)] * len(module.terms)
    alone, together = pack_inputs(found, range(NUMBER)), pack_inputs(found, range(len(found)))
    counts = [by_name(module, module.counts(batch)) for batch in (alone, together)]
    assert counts[0]["labels"] == counts[1]["labels"] > 0
    assert counts[1]["soft_targets"] == 3 * counts[0]["soft_targets"]
    sums = [by_name(module, module(batch, ones)) for batch in (alone, together)]
    torch.testing.assert_close(sums[1]["labels"], sums[0]["labels"])
    assert sums[1]["soft_targets"] > 1.5 * sums[0]["soft_targets"]


@each_task
def test_inputs_without_labels_give_no_gradient(head, family):
    """And none that is NaN."""
    inputs = without_labels(make_inputs(LENGTHS, head, family))
    student = make_model("bert", head, 1 if family == "number" else 3)
    module = TaskDistillation(student, None, outputs_of(head, family), TaskLossConfig())
    batch = pack_inputs(inputs, range(NUMBER))
    assert batch.num_labels == 0
    losses = module(batch, [torch.tensor(1.0)])
    assert losses.total == 0
    losses.total.backward()
    for name, parameter in student.named_parameters():
        assert parameter.grad is None or not parameter.grad.any(), name


# Experiments


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> TinyTasks:
    return make_tasks(tmp_path_factory.mktemp("tasks"))


def experiment_of(tasks: TinyTasks, folder: Path, **sections: Any) -> TaskExperiment:
    """Two copies of each example, and a teacher of three layers."""
    teacher = folder / "teacher"
    if not teacher.exists():
        make_model("bert", "sequence", 2, 3, vocab=len(pair_tokenizer())).save_pretrained(teacher)
        pair_tokenizer().save_pretrained(teacher)
    tree = tasks.experiment("classification") | {
        "output_dir": str(folder),
        "teacher": {"model": str(teacher), "precision": "fp32", "cache": None},
        "student": {"num_layers": 2, "dropout": 0.0, "attention_dropout": 0.0},
        "augmentation": {"copies": 2, "replaced": 0.3},
    }
    tree["train"] |= {"num_epochs": 1}
    return TaskExperiment.model_validate(tree | sections)


def steps_of(experiment: TaskExperiment) -> tuple[int, dict[str, torch.Tensor]]:
    """Take its steps; how many sequences there were, and the student's weights."""
    accelerator = make_accelerator(experiment)
    parts = assemble_task(experiment, accelerator.device)
    objective = TaskObjective(experiment, parts, accelerator)
    stepper = Stepper(experiment, objective, accelerator)
    stepper.distillation.train()
    for step, batches in enumerate(stepper.batches_from(0)):
        stepper.take(step, batches)
    AcceleratorState._reset_state(reset_partial_state=True)
    return len(objective.lengths), parts.student.state_dict()


def test_an_epoch_has_the_copies_too_and_what_is_kept_of_them_trains_the_same(tasks, tmp_path):
    number, without = steps_of(experiment_of(tasks, tmp_path))
    assert number == 3 * NUM_TRAIN
    teacher = {"model": str(tmp_path / "teacher"), "precision": "fp32"}
    cache = tmp_path / "cache"
    kept = experiment_of(tasks, tmp_path, teacher=teacher | {"cache": str(cache)})
    assert relative_difference(steps_of(kept)[1], without) < 1e-5
    start = load_file(tmp_path / "teacher" / "model.safetensors")
    names = [name for name in without if ".layer." not in name]
    chosen = ({name: weights[name] for name in names} for weights in (without, start))
    assert relative_difference(*chosen) > 1e-3
    # Without copies what the teacher is shown is another entry.
    plain = experiment_of(
        tasks, tmp_path, teacher=teacher | {"cache": str(cache)}, augmentation=None
    )
    assert steps_of(plain)[0] == NUM_TRAIN
    assert len(list(cache.iterdir())) == 2
