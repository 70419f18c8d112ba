"""Dropout from few random bits."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from distilcli.models.dropout import FewBitsDropout, KeptBits, can_drop, use_few_bits

DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.93])
def test_the_share_that_is_dropped_is_the_one_asked_for(share):
    count = 1_000_003  # no multiple of the four numbers of a draw
    torch.manual_seed(0)
    kept = KeptBits(torch.Size((count,)), share).apply(torch.ones(count)).mean().item()
    deviation = (share * (1 - share) / count) ** 0.5
    assert abs(kept - (1 - share)) < 4 * deviation


def test_what_is_kept_makes_up_for_what_is_dropped():
    """Of a share that 16 bits cannot say, too: 1/3 becomes 21,845 of 65,536."""
    assert KeptBits(torch.Size((1,)), 1 / 3).scale == 65_536 / (65_536 - 21_845)
    assert KeptBits(torch.Size((1,)), 0.5).scale == 2.0


def test_each_number_of_a_draw_is_kept_by_itself():
    """Neighbours come out of one draw: whether they are kept is uncorrelated."""
    torch.manual_seed(0)
    kept = KeptBits(torch.Size((100_000, 4)), 0.5).apply(torch.ones(100_000, 4))
    correlations = torch.corrcoef(kept.T) - torch.eye(4)
    assert correlations.abs().max() < 4 / 100_000**0.5


@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_are_kept_as_they_are_or_become_zero(dtype):
    dropout = FewBitsDropout(0.25)
    inputs = torch.randn(7, 11, dtype=torch.float64).to(dtype).requires_grad_()
    output = dropout(inputs)
    is_kept = output != 0
    assert 40 < is_kept.sum() < 75
    torch.testing.assert_close(output[is_kept], (inputs * (4 / 3)).to(dtype)[is_kept])
    (gradient,) = torch.autograd.grad(output.sum(), inputs)
    assert torch.equal(gradient != 0, is_kept)
    assert (gradient[is_kept] == torch.tensor(4 / 3, dtype=dtype)).all()


def test_the_same_seed_drops_the_same_numbers():
    dropout, inputs = FewBitsDropout(0.1), torch.randn(50, 20)
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(dropout(inputs))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_nothing_is_dropped_outside_training_or_without_a_share():
    inputs = torch.randn(50, 20)
    assert torch.equal(FewBitsDropout(0.5).eval()(inputs), inputs)
    assert torch.equal(FewBitsDropout(0.0)(inputs), inputs)
    assert not FewBitsDropout(1.0)(inputs).any()
    assert FewBitsDropout(0.5)(torch.empty(0, 3)).shape == (0, 3)
    # A share under half of what 16 bits can say is PyTorch's to drop.
    assert not can_drop(inputs, 1e-6)
    assert not can_drop(inputs.long(), 0.5)


def test_inputs_that_are_no_block_of_memory_are_dropped_alike():
    inputs = torch.randn(20, 50)
    torch.manual_seed(0)
    expected = FewBitsDropout(0.5)(inputs)
    torch.manual_seed(0)
    assert torch.equal(FewBitsDropout(0.5)(inputs.T.contiguous().T), expected)


def test_a_model_differs_in_its_dropout_alone(tiny_bert):
    model = tiny_bert(num_layers=2, hidden_dropout_prob=0.2)
    before = deepcopy(model)
    use_few_bits(model)
    rates = [module.p for module in model.modules() if isinstance(module, nn.Dropout)]
    assert rates == [module.p for module in before.modules() if isinstance(module, nn.Dropout)]
    assert sum(type(module) is FewBitsDropout for module in model.modules()) == len(rates) > 5
    assert model.state_dict().keys() == before.state_dict().keys()
    model.eval()
    ids = torch.arange(5, 15)[None]
    assert torch.equal(model(ids).logits, before.eval()(ids).logits)
