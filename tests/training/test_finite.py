"""NaN and infinity are never a result: not in weights that are read, nor in losses or scores."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file
from tiny_experiments import TinyWorld, listing, start_function
from tiny_tasks import make_tasks
from typer.testing import CliRunner, Result

from distilcli.cli.app import app
from distilcli.cli.console import Console
from distilcli.config.reading import load_masked_lm_experiment
from distilcli.distillation import masked_lm
from distilcli.distillation.loss_modules import LossSums
from distilcli.errors import NonFiniteLossError
from distilcli.evaluation import dev_examples, held_out
from distilcli.files.json_text import to_json
from distilcli.training.processes import make_accelerator
from distilcli.training.results_file import write_results
from distilcli.training.run_folder import RunFolder
from distilcli.training.steps import Stepper

BAD_TENSOR = "bert.encoder.layer.1.output.dense.weight"


@pytest.fixture(autouse=True)
def _fresh_accelerator(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def invoke(*arguments: str) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    AcceleratorState._reset_state(reset_partial_state=True)
    return result


def error_of(result: Result) -> str:
    [line] = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    return line.removeprefix("error: ")


def with_bad_weight(model: Path, folder: Path, name: str, value: float) -> Path:
    """A copy of a model in which one weight is NaN or infinite."""
    shutil.copytree(model, folder)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors[name].view(-1)[3] = value
    save_file(tensors, file, metadata={"format": "pt"})
    return folder


# Weights


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("command", ["init-student", "train", "train --dry-run", "eval"])
def test_a_teacher_of_bad_weights_is_named_and_leaves_nothing(
    tiny_world: TinyWorld, tmp_path, command, value
):
    teacher = with_bad_weight(tiny_world.teacher, tmp_path / "bad", BAD_TENSOR, value)
    settings = [f"teacher.model={teacher}", f"output_dir={tmp_path / 'runs'}"]
    models = [str(tiny_world.teacher)] if command == "eval" else []
    result = invoke(*command.split(), *models, "--config", str(tiny_world.config), *settings)
    assert result.exit_code == 2
    message = f"teacher {teacher}: {BAD_TENSOR} holds NaN or infinite values"
    assert error_of(result) == message
    assert "Use a checkpoint from before its training diverged" in result.stderr
    assert not (tmp_path / "runs").exists()


def test_without_an_experiment_a_bad_teacher_leaves_nothing_either(tiny_world, tmp_path):
    teacher = with_bad_weight(tiny_world.teacher, tmp_path / "bad", BAD_TENSOR, float("nan"))
    output = tmp_path / "student"
    result = invoke("init-student", "--teacher", str(teacher), "--output", str(output))
    assert result.exit_code == 2
    assert error_of(result) == f"teacher {teacher}: {BAD_TENSOR} holds NaN or infinite values"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad"]


def test_bad_weights_of_other_roles(tiny_world, tmp_path):
    """A student to go on from, a model to copy from, a model to evaluate; several bad tensors."""
    student = with_bad_weight(tiny_world.teacher, tmp_path / "bad", BAD_TENSOR, float("nan"))
    file = student / "model.safetensors"
    tensors = load_file(file)
    tensors["bert.embeddings.LayerNorm.bias"][0] = float("inf")
    save_file(tensors, file, metadata={"format": "pt"})
    expected = f"{student}: bert.embeddings.LayerNorm.bias (and 1 more) holds NaN or infinite"
    runs = f"output_dir={tmp_path / 'runs'}"
    for word in (
        f"student={{kind: checkpoint, model: '{student}'}}",
        f"student={{kind: copied, source: '{student}'}}",
    ):
        result = invoke("train", "--config", str(tiny_world.config), runs, word)
        assert result.exit_code == 2
        assert expected in error_of(result)
    result = invoke("eval", str(student), "--config", str(tiny_world.config), runs)
    assert result.exit_code == 2
    assert expected in error_of(result)
    assert not (tmp_path / "runs").exists()


def test_a_task_model_of_bad_weights(tmp_path):
    tasks = make_tasks(tmp_path / "tasks")
    source = with_bad_weight(tasks.model, tmp_path / "bad", BAD_TENSOR, float("inf"))
    student = {"kind": "copied", "source": str(source), "num_layers": 2}
    config = tasks.write_config(tmp_path / "own.yaml", "tagging", student=student)
    result = invoke("train", "--config", str(config), f"output_dir={tmp_path / 'runs'}")
    assert result.exit_code == 2
    assert error_of(result) == f"source {source}: {BAD_TENSOR} holds NaN or infinite values"
    assert not (tmp_path / "runs").exists()


def test_a_student_that_overflows_is_not_left_behind(tiny_world, tmp_path):
    """Every weight is finite, the logits are not."""
    teacher = tmp_path / "huge"
    shutil.copytree(tiny_world.teacher, teacher)
    tensors = load_file(teacher / "model.safetensors")
    row = tensors["bert.embeddings.position_embeddings.weight"]
    row.fill_(3e38)[:, ::2].neg_()  # no difference of two of them is finite
    save_file(tensors, teacher / "model.safetensors", metadata={"format": "pt"})
    student = tmp_path / "runs" / "student"
    result = invoke("init-student", "--teacher", str(teacher), "--output", str(student))
    assert result.exit_code == 2
    assert error_of(result).startswith(f"{student}: the student's logits are not finite")
    assert listing(tmp_path / "runs") == {}


# An initial student is that of the experiment


def test_an_initial_student_of_other_settings_is_not_trusted(tiny_world, tmp_path):
    runs = f"output_dir={tmp_path}"
    common = ["--config", str(tiny_world.config), runs]
    assert invoke("init-student", *common).exit_code == 0
    folder = tmp_path / "tiny" / "initial-student"
    before = listing(folder)
    refused = invoke("train", *common, "student.layers=top")
    assert refused.exit_code == 2
    assert error_of(refused).startswith(
        f"{folder}: not the student that this experiment starts from (distilbert."
    )
    assert listing(folder) == before
    assert not (tmp_path / "tiny" / "metrics.jsonl").exists()

    trained = invoke("train", *common, "train.max_steps=2")
    assert trained.exit_code == 0, trained.stderr
    assert listing(folder) == before  # it was that of these settings: kept as it is


def test_a_vocabulary_too_small_leaves_nothing(tiny_world, tmp_path, monkeypatch):
    """It shows only beside the store; nothing of the run is written by then."""

    real = masked_lm.ensure_store

    def larger(*given):
        store = real(*given)
        store.manifest = store.manifest.model_copy(update={"vocab_size": 1000})
        return store

    monkeypatch.setattr(masked_lm, "ensure_store", larger)
    result = invoke("train", "--config", str(tiny_world.config), f"output_dir={tmp_path / 'runs'}")
    assert result.exit_code == 2
    assert "the student: its vocabulary of" in error_of(result)
    assert "smaller than the token store's of 1000" in error_of(result)
    assert not (tmp_path / "runs").exists()


# Losses


def make_stepper(world: TinyWorld, folder: Path, *overrides: str) -> Stepper:
    import gradient_worker

    experiment = load_masked_lm_experiment(world.config, [f"output_dir={folder}", *overrides])
    return gradient_worker.make_stepper(experiment, make_accelerator(experiment))


def spoil(stepper: Stepper, name: str, value: float, rows: int = 1) -> None:
    """From now on the first `rows` micro-batches of a term are `value`, with a finite gradient."""
    forward = stepper.distillation.forward
    index = [term.name for term in stepper.distillation.terms].index(name)
    seen = []

    def spoilt(batch, coefficients):
        losses = forward(batch, coefficients)
        seen.append(batch)
        if len(seen) > rows:
            return losses
        terms = losses.terms.clone()
        terms[index] = value
        return LossSums(losses.total, terms)

    stepper.distillation.forward = spoilt


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_changes_nothing_though_its_gradient_is(
    tiny_world, tmp_path, value
):
    import gradient_worker

    stepper = make_stepper(tiny_world, tmp_path)
    before = gradient_worker.weights_of(stepper)
    assert len(stepper.step_batches[0]) > 1
    spoil(stepper, "soft_targets", value)  # of the first micro-batch alone
    stepper.take(0, stepper.step_batches[0])
    after = gradient_worker.weights_of(stepper)
    assert all(torch.equal(after[name], before[name]) for name in before)
    with pytest.raises(NonFiniteLossError, match=r"step 1: .* is not finite; the weights were not"):
        stepper.check_finite()


def spoilt_rank(config: str, folder: str) -> None:
    """Only rank 1 sees a loss that is not finite; both must refuse the update."""
    import gradient_worker

    stepper = make_stepper(TinyWorld(Path(config).parent), Path(folder))
    before = gradient_worker.weights_of(stepper)
    if stepper.rank == 1:
        spoil(stepper, "soft_targets", float("nan"))
    stepper.take(0, stepper.step_batches[0])
    after = gradient_worker.weights_of(stepper)
    same = all(torch.equal(after[name], before[name]) for name in before)
    try:
        stepper.check_finite()
        message = "nothing"
    except NonFiniteLossError as error:
        message = error.message
    (Path(folder) / f"{stepper.rank}.json").write_text(json.dumps([same, message]))
    stepper.close()
    stepper.accelerator.end_training()


def test_a_bad_loss_of_one_rank_stops_all(tiny_world, tmp_path):
    arguments = [str(tiny_world.config), str(tmp_path)]
    finished = start_function(spoilt_rank, arguments, num_processes=2).wait()
    assert finished.code == 0, finished.stderr
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert found[0] == found[1]
    assert found[0][0] is True
    assert "is not finite; the weights were not updated" in found[0][1]


def test_a_temperature_beyond_all_measure(tiny_world, tmp_path):
    """T^2 overflows where T times a difference does not: the gradient alone shows nothing."""
    stepper = make_stepper(tiny_world, tmp_path)
    for term in stepper.distillation.terms:
        term.temperature = 1e20  # whatever the bounds are
    stepper.take(0, stepper.step_batches[0])
    expected = "step 1: loss/kl of every sample is not finite; the weights were not updated"
    with pytest.raises(NonFiniteLossError) as error:
        stepper.check_finite()
    assert error.value.message == expected
    assert "loss.temperature" in error.value.hint


def test_a_step_is_the_same_to_the_last_bit_with_the_check(tiny_world, tmp_path, monkeypatch):
    import gradient_worker

    from distilcli.training import steps

    found = []
    for check in (steps._spoilt_by, lambda _sums, total: total):
        monkeypatch.setattr(steps, "_spoilt_by", check)
        stepper = make_stepper(tiny_world, tmp_path)
        stepper.take(0, stepper.step_batches[0])
        found.append(gradient_worker.weights_of(stepper))
        AcceleratorState._reset_state(reset_partial_state=True)
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_weights_that_are_not_finite_are_not_written(tiny_world, tmp_path, monkeypatch):
    """After the last step nothing else would show them: losses and gradient were finite."""
    from distilcli.distillation import masked_lm

    scores = held_out.HeldOutScores(1.0, 0.5, 10)
    monkeypatch.setattr(masked_lm, "held_out_scores", lambda *_, **__: scores)
    real = Stepper.check_finite

    def then_overflow(self: Stepper) -> None:
        real(self)
        with torch.no_grad():
            next(self.distillation.student.parameters())[3, 1] = float("inf")

    monkeypatch.setattr(Stepper, "check_finite", then_overflow)
    arguments = ["--config", str(tiny_world.config), f"output_dir={tmp_path}"]
    result = invoke("train", *arguments, "train.max_steps=1")
    assert result.exit_code == 1
    assert error_of(result) == (
        "step 1: the student: distilbert.embeddings.word_embeddings.weight holds NaN or infinite "
        "values; it is not written"
    )
    assert "Lower optim.lr" in result.stderr
    assert not list((tmp_path / "tiny").rglob("step-*"))
    assert not (tmp_path / "tiny" / "student").exists()


# Scores


@pytest.mark.parametrize("place", [0, 4])
def test_held_out_scores_that_are_not_finite(monkeypatch, place):
    sums = torch.ones(8, dtype=torch.float64)
    sums[place] = float("nan")
    bins = torch.ones(3, held_out.NUM_BINS, dtype=torch.float64)
    monkeypatch.setattr(held_out, "_batch_sums", lambda *_: (sums, bins))
    model = torch.nn.Linear(1, 1)
    batch = SimpleNamespace(to=lambda _: None)
    what = {0: "held-out loss", 4: "KL to the teacher"}[place]
    with pytest.raises(NonFiniteLossError, match=f"teacher x: its {what} is nan"):
        held_out.held_out_scores(model, model, [batch], Accelerator(cpu=True), "teacher x")


def test_training_names_the_step_of_a_bad_score_and_keeps_the_checkpoint(
    tiny_world, tmp_path, monkeypatch
):
    from distilcli.distillation import masked_lm

    def bad(*_, **__):
        raise NonFiniteLossError("the student: its held-out loss is nan", "Lower it.")

    monkeypatch.setattr(masked_lm, "held_out_scores", bad)
    arguments = ["--config", str(tiny_world.config), f"output_dir={tmp_path}"]
    result = invoke("train", *arguments)
    assert result.exit_code == 1
    assert error_of(result) == "step 6: the student: its held-out loss is nan"
    assert [path.name for path in (tmp_path / "tiny" / "checkpoints").iterdir()] == [
        "step-00000004"
    ]


def test_outputs_that_are_not_finite_get_no_task_score(monkeypatch):
    """argmax of NaN is the first class: it would look like a score."""
    outputs = [(0, np.ones((1, 2), np.float32)), (1, np.full((1, 2), np.nan, np.float32))]
    monkeypatch.setattr(dev_examples, "outputs_of", lambda *_: outputs)
    dev = MagicMock(num_outputs_of=np.ones(2, dtype=int), __len__=lambda _: 2)
    task = SimpleNamespace(dev=dev, score="accuracy", scores=lambda _: {"accuracy": 0.9})
    with pytest.raises(NonFiniteLossError, match="student x: not all of its outputs for the dev"):
        dev_examples.dev_scores(task, None, Accelerator(cpu=True), 10, "student x")
    monkeypatch.setattr(dev_examples, "outputs_of", lambda *_: outputs[:1])
    assert dev_examples.dev_scores(task, None, Accelerator(cpu=True), 10).values == {
        "accuracy": 0.9
    }


# JSON


def test_json_has_no_nan():
    value = {"a": [float("nan"), 1.5, (float("inf"), True)], "b": {"c": float("-inf"), "d": None}}
    expected = {"a": [None, 1.5, [None, True]], "b": {"c": None, "d": None}}
    text = to_json(value)
    assert json.loads(text, parse_constant=pytest.fail) == expected
    assert json.loads(to_json(value, indent=1), parse_constant=pytest.fail) == expected


def test_every_writer_of_json_goes_through_it(tmp_path, capsys):
    record = {"step": 1, "perplexity": float("inf"), "loss": float("nan")}
    Console(as_json=True).result(record)
    expected = {"step": 1, "perplexity": None, "loss": None}
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == expected
    target = write_results(tmp_path, record)
    assert json.loads(target.read_text(), parse_constant=pytest.fail) == expected
    folder = RunFolder(tmp_path)
    folder.append_metrics([record])
    assert json.loads(folder.metrics.read_text(), parse_constant=pytest.fail) == expected
