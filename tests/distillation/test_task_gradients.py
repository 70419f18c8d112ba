"""The gradient of a step on a task does not depend on how the step is cut."""

from pathlib import Path

import gradient_worker
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from loss_settings import weights
from safetensors.torch import load_file
from task_models import make_model
from tiny_experiments import relative_difference, run
from tiny_tasks import TinyTasks, make_tasks, pair_tokenizer

from distilcli.config.experiment import TaskExperiment
from distilcli.distillation.task_parts import assemble_task
from distilcli.distillation.tasks import TaskObjective
from distilcli.training.processes import make_accelerator
from distilcli.training.steps import Stepper

TEXT_KINDS = ["classification", "multi-label", "regression", "question-answering", "tagging"]
KINDS = [*TEXT_KINDS, "reranking"]
NUM_OUTPUTS = dict(zip(KINDS, (2, 3, 1, 2, 3, 1), strict=True))
FEW_TOKENS = dict.fromkeys(TEXT_KINDS, 33) | {"reranking": 44}  # four candidates of one query
ON_RANKINGS = weights(margin_mse=0.3, listwise=0.5)
TOLERANCE = 1e-5  # of the difference's norm over the gradient's
WRONG = 1e-3  # far above it: what a wrong average makes of the gradient
NO_DROPOUT = {"kind": "copied", "num_layers": 2, "dropout": 0.0, "attention_dropout": 0.0}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> TinyTasks:
    return make_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def teacher_of(tasks):
    """Saves, once, a teacher with a head for a kind of task; it has learnt nothing."""
    heads = {"question-answering": "span", "tagging": "token"}

    def make(kind: str) -> str:
        folder = tasks.root / "teachers" / kind
        if not folder.exists():
            vocab, labels = len(pair_tokenizer()), NUM_OUTPUTS[kind]
            head = heads.get(kind, "sequence")
            make_model("bert", head, labels, 4, vocab=vocab).save_pretrained(folder)
            pair_tokenizer().save_pretrained(folder)
        return str(folder)

    return make


def sections(kind: str, teacher: str, folder: Path, tokens: int = 10_000) -> dict:
    return {
        "name": kind,
        "output_dir": str(folder),
        "teacher": {"model": teacher, "precision": "fp32", "cache": None},
        "student": NO_DROPOUT,
        "loss": weights(soft_targets=0.7, labels=0.4, hidden_cosine=0.6)
        | (ON_RANKINGS if kind == "reranking" else {}),
        # The gradient itself, not what clipping leaves of it.
        "optim": {"lr": 1e-3, "max_grad_norm": 1e9},
        "train": {
            "precision": "fp32",
            "global_batch_size": 16,
            "tokens_per_micro_batch": tokens,
            "max_steps": 6,
        },
    }


@pytest.fixture
def stepper_of(tasks, teacher_of, tmp_path):
    """Makes steppers of this process."""

    def make(kind: str, tokens: int, **others) -> Stepper:
        changed = sections(kind, teacher_of(kind), tmp_path, tokens) | others
        experiment = TaskExperiment.model_validate(tasks.experiment(kind, **changed))
        accelerator = make_accelerator(experiment)
        parts = assemble_task(experiment, accelerator.device)
        stepper = Stepper(experiment, TaskObjective(experiment, parts, accelerator), accelerator)
        stepper.distillation.train()
        return stepper

    yield make
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("kind", KINDS)
def test_micro_batches_do_not_change_the_gradient(stepper_of, kind, monkeypatch):
    few = FEW_TOKENS[kind]
    whole, parts = stepper_of(kind, 10_000), stepper_of(kind, few)
    assert len(whole.step_batches[0]) == 1
    assert len(parts.step_batches[0]) >= 4
    expected = gradient_worker.gradient_of_step(whole, 0)
    found = gradient_worker.gradient_of_step(parts, 0)
    assert relative_difference(found, expected) < TOLERANCE

    # It would be noticed: the mean of each micro-batch's means is something else.
    right = Stepper.accumulate_gradient

    def mean_of_means(stepper, step, batches, counts):
        sums = torch.zeros(len(counts), dtype=torch.float64)
        for batch in batches:
            own = [count * len(batches) for count in stepper.distillation.counts(batch)]
            sums += right(stepper, step, [batch], own)
        return sums

    monkeypatch.setattr(Stepper, "accumulate_gradient", mean_of_means)
    wrong = gradient_worker.gradient_of_step(stepper_of(kind, few), 0)
    assert relative_difference(wrong, expected) > WRONG


@pytest.mark.parametrize("kind", KINDS)
def test_nor_do_they_where_only_some_inputs_have_labels(stepper_of, kind):
    copies = {"copies": 2, "replaced": 0.4}
    both = (10_000, FEW_TOKENS[kind])
    whole, parts = (stepper_of(kind, tokens, augmentation=copies) for tokens in both)
    labelled = [term.name for term in parts.distillation.terms].index("labels")
    counts = [parts.distillation.counts(batch)[labelled] for batch in parts.step_batches[0]]
    assert 0 < sum(counts) == whole.distillation.counts(whole.step_batches[0][0])[labelled]
    assert min(counts) == 0  # a micro-batch of copies alone
    expected = gradient_worker.gradient_of_step(whole, 0)
    found = gradient_worker.gradient_of_step(parts, 0)
    assert relative_difference(found, expected) < TOLERANCE


def test_no_micro_batch_cuts_a_query(stepper_of):
    """Every query of a step is in one micro-batch, with all its candidates and their counts."""
    stepper = stepper_of("reranking", FEW_TOKENS["reranking"])
    plan, batches = stepper.plan, stepper.step_batches[0]
    inputs = stepper.step_batches.pack.__self__._inputs
    drawn = [part.samples.tolist() for part in plan.micro_batches(0, 0, 1)]
    every = [query for queries in drawn for query in queries]
    assert sorted(every) == sorted(plan.draws(0).samples.tolist())
    sizes = np.diff(inputs.group_offsets)
    for queries, batch in zip(drawn, batches, strict=True):
        assert list(batch.candidates.sizes) == sizes[queries].tolist()
        assert list(batch.sample_ids) == inputs.members(queries)
        assert batch.candidates.lists == batch.candidates.labelled == len(queries)
        assert batch.candidates.pairs == sum(sizes[queries] - 1)  # one of each is relevant


def test_dropout_would_be_noticed(stepper_of):
    """So it was off in the comparison above."""
    expected = gradient_worker.gradient_of_step(stepper_of("tagging", 48), 0)
    dropping = {"student": NO_DROPOUT | {"dropout": 0.1}}
    found = gradient_worker.gradient_of_step(stepper_of("tagging", 48, **dropping), 0)
    assert relative_difference(found, expected) > WRONG


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tagging", "reranking"])
def test_two_processes_train_the_student_that_one_does(tasks, teacher_of, tmp_path, kind):
    """They share the work on the teacher's outputs too, and make the same copies."""
    students = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        changed = sections(kind, teacher_of(kind), folder, tokens=96)
        changed["teacher"]["cache"] = str(folder / "cache")
        changed["augmentation"] = {"copies": 1}
        folder.mkdir()
        config = tasks.write_config(folder / f"{kind}.yaml", kind, **changed)
        finished = run("train", "--config", str(config), num_processes=number)
        assert finished.code == 0, finished.stderr
        assert f"{number} process(es)" in finished.stderr
        students.append(load_file(folder / kind / "student" / "model.safetensors"))
    alone, together = students
    assert relative_difference(together, alone) < 1e-4
    teacher = load_file(Path(teacher_of(kind)) / "model.safetensors")
    start = {name: weight for name, weight in teacher.items() if name in alone}
    moved = {name: alone[name] for name in start if ".layer." not in name}
    start = {name: start[name] for name in moved}
    assert relative_difference(moved, start) > 1e-3
