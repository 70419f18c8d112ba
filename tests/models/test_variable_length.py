"""FlashAttention over sequences of any lengths, with dropout: what it is asked and computes."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import scaled_dot_product_attention

from distilcli.models import variable_length
from distilcli.models.attention import Packing, packed_attention
from distilcli.models.variable_length import (
    has_kernel,
    note_of_slow_attention,
    variable_length_attention,
    why_no_kernel,
)

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture
def flash(monkeypatch):
    """A device that has FlashAttention, which need not be there."""
    monkeypatch.setattr(variable_length, "_is_supported", lambda index: True)


# When the kernel is used


@pytest.mark.parametrize(
    ("device", "dtype", "head_size", "expected"),
    [
        ("cuda", torch.bfloat16, 64, True),
        ("cuda", torch.float16, 8, True),
        ("cuda", torch.bfloat16, 256, True),
        ("cuda", torch.bfloat16, 4, False),
        ("cuda", torch.bfloat16, 44, False),
        ("cuda", torch.bfloat16, 264, False),
        ("cuda", torch.float32, 64, False),
        ("cuda", torch.float64, 64, False),
        ("cpu", torch.bfloat16, 64, False),
    ],
)
def test_the_kernel_is_called_for_what_it_takes(device, dtype, head_size, expected, flash):
    """Tensors without values stand for those on a device that need not be there."""
    with FakeTensorMode():
        query = torch.empty(1, 2, 5, head_size, device=device, dtype=dtype)
    assert has_kernel(query) == expected


@pytest.mark.parametrize(
    ("is_built", "capability", "expected"),
    [(True, (9, 0), True), (True, (8, 0), True), (True, (7, 5), False), (False, (9, 0), False)],
)
def test_old_devices_have_no_kernel(is_built, capability, expected, monkeypatch):
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: is_built)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    variable_length._has_flash_attention.cache_clear()
    reason = why_no_kernel(torch.device("cuda", 0), torch.bfloat16, 64)
    variable_length._has_flash_attention.cache_clear()
    assert reason == (None if expected else "this device has no FlashAttention")


def test_training_without_the_kernel_is_noted(tiny_bert, flash):
    """Once, before the first step: in fp32, or with heads of another size, on CUDA alone."""
    cuda, cpu = torch.device("cuda", 0), torch.device("cpu")
    model = tiny_bert(hidden_size=32)  # heads of 8
    assert note_of_slow_attention(model, cuda, torch.bfloat16) is None
    assert note_of_slow_attention(model, cpu, torch.float32) is None
    note = note_of_slow_attention(model, cuda, torch.float32)
    assert note is not None
    assert note.endswith("which is slow: attention is computed in float32")
    note = note_of_slow_attention(tiny_bert(hidden_size=48), cuda, torch.bfloat16)
    assert note is not None
    assert note.endswith("heads are of 12, which is no multiple of 8 up to 256")


# What it is asked


@pytest.mark.parametrize(("radius", "asked"), [(None, None), (5, 5)])
def test_the_operator_takes_what_it_is_given_and_has_a_derivative(radius, asked):
    """On tensors without values: its arguments, shapes, and what its derivative will be given."""
    shape, dtype = (1, 3, 20, 16), torch.bfloat16
    inputs = [torch.empty(shape, device="meta", dtype=dtype, requires_grad=True) for _ in range(3)]
    boundaries = torch.empty(4, device="meta", dtype=torch.int32)
    output = variable_length_attention(*inputs, boundaries, 9, 0.1, 0.5, radius)
    assert output.shape == (1, 20, 3, 16)
    assert output.dtype == dtype
    node = output.grad_fn.next_functions[0][0]
    assert node.name() == "FlashAttentionBackward0"
    assert (node._saved_dropout_p, node._saved_scale) == (0.1, 0.5)
    assert (node._saved_max_q, node._saved_max_k, node._saved_is_causal) == (9, 9, False)
    assert node._saved_window_size_left == node._saved_window_size_right == asked
    output.sum().backward()
    assert all(tensor.grad.shape == shape for tensor in inputs)


# What it computes

HEADS, SIZE, RATE = 2, 64, 0.2
LENGTHS = (40, 3, 64, 17, 64, 150, 1, 300)


def draw(lengths=LENGTHS, dtype=torch.bfloat16) -> tuple[list[Tensor], Packing]:
    """Query, key and value on the GPU, and where sequences begin."""
    generator = torch.Generator().manual_seed(5)
    shape = (1, sum(lengths), HEADS, SIZE)
    made = [torch.randn(shape, generator=generator).to("cuda", dtype) for _ in range(3)]
    boundaries = torch.tensor([0, *lengths]).cumsum(0).int().to("cuda")
    packing = Packing(tuple((1, length) for length in lengths), boundaries, max(lengths))
    return [tensor.transpose(1, 2).requires_grad_() for tensor in made], packing


def attend(inputs, packing: Packing, dropout=RATE, seed=1, window=None) -> Tensor:
    torch.manual_seed(seed)
    output, _ = packed_attention(
        nn.Identity(), *inputs, None, packing=packing, dropout=dropout, sliding_window=window
    )
    return output[0].transpose(0, 1)  # [heads, tokens, size]


def kept_of(inputs, packing: Packing, **options) -> list[Tensor]:
    """What the kernel makes of the probabilities, [heads, length, length] of each sequence.

    Attention is linear in its values: for values that are rows of the identity it is the
    probabilities themselves, so many keys at a time as a head is wide.
    """
    query, key, value = inputs
    lengths = packing.boundaries.diff().tolist()
    parts = []
    with torch.no_grad():
        for first in range(0, packing.max_length, SIZE):
            places = torch.cat([torch.arange(length) for length in lengths])
            rows = nn.functional.one_hot((places - first).clamp(-1, SIZE) + 1, SIZE + 2)[:, 1:-1]
            ones = rows.to(value)[None, None].expand_as(value)
            parts.append(attend([query, key, ones.contiguous()], packing, **options))
    found = torch.cat(parts, dim=2).split(lengths, dim=1)
    return [part[:, :, :length].double() for part, length in zip(found, lengths, strict=True)]


def exact(inputs, packing: Packing, kept: list[Tensor] | None, window=None) -> Tensor:
    """The same in fp64 with these probabilities kept (all where None), and its gradient."""
    lengths = packing.boundaries.diff().tolist()
    outputs = []
    for place, (q, k, v) in enumerate(
        zip(*(tensor[0].split(lengths, dim=1) for tensor in inputs), strict=True)
    ):
        scores = q @ k.transpose(1, 2) / math.sqrt(SIZE)
        if window is not None:
            places = torch.arange(lengths[place], device=q.device)
            scores = scores.masked_fill((places[:, None] - places).abs() >= window, -torch.inf)
        probabilities = scores.softmax(dim=-1)
        if kept is not None:
            probabilities = probabilities * (kept[place] > 0) / (1 - RATE)
        outputs.append(probabilities @ v)
    return torch.cat(outputs, dim=1)


def relative(found: Tensor, expected: Tensor) -> float:
    return ((found.double() - expected).norm() / expected.norm()).item()


def doubled(inputs) -> list[Tensor]:
    return [tensor.detach().double().requires_grad_() for tensor in inputs]


@on_gpu
@pytest.mark.gpu
def test_the_kernel_drops_the_share_that_it_is_asked_to_and_scales_the_rest():
    inputs, packing = draw()
    assert has_kernel(inputs[0])
    dropped, whole = kept_of(inputs, packing), kept_of(inputs, packing, dropout=0.0)
    kept = torch.cat([(part > 0).flatten() for part in dropped]).double()
    # The share is known in units of 1/256.
    assert abs(kept.mean().item() - (1 - RATE)) < 1 / 256 + 5 * 0.5 / len(kept) ** 0.5
    for one, other in zip(dropped, whole, strict=True):
        assert (other > 0).all()
        ratios = (one / other)[one > 0]
        assert (ratios * (1 - RATE) - 1).abs().max() < 0.02
    # Heads, rows and sequences of one length are dropped independently of each other.
    masks = [part > 0 for part in dropped]
    assert not torch.equal(masks[2], masks[4])
    assert not torch.equal(masks[5][0], masks[5][1])
    by_row = masks[7].double().mean(dim=2)
    assert by_row.std().item() == pytest.approx((RATE * (1 - RATE) / 300) ** 0.5, rel=0.2)


@on_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("window", [None, 20])
def test_output_and_gradient_with_dropout_are_those_of_the_same_mask(window):
    """The mask is the kernel's own; 8 bits of mantissa set the tolerance."""
    inputs, packing = draw()
    kept = kept_of(inputs, packing, window=window)
    others = doubled(inputs)
    output, expected = attend(inputs, packing, window=window), exact(others, packing, kept, window)
    assert relative(output, expected) < 0.01
    weights = torch.randn_like(output)
    (output * weights).sum().backward()
    (expected * weights.double()).sum().backward()
    for found, other in zip(inputs, others, strict=True):
        assert relative(found.grad, other.grad) < 0.02
    # With another mask it is something else.
    assert relative(attend(inputs, packing, seed=2, window=window), expected) > 0.1


@on_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("window", [None, 20])
def test_output_and_gradient_without_dropout(window):
    inputs, packing = draw()
    others = doubled(inputs)
    output = attend(inputs, packing, dropout=0.0, window=window)
    expected = exact(others, packing, None, window)
    assert relative(output, expected) < 0.01
    weights = torch.randn_like(output)
    (output * weights).sum().backward()
    (expected * weights.double()).sum().backward()
    for found, other in zip(inputs, others, strict=True):
        assert relative(found.grad, other.grad) < 0.02


@on_gpu
@pytest.mark.gpu
def test_the_same_seed_drops_the_same_twice():
    inputs, packing = draw()
    one, two, other = (attend(inputs, packing, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    torch.manual_seed(3)
    first, second = (
        packed_attention(nn.Identity(), *inputs, None, packing=packing, dropout=RATE)[0]
        for _ in range(2)
    )
    assert not torch.equal(first, second)  # nor does each layer drop what the one before dropped


@on_gpu
@pytest.mark.gpu
def test_fp32_takes_sequences_of_one_length_at_a_time():
    inputs, packing = draw(dtype=torch.float32)
    assert not has_kernel(inputs[0])
    lengths = packing.boundaries.diff().tolist()
    output = attend(inputs, packing, dropout=0.0)
    each = zip(*(tensor[0].split(lengths, dim=1) for tensor in inputs), strict=True)
    expected = torch.cat([scaled_dot_product_attention(q, k, v) for q, k, v in each], dim=1)
    torch.testing.assert_close(output, expected, rtol=1e-3, atol=1e-3)
