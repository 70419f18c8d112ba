"""An optimiser step waits for no device, and a gradient that is not finite changes nothing."""

import copy
from dataclasses import replace

import gradient_worker
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from distilcli.batches.masked import PackedBatch
from distilcli.batches.plan import StepPlan
from distilcli.config.reading import load_masked_lm_experiment
from distilcli.errors import NonFiniteLossError
from distilcli.training.optimizer import make_optimizer
from distilcli.training.processes import make_accelerator
from distilcli.training.steps import note_of_idle


@pytest.fixture
def stepper(tiny_world, tmp_path):
    experiment = load_masked_lm_experiment(tiny_world.config, [f"output_dir={tmp_path}"])
    yield gradient_worker.make_stepper(experiment, make_accelerator(experiment))
    AcceleratorState._reset_state(reset_partial_state=True)


# No synchronisation


def without_values(module: torch.nn.Module, mode: FakeTensorMode) -> torch.nn.Module:
    """The module on tensors that have shapes but no values, tied ones still tied."""
    tensors = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(tensor): mode.from_tensor(tensor) for tensor in tensors})


def batch_without_values(batch: PackedBatch, mode: FakeTensorMode) -> PackedBatch:
    tensors = {k: v for k, v in vars(batch).items() if isinstance(v, torch.Tensor)}
    return replace(batch, **{name: mode.from_tensor(value) for name, value in tensors.items()})


@pytest.mark.slow
def test_a_step_never_asks_the_device_for_a_value(stepper):
    """On tensors without values whatever would wait for one fails; as the check does, and must."""
    mode = FakeTensorMode()
    stepper.distillation = stepper.model = without_values(stepper.distillation, mode)
    batches = [batch_without_values(batch, mode) for batch in stepper.step_batches[0]]
    assert len(batches) > 1
    with mode:
        stepper.optimizer = make_optimizer(stepper.distillation.student, stepper.experiment.optim)
        stepper._is_spoilt = torch.zeros(())
        for step in range(2):
            stepper.take(step, batches)
        with pytest.raises(DataDependentOutputException):
            stepper.check_finite()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_step_does_not_wait_for_the_gpu(stepper):
    assert stepper.accelerator.device.type == "cuda"
    batches = stepper.batches_from(0)
    stepper.take(0, next(batches))  # kernels are loaded
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(1, 4):
            stepper.take(step, next(batches))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    stepper.check_finite()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_step_drops_the_same_on_a_gpu_when_it_is_taken_again(stepper):
    """So a resume goes on as the run would have: dropout belongs to the seed and the step."""
    assert stepper.experiment.student.dropout != 0

    def losses(taking) -> torch.Tensor:
        batches = taking.batches_from(0)
        return torch.stack([taking.take(step, next(batches)).sums for step in range(2)])

    again = gradient_worker.make_stepper(stepper.experiment, stepper.accelerator)
    torch.testing.assert_close(losses(stepper), losses(again), rtol=1e-3, atol=0)
    # Another seed drops others: the losses of the same batches differ by more than rounding.
    batches = stepper.step_batches[2]
    counts = stepper._global_counts(0, batches, stop_requested=False)[:-2]
    batches = [batch.to(stepper.accelerator.device) for batch in batches]
    one, same, other = (stepper.accumulate_gradient(step, batches, counts) for step in (2, 2, 3))
    torch.testing.assert_close(one, same, rtol=1e-3, atol=0)
    assert ((one - other).abs() > 2e-3 * one.abs()).any()


# Gradients that are not finite


def test_after_a_bad_gradient_nothing_changes(stepper, monkeypatch):
    """Steps after it are left out too: they would start from weights that it should have made."""
    stepper.take(0, stepper.step_batches[0])
    stepper.check_finite()
    before = gradient_worker.weights_of(stepper)
    moments = copy.deepcopy(stepper.optimizer.state_dict()["state"])

    clip = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda p, n: clip(p, n) * torch.nan)
    stepper.take(1, stepper.step_batches[1])
    monkeypatch.undo()
    last = stepper.take(2, stepper.step_batches[2])
    assert torch.isfinite(last.grad_norm)

    for name, weight in gradient_worker.weights_of(stepper).items():
        assert torch.equal(weight, before[name]), name
    for index, state in stepper.optimizer.state_dict()["state"].items():
        assert all(torch.equal(state[key], moments[index][key]) for key in state)
    with pytest.raises(NonFiniteLossError, match=r"step 2: the gradient .*not updated"):
        stepper.check_finite()


def test_good_gradients_pass(stepper):
    """Finite gradients pass the check and change every weight."""
    before = gradient_worker.weights_of(stepper)
    for step in range(3):
        stepper.take(step, stepper.step_batches[step])
    stepper.check_finite()
    after = gradient_worker.weights_of(stepper)
    assert all(not torch.equal(after[name], before[name]) for name in before)


def test_more_processes_than_work_are_told():
    plan = StepPlan(np.full(20, 10), 5, 100, seed=0)
    assert note_of_idle(plan, 5) is None
    assert note_of_idle(plan, 8) == (
        "3 of 8 processes have nothing to do: a step of train.global_batch_size 5 is dealt out in 5"
    )
