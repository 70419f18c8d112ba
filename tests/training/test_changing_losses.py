"""A weight or temperature that changes is, at each step, what its schedule says there."""

import gradient_worker
import pytest
import torch
from accelerate.state import AcceleratorState
from tiny_experiments import metrics, run

from distilcli.config.reading import load_masked_lm_experiment
from distilcli.training.processes import make_accelerator

CHANGING = [
    "loss.temperature={from: 4, to: 1}",
    "loss.soft_targets.weight={from: 0, to: 6}",
    "loss.reverse_kl={weight: 1, temperature: {from: 1, to: 3}}",
    "train.max_steps=5",
]


@pytest.fixture
def make(tiny_world, tmp_path):
    def made(*overrides: str):
        AcceleratorState._reset_state(reset_partial_state=True)
        words = [f"output_dir={tmp_path}", *overrides]
        experiment = load_masked_lm_experiment(tiny_world.config, words)
        return gradient_worker.make_stepper(experiment, make_accelerator(experiment))

    yield made
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("step", [0, 2, 4])
def test_the_gradient_is_that_of_the_values_at_the_step(make, step):
    """Of five steps: the first, the one half way, the last."""
    share = step / 4
    now = [
        f"loss.temperature={4 - 3 * share}",
        f"loss.soft_targets.weight={6 * share}",
        f"loss.reverse_kl={{weight: 1, temperature: {1 + 2 * share}}}",
        "train.max_steps=5",
    ]
    found = gradient_worker.gradient_of_step(make(*CHANGING), step)
    expected = gradient_worker.gradient_of_step(make(*now), step)
    # A term of weight 0 is left out there and computed here, in another order of sums.
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-7)
    other = gradient_worker.gradient_of_step(make("train.max_steps=5"), step)
    assert any(not torch.allclose(found[name], other[name], rtol=0.1) for name in found)


def test_an_outcome_says_what_the_values_were(make):
    stepper = make(*CHANGING)
    for step in (3, 1):  # no step depends on those before
        outcome = stepper.take(step, stepper.step_batches[step])
        share = step / 4
        assert outcome.changing == {
            "temperature/soft_targets": 4 - 3 * share,
            "weight/soft_targets": 6 * share,
            "temperature/reverse_kl": 1 + 2 * share,
        }
        assert outcome.alphas == (6 * share, 1.0, 2.0, 1.0)


def test_records_have_the_values_of_their_steps(tiny_world, tmp_path):
    """And the total is made with them, though several steps are recorded at once."""
    changing = ["loss.masked_lm.weight={from: 4, to: 0, schedule: cosine}", "train.max_steps=3"]
    words = ["train", "--config", str(tiny_world.config), f"output_dir={tmp_path}"]
    finished = run(*words, *changing, "train.log_every=3", "train.save_every=3")
    assert finished.code == 0, finished.stderr
    records = metrics(tmp_path / "tiny")
    assert [record["weight/masked_lm"] for record in records] == [4.0, pytest.approx(2.0), 0.0]
    for record in records:
        total = 5.0 * record["loss/kl"] + record["loss/cos"]
        total += record["weight/masked_lm"] * record["loss/mlm"]
        assert record["loss/total"] == pytest.approx(total, rel=1e-9)
        assert "temperature/soft_targets" not in record
