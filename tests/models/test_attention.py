"""Packed attention: what padded attention computes, without the padding."""

from copy import deepcopy
from dataclasses import replace
from functools import partial

import pytest
import torch
from packed_batches import make_masker, padded, random_split
from torch import nn

from distilcli.batches.masked import PackedBatch, pack_masked
from distilcli.errors import ModelError
from distilcli.models.attention import (
    Packing,
    packed_attention,
    use_packed_attention,
)
from distilcli.models.copying import copy_layers
from distilcli.models.families import encoder
from distilcli.models.running import run_encoder

LENGTHS = [3, 3, 7, 5, 5, 5, 20, 8, 3]


@pytest.fixture(params=["bert", "distilbert"])
def model(request, tiny_bert):
    bert = tiny_bert(num_layers=3)
    return bert if request.param == "bert" else copy_layers(bert, [0, 2])


@pytest.fixture(scope="module")
def batch(tiny_tokenizer) -> PackedBatch:
    split = random_split(LENGTHS, tiny_tokenizer)
    return pack_masked(split, range(len(LENGTHS)), make_masker(tiny_tokenizer), epoch=0)


def packed_and_eager(model, dtype):
    packed, eager = deepcopy(model).to(dtype), deepcopy(model).to(dtype)
    use_packed_attention(packed)
    eager.set_attn_implementation("eager")
    return packed, eager


def run_packed(model, batch: PackedBatch) -> torch.Tensor:
    return run_encoder(model, batch, Packing.of(batch))


def run_padded(model, batch: PackedBatch) -> torch.Tensor:
    ids, real = padded(batch)
    output = encoder(model)(input_ids=ids, attention_mask=real.long())
    return output.last_hidden_state[real]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 5e-6), (torch.float64, 1e-13)])
def test_packed_is_padded_forward_and_backward(model, batch, dtype, tolerance):
    packed, eager = packed_and_eager(model, dtype)
    one, other = run_packed(packed, batch), run_padded(eager, batch)
    assert one.shape == (sum(LENGTHS), 16)
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)
    weights = torch.randn_like(one)
    (one * weights).sum().backward()
    (other * weights).sum().backward()
    pairs = zip(encoder(packed).named_parameters(), encoder(eager).named_parameters(), strict=True)
    for (name, found), (_, expected) in pairs:
        scale = expected.grad.abs().max()
        # A key's bias shifts all scores of a query alike: its gradient is rounding alone.
        scale = max(scale.item(), 1.0)
        error = (found.grad - expected.grad).abs().max() / scale
        assert error < 4 * tolerance, name


def test_long_sequences_in_bf16_on_a_cpu_are_trained_in_fp32(batch):
    """Only inputs and output of attention are rounded, under autocast too; gradients likewise."""
    packing = replace(Packing.of(batch), max_length=513)
    inputs = [torch.randn(1, 2, sum(LENGTHS), 8).bfloat16().requires_grad_() for _ in range(3)]
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    with torch.autocast("cpu", torch.bfloat16):
        output, _ = packed_attention(nn.Module(), *inputs, None, packing=packing)
    expected, _ = packed_attention(nn.Module(), *exact, None, packing=packing)
    assert output.dtype == torch.bfloat16
    half_a_unit = 2.0**-8 * (1 + 1e-3)
    torch.testing.assert_close(output.double(), expected, rtol=half_a_unit, atol=1e-6)
    weights = torch.randn_like(output)
    (output * weights).sum().backward()
    (expected * weights.double()).sum().backward()
    for found, wanted in zip(inputs, exact, strict=True):
        torch.testing.assert_close(found.grad.double(), wanted.grad, rtol=half_a_unit, atol=1e-6)


def test_a_sequence_does_not_see_its_neighbours(model, tiny_tokenizer):
    packed, _ = packed_and_eager(model, torch.float64)
    masker = make_masker(tiny_tokenizer)
    split = random_split([9] * 6 + [4, 30], tiny_tokenizer)
    alone = run_packed(packed, pack_masked(split, [2], masker, 0))
    for samples in ([0, 2, 1], [2, 7], [6, 2], [7, 6, 3, 4, 2, 5]):
        batch = pack_masked(split, samples, masker, 0)
        start = sum(batch.lengths[: samples.index(2)])
        found = run_packed(packed, batch)[start : start + 9]
        torch.testing.assert_close(found, alone, rtol=1e-13, atol=1e-13)


def test_no_gradient_crosses_sequences(model, batch):
    packed, _ = packed_and_eager(model, torch.float64)
    packing = Packing.of(batch)
    embedded = packed.get_input_embeddings()(batch.input_ids).detach().requires_grad_()
    output = encoder(packed)(
        inputs_embeds=embedded, position_ids=batch.position_ids, packing=packing
    )
    first, second = packing.boundaries[4:6].tolist()
    output.last_hidden_state[0, first:second].square().sum().backward()
    touched = embedded.grad[0].abs().sum(dim=-1) > 0
    assert touched.nonzero().flatten().tolist() == list(range(first, second))


# What would not be computed


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"softcap": 30.0}, "softcap"),
        ({"softcap": 30.0, "is_causal": True}, "is_causal, softcap"),
    ],
)
def test_what_packed_attention_does_not_compute_is_refused(model, batch, given, named):
    """transformers hands such arguments through all layers."""
    use_packed_attention(model)
    with pytest.raises(ModelError, match=f"SelfAttention is called with {named}, which attention"):
        encoder(model)(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            packing=Packing.of(batch),
            **given,
        )


@pytest.mark.parametrize("given", ["encoder_hidden_states", "attention_mask"])
def test_states_of_another_model_and_masks_are_refused(given, tiny_tokenizer):
    """Of an encoder transformers hands on that there are none."""
    query, key, value = torch.randn(3, 1, 2, 4, 8)
    packing = packing_of((4,), tiny_tokenizer)
    nothing = {"attention_mask": None, "encoder_hidden_states": None}
    call = partial(packed_attention, nn.Identity(), query, key, value, packing=packing)
    assert call(**nothing)[0].shape == (1, 4, 2, 8)
    with pytest.raises(ModelError, match=f"is called with {given}, which attention"):
        call(**nothing | {given: value})


def packing_of(lengths: tuple[int, ...], tokenizer) -> Packing:
    split = random_split(lengths, tokenizer)
    return Packing.of(pack_masked(split, range(len(lengths)), make_masker(tokenizer), epoch=0))


def test_packing_finds_runs_of_equal_length(tiny_tokenizer):
    packing = packing_of(tuple(LENGTHS), tiny_tokenizer)
    assert packing.runs == ((2, 3), (1, 7), (3, 5), (1, 20), (1, 8), (1, 3))
    assert packing.boundaries.tolist() == [0, 3, 6, 13, 18, 23, 28, 48, 56, 59]
    assert packing.boundaries.dtype is torch.int32
    assert packing.max_length == 20
    assert packing_of((4,), tiny_tokenizer).runs == ((1, 4),)


# Dropout


def test_dropout_is_scaled_to_keep_the_mean(tiny_tokenizer):
    lengths = (4, 4, 6)
    packing = packing_of(lengths, tiny_tokenizer)
    query, key, value = (torch.randn(1, 2, sum(lengths), 8, dtype=torch.float64) for _ in range(3))

    def attend(dropout: float) -> torch.Tensor:
        return packed_attention(
            nn.Identity(), query, key, value, None, packing=packing, dropout=dropout
        )[0]

    draws = torch.stack([attend(0.3) for _ in range(1_000)])
    assert draws[0].shape == (1, sum(lengths), 2, 8)
    assert not torch.equal(draws[0], draws[1])
    error = (draws.mean(dim=0) - attend(0.0)).abs()
    assert (error < 5 * draws.std(dim=0) / len(draws) ** 0.5).all()
    assert torch.equal(attend(0.0), attend(0.0))


@pytest.mark.parametrize("kind", ["attention", "everything", "nothing"])
def test_dropout_of_the_model_acts_in_training_alone(kind, tiny_bert, batch):
    rate = {"attention": (0.0, 0.5), "everything": (0.5, 0.5), "nothing": (0.0, 0.0)}[kind]
    bert = tiny_bert(hidden_dropout_prob=rate[0], attention_probs_dropout_prob=rate[1])
    for model in (bert, copy_layers(bert, [1, 2])):
        use_packed_attention(model)
        model.eval()
        still = run_packed(model, batch)
        assert torch.equal(run_packed(model, batch), still)
        model.train()
        one, other = run_packed(model, batch), run_packed(model, batch)
        assert torch.equal(one, other) == torch.equal(one, still) == (kind == "nothing")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("head_size", [4, 16])
@pytest.mark.parametrize("layers", [None, [0, 2]])
def test_attention_in_bf16_on_cuda_is_the_padded_attention(layers, head_size, tiny_bert, batch):
    """Heads of 16 go through the variable-length kernel; 8 bits of mantissa set the tolerance."""
    bert = tiny_bert(num_layers=3, hidden_size=4 * head_size)
    model = copy_layers(bert, layers) if layers else bert
    packed, eager = packed_and_eager(model, torch.bfloat16)
    device = torch.device("cuda")
    moved = batch.to(device)
    found = run_encoder(packed.to(device), moved, Packing.of(moved)).float().cpu()
    expected = run_padded(eager.float(), batch)
    assert (found - expected).norm() < 0.03 * expected.norm()
