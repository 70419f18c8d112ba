"""Attention in groups of similar length: what attention of each sequence by itself computes."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from distilcli.models.dropout import KeptBits
from distilcli.models.grouped_attention import Groups, grouped_attention

LENGTHS = (5, 30, 1, 22, 28, 30, 9, 31, 16)
NUM_HEADS, SIZE = 3, 8


def random_inputs(dtype: torch.dtype) -> list[torch.Tensor]:
    shape = (1, sum(LENGTHS), NUM_HEADS, SIZE)
    return [torch.randn(shape).to(dtype).transpose(1, 2).requires_grad_() for _ in range(3)]


def exact_copies(inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    return [tensor.detach().double().requires_grad_() for tensor in inputs]


def by_sequence(inputs: list[torch.Tensor], scaling: float | None = None) -> torch.Tensor:
    parts = zip(*(tensor.split(LENGTHS, dim=2) for tensor in inputs), strict=True)
    outputs = [scaled_dot_product_attention(*part, scale=scaling) for part in parts]
    return torch.cat(outputs, dim=2).transpose(1, 2)


def gradients(output: torch.Tensor, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    return list(torch.autograd.grad((output * weights.to(output.dtype)).sum(), inputs))


def test_sequences_are_grouped_with_those_of_similar_length():
    groups = Groups.of((4, 8, 7, 8, 20), 2)
    shapes = [group.shape for group in groups.groups]
    assert shapes == [(2, 20), (6, 8), (2, 4)]
    assert [group.bias is None for group in groups.groups] == [True, False, True]
    # Of the 7 tokens one place is padding, in each head.
    assert groups.groups[1].bias.isinf().sum() == 2
    assert (groups.places == 2 * 47).sum() == 2
    assert torch.equal(groups.places[groups.rows], torch.arange(2 * 47))


@pytest.mark.parametrize("scaling", [None, 0.5])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 3e-6)])
def test_groups_compute_what_single_sequences_do(dtype, tolerance, scaling):
    inputs = random_inputs(dtype)
    exact = exact_copies(inputs)
    found = grouped_attention(*inputs, Groups.of(LENGTHS, NUM_HEADS), 0.0, scaling)
    expected = by_sequence(exact, scaling)
    assert found.shape == (1, sum(LENGTHS), NUM_HEADS, SIZE)
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)
    for one, other in zip(gradients(found, inputs), gradients(expected, exact), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=tolerance, atol=tolerance)


def test_in_bf16_products_are_rounded_and_scores_are_not():
    """With scores in bf16, whose standard deviation here is 16, the errors are four times these."""
    torch.manual_seed(0)
    inputs = random_inputs(torch.bfloat16)
    with torch.no_grad():
        inputs[0] *= 4
        inputs[1] *= 4
    exact = exact_copies(inputs)
    with torch.autocast("cpu", torch.bfloat16):
        found = grouped_attention(*inputs, Groups.of(LENGTHS, NUM_HEADS), 0.0, None)
    expected = by_sequence(exact)
    assert found.dtype == torch.bfloat16
    pairs = [(found, expected)]
    pairs += zip(gradients(found, inputs), gradients(expected, exact), strict=True)
    for one, other in pairs:
        error = (one.double() - other).norm() / other.norm()
        assert error < 2.0**-7  # half a unit of bf16 is 2^-9 of a number


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_dropout_drops_the_bits_that_were_drawn(dtype):
    """The same draws, applied to attention in fp64 as it is written in textbooks."""
    groups = Groups.of(LENGTHS, NUM_HEADS)
    inputs = random_inputs(dtype)
    exact = exact_copies(inputs)
    torch.manual_seed(3)
    found = grouped_attention(*inputs, groups, 0.3, None)
    torch.manual_seed(3)
    drawn = [
        KeptBits(torch.Size((rows, length, length)), 0.3)
        for rows, length in (group.shape for group in groups.groups)
    ]
    shares = [bits.apply(torch.ones(bits._bits.shape).double()) * bits.scale for bits in drawn]
    q, k, v = (tensor[0].transpose(0, 1).reshape(-1, SIZE) for tensor in exact)
    outputs = torch.zeros(len(groups.places), SIZE, dtype=torch.float64)
    first = 0
    for group, share in zip(groups.groups, shares, strict=True):
        rows, length = group.shape
        of_group = groups.places[first : first + rows * length]
        is_real = (of_group < len(q)).view(rows, length)
        parts = (x[of_group.clamp(max=len(q) - 1)].view(rows, length, SIZE) for x in (q, k, v))
        one, other, values = parts
        scores = one @ other.transpose(1, 2) / SIZE**0.5
        probabilities = scores.masked_fill(~is_real[:, None], -torch.inf).softmax(dim=-1)
        output = (probabilities * share) @ values
        into = torch.arange(first, first + rows * length)
        outputs = outputs.index_copy(0, into, output.flatten(0, 1))
        first += rows * length
    expected = outputs[groups.rows].view(found.shape)
    tolerance = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 0.05}[dtype]
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)
    for one, other in zip(gradients(found, inputs), gradients(expected, exact), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=tolerance, atol=tolerance)
