"""The gradient of a step belongs to the experiment: no partition of it over hardware changes it.

One global batch, dropout off, fp32, as 1 process x 8 micro-batches, 2 x 4 and 8 x 1, in real
processes that talk over gloo; and what the comparison says once the average is taken wrongly.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gradient_worker
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from tiny_experiments import TinyWorld, relative_difference, start_function
from torch import Tensor

from distilcli.config.reading import load_masked_lm_experiment
from distilcli.corpus.store import TokenStore
from distilcli.losses.table import MASKED_LM_TERMS
from distilcli.training.processes import make_accelerator
from distilcli.training.steps import Stepper

NUM_MICRO_BATCHES = 8
TOLERANCE = 1e-5  # of the difference's norm over the gradient's
WRONG = 1e-3  # far above it: what a wrong average makes of the gradient

SETTINGS = [
    "student.dropout=0",
    "student.attention_dropout=0",
    "teacher.precision=fp32",
    "train.precision=fp32",
    "train.global_batch_size=32",
    "loss.logit_mse.weight=0.5",  # a fourth term
    "optim.max_grad_norm=1e9",  # the gradient itself, not what clipping leaves of it
]
ALL_TOKENS = "train.tokens_per_micro_batch=100000"


@dataclass(frozen=True)
class Partition:
    """What the ranks of one partition wrote."""

    records: list[dict]
    gradients: list[dict[str, Tensor]]
    weights: list[dict[str, Tensor]]


def ranks(folder: Path, world: TinyWorld, settings: list[str], num_processes: int) -> Partition:
    """Take the step in `num_processes` processes of their own."""
    records, gradients = work(folder, world, settings, num_processes, gradient_worker.work)
    weights = [load_file(folder / f"weights-{rank}.safetensors") for rank in range(num_processes)]
    return Partition(records, gradients, weights)


def work(
    folder: Path,
    world: TinyWorld,
    settings: list[str],
    num_processes: int,
    function: Callable[..., None],
) -> tuple[list[dict], list[dict[str, Tensor]]]:
    """What each of some processes wrote down, and its gradient."""
    folder.mkdir()
    arguments = [str(folder), str(world.config), *settings, f"output_dir={folder}"]
    finished = start_function(function, arguments, num_processes).wait()
    assert finished.code == 0, finished.stderr
    every_rank = range(num_processes)
    return (
        [json.loads((folder / f"{rank}.json").read_text()) for rank in every_rank],
        [load_file(folder / f"gradient-{rank}.safetensors") for rank in every_rank],
    )


@pytest.fixture
def stepper_of(tiny_world, tmp_path):
    """Makes steppers of this process."""

    def make(*settings: str) -> Stepper:
        experiment = load_masked_lm_experiment(
            tiny_world.config, [*SETTINGS, *settings, f"output_dir={tmp_path}"]
        )
        return gradient_worker.make_stepper(experiment, make_accelerator(experiment))

    yield make
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(params=["all", "masked", "{sample: 0.3}"])
def positions(request) -> str:
    return f"loss.positions={request.param}"


@pytest.fixture
def in_eight(stepper_of) -> str:
    """The setting that cuts the first step into 8 micro-batches."""
    whole = stepper_of(ALL_TOKENS)
    [batch] = whole.step_batches[0]
    too_few_for_seven = (batch.num_tokens - 1) // (NUM_MICRO_BATCHES - 1)
    return f"train.tokens_per_micro_batch={too_few_for_seven}"


def test_micro_batches_do_not_change_the_gradient(stepper_of, positions, in_eight):
    whole, parts = stepper_of(positions, ALL_TOKENS), stepper_of(positions, in_eight)
    assert len(whole.step_batches[0]) == 1
    assert len(parts.step_batches[0]) == NUM_MICRO_BATCHES
    expected = gradient_worker.gradient_of_step(whole, 0)
    found = gradient_worker.gradient_of_step(parts, 0)
    assert relative_difference(found, expected) < TOLERANCE


@pytest.mark.slow
def test_every_term_counts(stepper_of, positions, in_eight):
    """Each term's own gradient, which a big one beside it could hide."""
    whole, parts = (stepper_of(positions, cut).step_batches[0] for cut in (ALL_TOKENS, in_eight))
    assert (len(whole), len(parts)) == (1, NUM_MICRO_BATCHES)
    names = [term.name for term in MASKED_LM_TERMS]
    for name in names:
        only = [f"loss.{other}.weight={int(other == name)}" for other in names]
        stepper = stepper_of(positions, *only)
        gradients = []
        for batches in (whole, parts):
            stepper.optimizer.zero_grad()
            stepper.accumulate_gradient(0, batches, _counts(stepper, batches))
            gradients.append(_present_gradient(stepper))
        assert relative_difference(gradients[1], gradients[0]) < TOLERANCE, name


def _counts(stepper: Stepper, batches: list) -> list[int]:
    counts = [stepper.distillation.counts(batch) for batch in batches]
    return [sum(column) for column in zip(*counts, strict=True)]


def _present_gradient(stepper: Stepper) -> dict[str, Tensor]:
    named = stepper.distillation.student.named_parameters()
    return {name: p.grad.clone() for name, p in named if p.grad is not None}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("positions", "num_processes"), [("all", 2), ("masked", 8), ("{sample: 0.3}", 2)]
)
def test_processes_do_not_change_the_gradient(
    tiny_world, tmp_path, stepper_of, positions, in_eight, num_processes
):
    positions = f"loss.positions={positions}"
    alone = stepper_of(positions, in_eight)
    tokens = [batch.num_tokens for batch in alone.step_batches[0]]
    masked = [batch.num_masked for batch in alone.step_batches[0]]
    assert len(tokens) == NUM_MICRO_BATCHES
    assert len(set(tokens)) > 1  # else means of means would be the mean, and show nothing
    assert len(set(masked)) > 1
    whole = stepper_of(positions, ALL_TOKENS)
    gradient = gradient_worker.gradient_of_step(whole, 0)
    weights = gradient_worker.weights_of(whole)

    settings = [*SETTINGS, positions, in_eight]
    together = ranks(tmp_path / "ranks", tiny_world, settings, num_processes)
    each = NUM_MICRO_BATCHES // num_processes
    assert [len(record["tokens"]) for record in together.records] == [each] * num_processes
    assert sum(sum(record["tokens"]) for record in together.records) == sum(tokens)
    assert {record["num_processes"] for record in together.records} == {num_processes}
    for found in together.gradients:
        assert relative_difference(found, gradient) < TOLERANCE

    # After the update the ranks hold the same weights, to the last bit.
    for found in together.weights[1:]:
        assert all(torch.equal(found[name], together.weights[0][name]) for name in weights)
    assert relative_difference(together.weights[0], weights) < TOLERANCE
    # Counts of four terms, stops and tokens were added up in pairs; then gradients met, once,
    # however many micro-batches there were. Nothing else is exchanged in a step.
    rounds = {2: 1, 8: 3}[num_processes]
    num_bytes = 4 * sum(tensor.numel() for tensor in gradient.values())
    for record in together.records:
        assert record["exchanges"] == [
            ["step", "training/hosts.py: Hosts._swap", "send", rounds, rounds * 6 * 8],
            [
                "gradient",
                "training/steps.py: Stepper.accumulate_gradient",
                "allreduce_",
                1,
                num_bytes,
            ],
        ]
    # A reducer that outlives its stepper can hang the end of the process: `Stepper.close`.
    assert all(record["released"] for record in together.records)


@pytest.mark.slow
def test_two_processes_of_one_micro_batch(tiny_world, tmp_path, stepper_of):
    """Another cut of the same batch: here the bins themselves differ."""
    gradient = gradient_worker.gradient_of_step(stepper_of(ALL_TOKENS), 0)
    together = ranks(tmp_path / "ranks", tiny_world, [*SETTINGS, ALL_TOKENS], 2)
    assert [len(record["tokens"]) for record in together.records] == [1, 1]
    assert relative_difference(together.gradients[0], gradient) < TOLERANCE


@pytest.mark.slow
def test_more_processes_than_sequences_have_the_gradient_of_one(tiny_world, tmp_path, stepper_of):
    """Three of eight have nothing to learn from; the batch takes part in clipping, too."""
    settings = ["train.global_batch_size=5", ALL_TOKENS, "optim.max_grad_norm=0.5"]
    alone = stepper_of(*settings)
    gradient = gradient_worker.gradient_of_step(alone, 0)
    weights = gradient_worker.weights_of(alone)
    norm = sum(tensor.double().square().sum() for tensor in gradient.values()) ** 0.5
    assert float(norm) == pytest.approx(0.5, rel=1e-4)
    together = ranks(tmp_path / "ranks", tiny_world, [*SETTINGS, *settings], 8)
    is_idle = [record["placeholders"] for record in together.records]
    assert is_idle == [[False]] * 5 + [[True]] * 3
    for found in together.gradients:
        assert relative_difference(found, gradient) < TOLERANCE
    for found in together.weights:
        assert relative_difference(found, weights) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("num_processes", [2, 3])
def test_a_last_step_of_fewer_samples_than_processes(
    tiny_world, tmp_path, stepper_of, num_processes
):
    """Its gradient is that of its one sample, on every process, and it is counted once."""
    num_sequences = len(TokenStore.open(tiny_world.store).train)
    settings = ["train.max_steps=null", "train.num_epochs=1", ALL_TOKENS]
    settings.append(f"train.global_batch_size={num_sequences - 1}")
    alone = stepper_of(*settings)
    assert alone.total_steps == 2
    [batch] = alone.step_batches[1]
    assert len(batch.sample_ids) == 1
    expected = gradient_worker.gradient_of_step(alone, 1)
    records, gradients = work(
        tmp_path / "ranks",
        tiny_world,
        [*SETTINGS, *settings],
        num_processes,
        gradient_worker.work_last,
    )
    assert [record["is_placeholder"] for record in records] == [False] + [True] * (
        num_processes - 1
    )
    assert {record["step"] for record in records} == {1}
    assert {record["tokens"] for record in records} == {batch.num_tokens}
    counts = alone.distillation.counts(batch)
    assert all(record["counts"] == counts for record in records)
    assert all(not any(record["sums"]) for record in records[1:])
    for found in gradients:
        assert relative_difference(found, expected) < TOLERANCE


# The comparison can fail


def test_a_mean_per_micro_batch_would_be_noticed(stepper_of, positions, in_eight, monkeypatch):
    """The trap: each micro-batch's mean, then the mean of those, as accumulation usually does."""
    expected = gradient_worker.gradient_of_step(stepper_of(positions, ALL_TOKENS), 0)
    whole_step = Stepper.accumulate_gradient

    def mean_of_means(stepper: Stepper, step: int, batches: list, counts: list[int]) -> Tensor:
        sums = torch.zeros(len(counts), dtype=torch.float64)
        for batch in batches:
            own = [count * len(batches) for count in stepper.distillation.counts(batch)]
            sums += whole_step(stepper, step, [batch], own)
        return sums

    monkeypatch.setattr(Stepper, "accumulate_gradient", mean_of_means)
    found = gradient_worker.gradient_of_step(stepper_of(positions, in_eight), 0)
    assert relative_difference(found, expected) > WRONG
    # With one micro-batch the wrong way is the right way.
    same = gradient_worker.gradient_of_step(stepper_of(positions, ALL_TOKENS), 0)
    assert relative_difference(same, expected) < TOLERANCE


def test_another_mask_would_be_noticed(stepper_of, in_eight):
    """Masks come from (seed, epoch, sample); another seed's give another gradient."""
    expected = gradient_worker.gradient_of_step(stepper_of(in_eight), 0)
    found = gradient_worker.gradient_of_step(stepper_of(in_eight, "seed=43"), 0)
    assert relative_difference(found, expected) > WRONG


def test_dropout_would_be_noticed(stepper_of, in_eight):
    """So it was off in the comparisons above."""
    expected = gradient_worker.gradient_of_step(stepper_of(in_eight), 0)
    found = gradient_worker.gradient_of_step(stepper_of(in_eight, "student.dropout=0.1"), 0)
    assert relative_difference(found, expected) > WRONG
