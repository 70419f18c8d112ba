"""Narrower models of every family: what is kept, how it is read, and that nothing else changes."""

import numpy as np
import pytest
import torch
from head_models import each_body, each_head, experiment_of, saved, task_of
from refusals_of_sizes import REFUSED
from task_models import CLASSES, make_inputs, make_model, run_padded
from tiny_experiments import word_tokenizer
from tiny_families import (
    HIDDEN,
    INNER,
    NUM_SPECIAL,
    VOCAB,
    exact_attention,
    tiny_config,
    tiny_masked_lm,
)
from torch import Tensor
from transformers import AutoModelForMaskedLM, PreTrainedModel

from distilcli.batches.packing import PackedSequences, positions, spread
from distilcli.config.models import CopiedStudent, RandomStudent
from distilcli.errors import ConfigError
from distilcli.models import families
from distilcli.models.attention import Packing, use_packed_attention
from distilcli.models.copying import copy_layers
from distilcli.models.families import FAMILIES, decoder, encoder_layers
from distilcli.models.narrowing import choices
from distilcli.models.narrowing.choices import HeadMoments, cut_heads, reading
from distilcli.models.narrowing.moments import Moments
from distilcli.models.narrowing.narrow import narrow, narrowed
from distilcli.models.narrowing.sizes import Sizes, resized, sizes_of, wanted_sizes
from distilcli.models.running import run_encoder, run_model, vocabulary_projection
from distilcli.models.saving import first_difference, save_model
from distilcli.models.students import build_student
from distilcli.models.task_models import build_task_student
from distilcli.tasks.inputs import pack_inputs

each_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
WHOLE = Sizes(HIDDEN, 4, INNER)
# Fewer heads, smaller heads, and inner states alone.
SMALLER_HEADS = Sizes(8, 4, 18)
NARROWER = [Sizes(12, 3, 18), SMALLER_HEADS, Sizes(HIDDEN, 4, 10)]
LENGTHS = (9, 3, 20, 1, 36, 12) * 3


def rows() -> list[Tensor]:
    draw = torch.Generator().manual_seed(1)
    return [torch.randint(NUM_SPECIAL, VOCAB, (length,), generator=draw) for length in LENGTHS]


def text(of: list[Tensor] | None = None) -> list[PackedSequences]:
    chosen = of or rows()
    lengths = tuple(map(len, chosen))
    position_ids, boundaries = positions(np.array(lengths))
    ids = torch.cat(chosen)[None]
    return [PackedSequences(ids, position_ids, boundaries, lengths, tuple(range(len(lengths))))]


def logits(model: PreTrainedModel) -> Tensor:
    """Of each sequence alone, as transformers runs it."""
    model.set_attn_implementation(exact_attention(model))
    with torch.no_grad():
        return torch.cat([model(input_ids=row[None]).logits[0] for row in rows()])


def packed_logits(model: PreTrainedModel) -> Tensor:
    use_packed_attention(model)
    [batch] = text()
    with torch.no_grad():
        features, weight, bias = vocabulary_projection(
            model, run_encoder(model, batch, Packing.of(batch))
        )
        return features @ weight.T + bias


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


# Every family


@each_family
@pytest.mark.parametrize("sizes", NARROWER, ids=str)
def test_a_narrower_model_is_a_plain_one_of_its_class(family, sizes, tmp_path):
    source = tiny_masked_lm(family)
    if sizes.hidden_size == family.embedding_width(source.config) != HIDDEN:
        pytest.skip("refused, as another test says")
    before = torch.random.get_rng_state()
    model = narrow(source, sizes, text())
    assert torch.equal(torch.random.get_rng_state(), before)
    assert type(model) is type(source)
    assert not model.training
    assert sizes_of(model.config) == sizes
    assert len(encoder_layers(model)) == len(encoder_layers(source))
    save_model(model, word_tokenizer(), tmp_path / "student")
    loaded, info = AutoModelForMaskedLM.from_pretrained(
        tmp_path / "student", output_loading_info=True
    )
    assert not any(info.values())
    assert type(loaded) is type(source)
    assert first_difference(loaded, model) is None
    torch.testing.assert_close(packed_logits(loaded), logits(model), rtol=1e-4, atol=1e-4)
    again = narrow(tiny_masked_lm(family), sizes, text())
    assert first_difference(again, loaded) is None


@each_family
def test_an_encoder_without_a_head_is_the_body_of_a_narrower_model(family):
    source = tiny_masked_lm(family)
    expected = narrow(source, Sizes(12, 3, 18), text()).base_model
    source = families.without_head(tiny_masked_lm(family))
    found = narrow(source, Sizes(12, 3, 18), text())
    assert type(found) is type(source)
    assert sizes_of(found.config) == Sizes(12, 3, 18)
    shapes = [{n: w.shape for n, w in m.state_dict().items()} for m in (found, expected)]
    assert shapes[0] == shapes[1]
    use_packed_attention(found)
    [batch] = text(rows()[:1])
    with torch.no_grad():
        hidden = run_encoder(found, batch, Packing.of(batch))
        found.set_attn_implementation(exact_attention(found))
        plain = found(input_ids=rows()[0][None]).last_hidden_state[0]
    torch.testing.assert_close(hidden, plain, rtol=1e-4, atol=1e-5)


@each_family
def test_with_the_sizes_of_the_source_it_is_the_source(family):
    source = tiny_masked_lm(family)
    assert first_difference(narrow(tiny_masked_lm(family), WHOLE, text()), source) is None
    assert narrowed(source, CopiedStudent(hidden_size=HIDDEN, num_heads=4), text) is source
    student = CopiedStudent(intermediate_size=INNER, layers=[0, 1, 2])
    assert (
        first_difference(build_student(student, source, 0), copy_layers(source, [0, 1, 2])) is None
    )


@each_family
def test_nothing_is_lost_of_what_nobody_reads(family):
    """Half of the inner states of each layer are read with weights of zero."""
    source = tiny_masked_lm(family)
    unread = torch.arange(INNER) % 2 == 1
    for layer in encoder_layers(source):
        with torch.no_grad():
            layer.get_submodule(family.layer.outer).weight[:, unread] = 0.0
    model = narrow(source, WHOLE._replace(inner_size=INNER // 2), text())
    torch.testing.assert_close(logits(model), logits(source), rtol=1e-4, atol=1e-4)


@each_family
def test_a_random_student_is_as_wide_as_asked(family):
    like = tiny_masked_lm(family)
    student = build_student(RandomStudent(hidden_size=12, num_heads=3, num_layers=2), like, 0)
    assert sizes_of(student.config) == Sizes(12, 3, 18)
    copied = CopiedStudent(hidden_size=12, num_heads=3, num_layers=2)
    other = build_student(copied, like, 0, sequences=text)
    shapes = [{n: w.shape for n, w in m.state_dict().items()} for m in (student, other)]
    assert shapes[0] == shapes[1]


@each_body
@each_head
def test_a_model_of_a_task_keeps_its_class_and_computes_what_transformers_does(
    body, head, tmp_path
):
    source = make_model(body, head, num_layers=2)
    shape = {"source": saved(source, tmp_path), "num_layers": 2, "hidden_size": 12, "num_heads": 3}
    student = build_task_student(experiment_of(shape), task_of(head), None)
    assert type(student) is CLASSES[body, head]
    assert sizes_of(student.config) == Sizes(12, 3, 18)
    inputs, samples = make_inputs([9, 5, 12, 3], head), [2, 0, 3]
    padded = run_padded(student, inputs, samples)
    use_packed_attention(student)
    outputs, hidden = run_model(student, pack_inputs(inputs, samples))
    torch.testing.assert_close(outputs, padded.outputs.float(), rtol=1e-4, atol=1e-5)
    assert hidden.shape[1] == 12


# How what is left out is made up for


def vectors(count: int = 500, size: int = 8, rank: int | None = None) -> Tensor:
    """Correlated vectors away from zero."""
    draw = torch.Generator().manual_seed(3)
    basis = torch.randn(rank or size, size, generator=draw, dtype=torch.float64)
    return torch.randn(count, rank or size, generator=draw, dtype=torch.float64) @ basis + 1.0


def moments_of(values: Tensor) -> Moments:
    moments = Moments(values.shape[1])
    for part in values.split(100):
        moments.add(part)
    return moments


@pytest.mark.parametrize("centred", [True, False])
def test_a_width_is_read_by_least_squares(centred, monkeypatch):
    monkeypatch.setattr(choices, "RIDGE", 0.0)
    values, kept = vectors(), torch.tensor([1, 4, 6])
    found = reading(moments_of(values), kept, centred=centred)
    known = values[:, kept]
    if centred:
        known = torch.cat([known, torch.ones(len(values), 1, dtype=torch.float64)], dim=1)
    expected = torch.linalg.lstsq(known, values).solution
    torch.testing.assert_close(found.matrix, expected[:3].T, rtol=1e-6, atol=1e-8)
    constant = expected[3] if centred else torch.zeros(8, dtype=torch.float64)
    torch.testing.assert_close(found.constant, constant, rtol=1e-6, atol=1e-8)
    assert torch.equal(found.matrix[kept], torch.eye(3, dtype=torch.float64))


def test_what_follows_from_the_rest_is_read_as_if_it_were_there(monkeypatch):
    monkeypatch.setattr(choices, "RIDGE", 1e-12)
    values = vectors(rank=3)
    found = reading(moments_of(values), torch.tensor([0, 2, 5]), centred=True)
    again = values[:, [0, 2, 5]] @ found.matrix.T + found.constant
    assert relative(again, values) < 1e-5


def test_of_a_ridge_what_is_kept_is_read_as_it_is_all_the_same():
    kept = torch.tensor([1, 4])
    found = reading(moments_of(vectors()), kept, centred=True)
    assert torch.equal(found.matrix[kept], torch.eye(2, dtype=torch.float64))


def second_moments(*values: Tensor) -> HeadMoments:
    return HeadMoments(*(one.T @ one / len(one) for one in values))


def test_whole_heads_are_those_that_say_most():
    weight = torch.ones(5, 8, dtype=torch.float64)
    weight[:, 2:4] *= 0.1
    output = torch.eye(8, dtype=torch.float64)
    moments = HeadMoments(output, output, output)
    cuts = cut_heads(weight, moments, Sizes(8, 4, 8), Sizes(6, 3, 8), rotates=False)
    for cut in cuts:
        assert cut.tolist() == [0, 1, 4, 5, 6, 7]


def test_smaller_heads_keep_every_score_and_value_that_fits():
    """Queries and values vary in 2 of the 4 directions of a head, so heads of 2 lose nothing."""
    draw = torch.Generator().manual_seed(5)

    def of_rank_two() -> Tensor:
        made = [
            torch.randn(200, 2, generator=draw, dtype=torch.float64)
            @ torch.randn(2, 4, generator=draw, dtype=torch.float64)
            for _ in range(2)
        ]
        return torch.cat(made, dim=1)

    query, value = of_rank_two(), of_rank_two()
    key = torch.randn(200, 8, generator=draw, dtype=torch.float64)
    weight = torch.randn(5, 8, generator=draw, dtype=torch.float64)
    moments = second_moments(value, query, key)
    cuts = cut_heads(weight, moments, Sizes(8, 2, 8), Sizes(4, 2, 8), rotates=False)
    for head in range(2):
        wide, small = slice(4 * head, 4 * head + 4), slice(2 * head, 2 * head + 2)
        expected = query[:, wide] @ key[:, wide].T / 2.0
        found = (query @ cuts.query.T)[:, small] @ (key @ cuts.key.T)[:, small].T / 2**0.5
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    kept = value @ cuts.value.T
    assert kept.shape == (200, 4)
    again = kept @ torch.linalg.lstsq(kept, value @ weight.T).solution
    torch.testing.assert_close(again, value @ weight.T, rtol=1e-6, atol=1e-6)


def test_smaller_heads_turn_pairs_as_fast_as_before():
    """Half of the pairs of a rotary head of 8 turn as fast as those of a head of 4 do."""
    draw = torch.Generator().manual_seed(5)
    query, key = (torch.randn(300, 8, generator=draw, dtype=torch.float64) for _ in range(2))
    query[:, [1, 3, 5, 7]] = 0.0  # pairs 1 and 3: numbers 1 and 5, 3 and 7
    moments = second_moments(query, query, key)
    weight = torch.ones(5, 8, dtype=torch.float64)
    cuts = cut_heads(weight, moments, Sizes(8, 1, 8), Sizes(4, 1, 8), rotates=True)
    assert cuts.query.nonzero()[:, 1].tolist() == [0, 2, 4, 6]
    found = (query @ cuts.query.T) @ (key @ cuts.key.T).T / 4**0.5
    torch.testing.assert_close(found, query @ key.T / 8**0.5, rtol=1e-9, atol=1e-9)
    frequencies = [10_000.0 ** (-pair / 4) for pair in (0, 2)]
    assert frequencies == [10_000.0 ** (-pair / 2) for pair in (0, 1)]


# A decoder of its own


@pytest.mark.parametrize("model_type", ["bert", "roberta", "modernbert"])
def test_a_decoder_that_is_not_tied_is_cut_as_what_reads(model_type, tmp_path):
    source = tiny_masked_lm(model_type, tie_word_embeddings=False)
    model = narrow(source, SMALLER_HEADS, text())
    assert decoder(model).weight is not model.get_input_embeddings().weight
    assert decoder(model).weight.shape == (VOCAB, 8)
    assert not model.config.tie_word_embeddings
    save_model(model, word_tokenizer(), tmp_path / "student")
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path / "student")
    torch.testing.assert_close(logits(loaded), logits(model))


# Sizes


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, (16, 4, 24)),
        ({"hidden_size": 8}, (8, 4, 12)),
        ({"hidden_size": 12}, (12, 4, 18)),
        ({"hidden_size": 12, "num_heads": 3}, (12, 3, 18)),
        ({"hidden_size": 8, "intermediate_size": 24}, (8, 4, 24)),
        ({"intermediate_size": 7}, (16, 4, 7)),
        ({"hidden_size": 1, "num_heads": 1}, (1, 1, 1)),
    ],
)
def test_what_is_not_said_is_as_in_the_source(asked, expected):
    config = tiny_config(FAMILIES["distilbert"])
    assert wanted_sizes(config, CopiedStudent(**asked)) == expected
    assert wanted_sizes(config, RandomStudent(**asked)) == expected


def test_heads_keep_their_size_where_their_number_does_not_fit():
    config = resized(tiny_config(FAMILIES["bert"]), Sizes(24, 4, 24))
    assert wanted_sizes(config, CopiedStudent(hidden_size=18)) == Sizes(18, 3, 18)
    rotating = resized(tiny_config(FAMILIES["modernbert"]), Sizes(24, 4, 24))
    assert wanted_sizes(rotating, CopiedStudent(hidden_size=12)) == Sizes(12, 2, 12)


@pytest.mark.parametrize(("model_type", "asked", "message", "hint"), REFUSED)
def test_sizes_that_cannot_be_are_refused(model_type, asked, message, hint):
    source = tiny_masked_lm(model_type)

    def nothing() -> list[PackedSequences]:
        raise AssertionError("text is asked for too early")

    with pytest.raises(ConfigError) as caught:
        narrowed(source, CopiedStudent(**asked), nothing)
    assert caught.value.message == message
    assert caught.value.hint == hint


# What is looked at


@pytest.mark.parametrize(
    ("lengths", "bounds", "expected"),
    [
        ([4] * 10, (5, 1000), [0, 2, 4, 6, 8]),
        ([4] * 10, (50, 1000), list(range(10))),
        ([4] * 10, (50, 8), [0, 5]),
        ([400] * 3, (50, 8), [0]),
    ],
)
def test_sequences_are_at_even_distances(lengths, bounds, expected):
    assert spread(np.array(lengths), *bounds).tolist() == expected


def test_narrower_by_least_squares_is_nearer_than_by_leaving_out(monkeypatch):
    """Of the same channels, heads and inner states."""
    source = tiny_masked_lm("distilbert")
    expected = logits(source)
    found = logits(narrow(source, SMALLER_HEADS, text()))
    plain = choices.reading

    def left_out(moments: Moments, cut: Tensor, *, centred: bool) -> choices.Reading:
        whole = plain(moments, cut, centred=centred)
        if cut.is_floating_point():
            return whole
        matrix = torch.eye(len(whole.matrix), dtype=torch.float64)[:, cut]
        return choices.Reading(matrix, torch.zeros_like(whole.constant))

    monkeypatch.setattr("distilcli.models.narrowing.narrow.reading", left_out)
    without = logits(narrow(source, SMALLER_HEADS, text()))
    assert relative(found, expected) < relative(without, expected)
