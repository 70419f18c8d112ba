"""Attention in groups of similar length: what attention of each sequence by itself computes."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from distilcli.models import grouped_attention as grouped_module
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


def test_sequences_are_grouped_by_the_length_they_are_padded_to():
    groups = Groups.of((4, 16, 7, 16, 20, 32, 129), 2)
    assert [group.shape for group in groups.groups] == [(8, 16), (4, 32), (2, 160)]
    assert Groups.of((16, 16), 2).groups[0].bias is None
    # Of the 4, 7, 20 and 129 tokens 12, 9, 12 and 31 places are padding, in each head.
    assert [int(group.bias.isinf().sum()) for group in groups.groups] == [42, 24, 62]
    assert (groups.places == 2 * 224).sum() == 2 * 64
    assert torch.equal(groups.places[groups.rows], torch.arange(2 * 224))


def test_no_more_scores_are_computed_at_once_than_a_cache_holds(monkeypatch):
    """And never less than those of one head."""
    monkeypatch.setattr(grouped_module, "_SCORES", 3 * 16 * 16)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    shapes = [group.shape for group in Groups.of((16, 9, 12, 40), 4).groups]
    assert shapes == [(6, 16), (6, 16), (1, 48), (1, 48), (1, 48), (1, 48)]


@pytest.mark.parametrize("scores", [1, 1000])
def test_groups_may_be_cut_anywhere(monkeypatch, scores):
    """The same numbers are dropped, however many threads there are."""
    inputs = random_inputs(torch.float64)
    torch.manual_seed(3)
    whole = grouped_attention(*inputs, Groups.of(LENGTHS, NUM_HEADS), 0.3, None)
    monkeypatch.setattr(grouped_module, "_SCORES", scores)
    cut = Groups.of(LENGTHS, NUM_HEADS)
    assert len(cut.groups) > 2
    torch.manual_seed(3)
    found = grouped_attention(*inputs, cut, 0.3, None)
    torch.testing.assert_close(found, whole, rtol=1e-13, atol=1e-13)
    for one, other in zip(gradients(found, inputs), gradients(whole, inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_what_is_said_of_a_sequence_does_not_depend_on_its_neighbours(dtype):
    """To the last bit: a sequence of another group, or of another length in its own."""
    inputs = [tensor.detach() for tensor in random_inputs(dtype)]
    together = grouped_attention(*inputs, Groups.of(LENGTHS, NUM_HEADS), 0.0, None)
    first = 0
    for length in LENGTHS:
        place = slice(first, first + length)
        alone = [tensor[:, :, place] for tensor in inputs]
        found = grouped_attention(*alone, Groups.of([length], NUM_HEADS), 0.0, None)
        assert torch.equal(found, together[:, place])
        first += length


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
    before = torch.backends.mkldnn.matmul.fp32_precision
    with torch.autocast("cpu", torch.bfloat16):
        found = grouped_attention(*inputs, Groups.of(LENGTHS, NUM_HEADS), 0.0, None)
    expected = by_sequence(exact)
    assert found.dtype == torch.bfloat16
    # What was changed for the products of scores is as before.
    assert torch.backends.mkldnn.matmul.fp32_precision == before
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
