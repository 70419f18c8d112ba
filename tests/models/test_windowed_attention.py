"""Attention within a window: what a dense mask of all pairs gives, for sequences of any length."""

import pytest
import torch
from torch import Tensor, nn
from transformers import ModernBertConfig
from transformers.masking_utils import create_bidirectional_sliding_window_mask

from distilcli.models.attention import Packing, packed_attention
from distilcli.models.windowed_attention import windowed_attention

HEADS, SIZE = 2, 8
# (radius, lengths): all see all, one mask, blocks that fit, a last block of one token, many blocks.
CASES = [
    (0, (1, 2, 17)),
    (1, (2, 3, 18, 19)),
    (4, (1, 4, 5, 6, 24, 25, 32, 33, 200)),
    (20, (20, 21, 22, 60, 61, 80, 81)),
    (64, (65, 66, 192, 193, 257, 300)),
    (500, (300,)),
]
each_case = pytest.mark.parametrize(("radius", "lengths"), CASES, ids=lambda value: str(value))


def inputs_of(tokens: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    draw = torch.Generator().manual_seed(tokens)
    shape = (1, HEADS, tokens, SIZE)
    made = (torch.randn(shape, generator=draw, dtype=torch.float64) for _ in range(3))
    return [tensor.to(dtype).requires_grad_() for tensor in made]


def packing_of(lengths: tuple[int, ...]) -> Packing:
    ends = torch.tensor([0, *lengths]).cumsum(0).int()
    return Packing(tuple((1, length) for length in lengths), ends, max(lengths))


def dense(query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...], radius: int):
    """Softmax over all tokens of the row, with minus infinity where a query sees no key."""
    sequence = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    place = torch.cat([torch.arange(length) for length in lengths])
    sees = (sequence[:, None] == sequence) & ((place[:, None] - place).abs() <= radius)
    scores = query @ key.transpose(2, 3) / SIZE**0.5
    shares = scores.masked_fill(~sees, -torch.inf).softmax(dim=-1)
    return (shares @ value).transpose(1, 2)


def attend(inputs: list[Tensor], lengths: tuple[int, ...], radius: int, **options) -> Tensor:
    options = {"packing": packing_of(lengths), "sliding_window": radius + 1} | options
    output, _ = packed_attention(nn.Identity(), *inputs, None, **options)
    return output


@each_case
def test_a_window_is_the_masked_dense_attention(radius, lengths):
    """Forward and gradient, in one row."""
    ours, theirs = inputs_of(sum(lengths)), inputs_of(sum(lengths))
    found, expected = attend(ours, lengths, radius), dense(*theirs, lengths, radius)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    weights = torch.randn_like(found)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("radius", [0, 4])
@pytest.mark.parametrize("length", [5, 20, 90, 96])
def test_neighbours_of_one_length_are_computed_together(length, radius):
    """Three of them in one run are what each is alone; 96 tokens fill their blocks."""
    lengths = (length,) * 3
    inputs = inputs_of(3 * length)
    together = Packing(((3, length),), packing_of(lengths).boundaries, length)
    found = attend(inputs, lengths, radius, packing=together)
    expected = dense(*inputs, lengths, radius)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found, attend(inputs, lengths, radius), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("local_attention", [1, 2, 7, 8])
def test_the_window_is_the_one_that_transformers_masks(local_attention):
    """Of an odd number of tokens, too: half of it is rounded down, to either side."""
    length = 30
    config = ModernBertConfig(
        hidden_size=16, num_attention_heads=2, local_attention=local_attention
    )
    config._attn_implementation = "eager"
    mask = create_bidirectional_sliding_window_mask(
        config=config, inputs_embeds=torch.zeros(1, length, 16), attention_mask=None
    )
    sees = mask[0, 0] == 0
    query, key, value = (tensor.detach().float() for tensor in inputs_of(length))
    shares = (query @ key.transpose(2, 3) / SIZE**0.5).masked_fill(~sees, -torch.inf).softmax(-1)
    found = attend([query, key, value], (length,), local_attention // 2)
    torch.testing.assert_close(found, (shares @ value).transpose(1, 2), rtol=1e-5, atol=1e-6)


def test_training_in_bf16_on_a_cpu_computes_windows_in_fp32():
    """Only its inputs and its output are rounded, under autocast too."""
    lengths = (3, 20, 70)
    inputs = inputs_of(sum(lengths), torch.bfloat16)
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    with torch.autocast("cpu", torch.bfloat16):
        output = attend(inputs, lengths, 4)
    expected = dense(*exact, lengths, 4)
    half_a_unit = 2.0**-8 * (1 + 1e-3)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.double(), expected, rtol=half_a_unit, atol=1e-6)
    weights = torch.randn_like(output)
    (output * weights).sum().backward()
    (expected * weights.double()).sum().backward()
    for found, wanted in zip(inputs, exact, strict=True):
        torch.testing.assert_close(found.grad.double(), wanted.grad, rtol=half_a_unit, atol=1e-6)


@pytest.mark.parametrize("length", [4, 20, 60])
def test_dropout_of_windows_is_scaled_to_keep_the_mean(length):
    inputs = [tensor.detach() for tensor in inputs_of(length)]
    still = attend(inputs, (length,), 4)
    draws = torch.stack([attend(inputs, (length,), 4, dropout=0.3) for _ in range(600)])
    assert not torch.equal(draws[0], draws[1])
    error = (draws.mean(dim=0) - still).abs()
    assert (error < 6 * draws.std(dim=0) / len(draws) ** 0.5).all()


def test_scores_are_scaled_as_the_layer_says():
    inputs = inputs_of(60)
    doubled = [inputs[0] * 2, *inputs[1:]]
    found = attend(inputs, (60,), 4, scaling=2 / SIZE**0.5)
    torch.testing.assert_close(found, attend(doubled, (60,), 4), rtol=1e-12, atol=1e-12)


def test_a_long_sequence_makes_no_square_of_its_length(monkeypatch):
    """Its work is what its blocks look at: never more than three windows for each token."""
    seen = []

    def counted(query, key, value, **options):
        seen.append((query.shape[0] * query.shape[2], key.shape[2], options["attn_mask"].numel()))
        return query

    monkeypatch.setattr("distilcli.models.windowed_attention.scaled_dot_product_attention", counted)
    length, radius = 8192, 64
    states = torch.zeros(1, 1, length, 4)
    windowed_attention(states, states, states, radius, 0.0, None)
    assert seen == [(length, 3 * radius, length * 3 * radius)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.02), (torch.float32, 1e-3)])
def test_windows_on_cuda_are_those_on_a_cpu(dtype, tolerance):
    """In bf16 through the variable-length kernel, in fp32 by block."""
    lengths = (3, 20, 70, 200)
    inputs = inputs_of(sum(lengths), dtype)
    expected = dense(*(tensor.detach().double() for tensor in inputs), lengths, 4)
    packing = packing_of(lengths)
    there = Packing(packing.runs, packing.boundaries.cuda(), packing.max_length)
    moved = [tensor.detach().cuda() for tensor in inputs]
    found = attend(moved, lengths, 4, packing=there).double().cpu()
    assert (found - expected).norm() < tolerance * expected.norm()


def test_the_registered_attention_takes_what_a_local_layer_passes():
    """`deterministic` asks something of a kernel that is not used."""
    inputs = inputs_of(20)
    one, other = (attend(inputs, (20,), 4, deterministic=flag) for flag in (False, True))
    assert torch.equal(one, other)
