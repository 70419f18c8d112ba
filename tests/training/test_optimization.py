"""The learning-rate schedule, and what is decayed."""

import pytest
import torch
from transformers import get_linear_schedule_with_warmup

from distilcli.config.training import OptimConfig
from distilcli.models.copying import copy_layers
from distilcli.training.optimizer import learning_rate, make_optimizer

TOTAL = 200


def rates(optim: OptimConfig, total: int = TOTAL) -> list[float]:
    return [learning_rate(optim, step, total) for step in range(total + 1)]


def test_warm_up_rises_to_the_peak_and_decay_falls_to_zero():
    found = rates(OptimConfig(lr=5e-4, warmup_fraction=0.05))
    assert found[:3] == pytest.approx([5e-5, 1e-4, 1.5e-4])  # step 0 already learns
    assert found[9] == found[10] == max(found) == 5e-4
    rise, fall = found[:10], found[10:]
    assert rise == sorted(set(rise))
    assert fall == sorted(set(fall), reverse=True)
    assert found[10 + 95] == pytest.approx(2.5e-4)  # half way down
    assert found[TOTAL - 1] == pytest.approx(5e-4 / 190)  # the last step
    assert found[TOTAL] == 0.0


def test_without_warm_up_the_first_step_is_at_the_peak():
    found = rates(OptimConfig(lr=1e-3, warmup_fraction=0.0))
    assert found[0] == 1e-3
    assert found == pytest.approx([1e-3 * (TOTAL - step) / TOTAL for step in range(TOTAL + 1)])


def test_warm_up_may_be_everything():
    found = rates(OptimConfig(lr=1.0, warmup_fraction=1.0))
    assert found[:-1] == pytest.approx([(step + 1) / TOTAL for step in range(TOTAL)])


@pytest.mark.parametrize("total", [1, 2, 3, 10])
@pytest.mark.parametrize("fraction", [0.0, 0.05, 0.5, 1.0])
def test_short_runs_learn_in_every_step(total, fraction):
    found = rates(OptimConfig(lr=1.0, warmup_fraction=fraction), total)
    assert all(0 < rate <= 1 for rate in found[:-1])
    assert max(found) == 1.0


def test_schedule_is_that_of_transformers_but_for_the_first_step():
    """Theirs starts at zero, which wastes a step; the decay is the same."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-4)
    schedule = get_linear_schedule_with_warmup(optimizer, 10, TOTAL)
    theirs = []
    for _ in range(TOTAL):
        theirs.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    ours = rates(OptimConfig(lr=3e-4, warmup_fraction=0.05))
    assert ours[:10] == pytest.approx(theirs[1:11])
    assert ours[10:TOTAL] == pytest.approx(theirs[10:])


# Weight decay


def test_only_matrices_and_embeddings_decay(tiny_bert):
    bert = tiny_bert()
    for model in (bert, copy_layers(bert, [0, 2])):
        optimizer = make_optimizer(model, OptimConfig(weight_decay=0.01))
        decayed, free = optimizer.param_groups
        assert (decayed["weight_decay"], free["weight_decay"]) == (0.01, 0.0)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        decayed_names = {names.pop(id(parameter)) for parameter in decayed["params"]}
        free_names = {names.pop(id(parameter)) for parameter in free["params"]}
        assert names == {}  # every parameter once, tied ones too
        norms = ("LayerNorm", "layer_norm")
        assert all(
            name.endswith(".weight") and not any(n in name for n in norms) for name in decayed_names
        )
        assert all(name.endswith(".bias") or any(n in name for n in norms) for name in free_names)
        assert any("word_embeddings" in name for name in decayed_names)


def test_settings_reach_the_optimizer(tiny_bert):
    optim = OptimConfig(lr=1e-3, betas=(0.8, 0.9), eps=1e-5)
    for group in make_optimizer(tiny_bert(), optim).param_groups:
        assert (group["lr"], group["betas"], group["eps"]) == (1e-3, (0.8, 0.9), 1e-5)
    defaults = make_optimizer(tiny_bert(), OptimConfig()).param_groups[0]
    release = (5e-4, (0.9, 0.98), 1e-6, 0.0)
    assert release == tuple(defaults[k] for k in ("lr", "betas", "eps", "weight_decay"))


def test_frozen_parameters_are_left_out(tiny_bert):
    model = tiny_bert()
    frozen = model.cls.predictions.bias.requires_grad_(False)
    groups = make_optimizer(model, OptimConfig()).param_groups
    assert all(parameter is not frozen for group in groups for parameter in group["params"])


def test_decay_moves_a_matrix_without_a_gradient_and_no_bias(tiny_bert):
    model = tiny_bert()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    make_optimizer(model, OptimConfig(lr=0.1, weight_decay=0.5)).step()
    for name, parameter in model.named_parameters():
        factor = 0.95 if parameter.ndim > 1 else 1.0
        torch.testing.assert_close(parameter, before[name] * factor)
