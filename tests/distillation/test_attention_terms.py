"""Terms on queries, keys and values, against the attention that transformers itself gives."""

from collections.abc import Callable
from functools import partial

import pair_formulas
import pytest
import torch
from loss_settings import weights
from packed_batches import make_masker, random_split
from paired_batches import KEPT, NUM_TEACHER, paired_split
from tiny_families import HIDDEN, tiny_masked_lm
from torch import Tensor

from distilcli.batches.masked import PackedBatch, pack_masked
from distilcli.config.losses import LossConfig
from distilcli.distillation.inner_terms import check_terms
from distilcli.distillation.loss_modules import Distillation
from distilcli.distillation.teachers import PlacedTeacher
from distilcli.errors import ConfigError
from distilcli.losses.table import MASKED_LM_TERMS
from distilcli.models.families import FAMILIES, encoder_layers, family_of

LENGTHS = [3, 12, 12, 30, 7, 5]
HEADS = 4
each_family = pytest.mark.parametrize("family", FAMILIES)
CLOSE = {"rtol": 2e-5, "atol": 1e-6}


def loss_of(name: str, **settings: object) -> LossConfig:
    """One term alone, with a weight of 1.5."""
    others = dict.fromkeys(("soft_targets", "masked_lm", "hidden_cosine"), 0.0)
    return LossConfig.model_validate(weights(**others) | {name: {"weight": 1.5, **settings}})


@pytest.fixture
def batch(tiny_tokenizer) -> PackedBatch:
    split = random_split(LENGTHS, tiny_tokenizer)
    return pack_masked(split, range(len(LENGTHS)), make_masker(tiny_tokenizer), 1)


def models(family: str, width: int = HIDDEN, heads: int = HEADS):
    """A student, of this width, and a deeper teacher, in fp64."""
    names = FAMILIES[family].settings
    sizes = {names.hidden_size: width, names.num_attention_heads: heads}
    student = tiny_masked_lm(family, seed=1, num_layers=2, **sizes)
    return student.double(), tiny_masked_lm(family, num_layers=5).double()


def in_each_sequence(model, row, look: Callable) -> list:
    """What a function of the model and its inputs gives for each sequence, run by transformers."""
    model.set_attn_implementation("eager")
    return [look(model, ids[None]) for ids in row.input_ids[0].split(list(row.lengths))]


def projected(model, ids: Tensor, layer: int, role: str) -> Tensor:
    """Queries, keys or values of a layer, [tokens, width]."""
    paths = family_of(model).layer
    index, count = paths.part(role)
    found = []
    module = encoder_layers(model)[layer].get_submodule(paths.roles[role])
    with module.register_forward_hook(lambda _m, _i, output: found.append(output[0])):
        model(input_ids=ids)
    return found[0].chunk(count, dim=1)[index]


def attended(model, ids: Tensor, layer: int) -> Tensor:
    """Probabilities of attention in a layer, [heads, tokens, tokens]."""
    return model(input_ids=ids, output_attentions=True).attentions[layer][0]


def agree(student, teacher, loss: LossConfig, batch: PackedBatch, expected: Tensor) -> None:
    """The sum of the only term, and the gradient of the student's parameters."""
    wanted = _gradients(student, 0.3 * expected)
    module = Distillation(student, PlacedTeacher(teacher), loss)
    found = module(batch, [torch.tensor(0.3).double()])
    torch.testing.assert_close(found.terms[0].double(), expected.detach().double(), **CLOSE)
    for name, gradient in _gradients(student, found.total).items():
        torch.testing.assert_close(gradient, wanted[name], **CLOSE, msg=name)
    assert sum(bool(gradient.any()) for gradient in wanted.values()) >= 3


def _gradients(student, total: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*student.named_parameters(), strict=True)
    found = torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True)
    return dict(zip(names, found, strict=True))


# Relations


@each_family
@pytest.mark.parametrize(
    ("settings", "layer", "heads"),
    [
        ({"num_heads": 2}, 4, 2),
        ({"num_heads": 8, "teacher_layer": 3, "relations": ["value", "query"]}, 2, 8),
    ],
)
def test_relations_are_those_of_what_each_family_projects(family, settings, layer, heads, batch):
    student, teacher = models(family)
    expected = 0.0
    for role in settings.get("relations", ("query", "key", "value")):
        one = torch.cat(in_each_sequence(student, batch, partial(projected, layer=1, role=role)))
        other = torch.cat(
            in_each_sequence(teacher, batch, partial(projected, layer=layer, role=role))
        ).detach()
        expected = expected + pair_formulas.loss(
            pair_formulas.kl, (one, one), (other, other), batch.lengths, heads
        )
    agree(student, teacher, loss_of("attention_relations", **settings), batch, expected)


def test_relations_of_models_of_other_widths_and_heads(batch):
    """12 and 16 have the divisors 1, 2 and 4; by default the teacher's parts have 16 numbers."""
    student, teacher = models("bert", width=12, heads=3)
    for settings, heads in (({"num_heads": 4}, 4), ({}, 1)):
        expected = 0.0
        for role in ("query", "key", "value"):
            one, other = (
                torch.cat(in_each_sequence(model, batch, partial(projected, layer=n, role=role)))
                for model, n in ((student, 1), (teacher, 4))
            )
            expected = expected + pair_formulas.loss(
                pair_formulas.kl, (one, one), (other.detach(),) * 2, batch.lengths, heads
            )
        agree(student, teacher, loss_of("attention_relations", **settings), batch, expected)


# Distributions


@each_family
@pytest.mark.parametrize(
    ("layers", "compared"), [("last", [(1, 4)]), ([4, 5], [(0, 3), (1, 4)]), ([1, None], [(0, 0)])]
)
def test_distributions_are_those_that_transformers_attends_with(family, layers, compared, batch):
    """Rotated, and within their windows, where a family has that."""
    student, teacher = models(family)
    expected = 0.0
    for ours, theirs in compared:
        q = in_each_sequence(student, batch, partial(attended, layer=ours))
        p = in_each_sequence(teacher, batch, partial(attended, layer=theirs))
        for of_student, of_teacher in zip(q, p, strict=True):
            seen = of_teacher > 0
            of_teacher = of_teacher[seen].detach()
            expected = expected + (of_teacher * (of_teacher / of_student[seen]).log()).sum() / HEADS
    agree(student, teacher, loss_of("attention_distributions", layers=layers), batch, expected)


def test_scores_are_compared_before_the_softmax(batch):
    student, teacher = models("bert")
    expected = 0.0
    for ours, theirs in ((0, 2), (1, 4)):  # uniform: 5/2, rounded up to the third, and the fifth
        both = []
        for model, layer in ((student, ours), (teacher, theirs)):
            look = [partial(projected, layer=layer, role=role) for role in ("query", "key")]
            both.append(tuple(torch.cat(in_each_sequence(model, batch, one)) for one in look))
        of_student, of_teacher = both
        expected = expected + pair_formulas.loss(
            pair_formulas.mse,
            of_student,
            tuple(one.detach() for one in of_teacher),
            batch.lengths,
            HEADS,
        )
    loss = loss_of("attention_distributions", distance="mse", layers="uniform")
    agree(student, teacher, loss, batch, expected)


# Two vocabularies


def test_relations_are_between_the_tokens_that_both_models_read(tiny_bert, tiny_tokenizer):
    """A student with a part of the vocabulary cuts some words into more tokens."""
    student = tiny_bert(num_layers=2, seed=1, vocab_size=len(KEPT)).double()
    teacher = tiny_bert(num_layers=3, vocab_size=NUM_TEACHER).double()
    masker = make_masker(tiny_tokenizer, vocab_size=len(KEPT))
    batch = pack_masked(paired_split([6, 1, 14, 9, 2]), range(5), masker, 2, 0.5, KEPT)
    row = batch.teacher_row
    own = torch.repeat_interleave(torch.arange(5), torch.tensor(row.lengths))[row.pairs]
    lengths = torch.bincount(own, minlength=5).tolist()
    assert 0 < sum(lengths) < min(batch.num_tokens, row.num_tokens)
    expected = 0.0
    for role in ("query", "key", "value"):
        one = torch.cat(in_each_sequence(student, batch, partial(projected, layer=1, role=role)))
        other = torch.cat(in_each_sequence(teacher, row, partial(projected, layer=2, role=role)))
        one, other = one[row.student_pairs], other[row.pairs].detach()
        expected = expected + pair_formulas.loss(
            pair_formulas.kl, (one, one), (other, other), lengths, 4
        )
    loss = loss_of("attention_relations", num_heads=4)
    wanted = _gradients(student, 0.3 * expected)
    module = Distillation(student, PlacedTeacher(teacher, torch.from_numpy(KEPT)), loss)
    assert module.counts(batch) == [sum(lengths)]
    found = module(batch, [torch.tensor(0.3).double()])
    torch.testing.assert_close(found.terms[0].double(), expected.detach(), **CLOSE)
    for name, gradient in _gradients(student, found.total).items():
        torch.testing.assert_close(gradient, wanted[name], **CLOSE, msg=name)


# What cannot be compared


@pytest.mark.parametrize(
    ("name", "settings", "sizes", "message", "hint"),
    [
        (
            "attention_relations",
            {"num_heads": 8},
            {"width": 12, "heads": 3},
            r"loss\.attention_relations\.num_heads: 8 does not divide 12, the width of the student",
            "Use one of 1, 2, 4, or null.",
        ),
        (
            "attention_relations",
            {"num_heads": 3},
            {"width": 12, "heads": 3},
            r"loss\.attention_relations\.num_heads: 3 does not divide 16, the width of the teacher",
            "Use one of 1, 2, 4, or null.",
        ),
        (
            "attention_relations",
            {"teacher_layer": 6},
            {},
            r"loss\.attention_relations\.teacher_layer: 6 is over the 5 layers of the teacher",
            "Use 1 ... 5, or null for the last one.",
        ),
        (
            "attention_distributions",
            {},
            {"heads": 2},
            r"loss\.attention_distributions\.weight: .* the student has 2 heads, the teacher 4",
            "Use loss.attention_relations, which compares models with any heads, or a student "
            "with 4 heads.",
        ),
        (
            "attention_distributions",
            {"layers": [5]},
            {},
            r"loss\.attention_distributions\.layers: 1 entries, and the student has 2 layers",
            "Name a layer of the teacher for each layer of the student; null leaves one out.",
        ),
        (
            "attention_distributions",
            {"layers": [1, 6]},
            {},
            r"loss\.attention_distributions\.layers: 6 is over the 5 layers of the teacher",
            "Use 1 ... 5.",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_its_key(name, settings, sizes, message, hint):
    student, teacher = models("bert", **sizes)
    with pytest.raises(ConfigError, match=message) as raised:
        check_terms(MASKED_LM_TERMS, loss_of(name, **settings), student, teacher)
    assert raised.value.hint == hint


def test_layers_that_see_less_are_not_compared_with_others():
    student, teacher = models("modernbert")
    loss = loss_of("attention_distributions", layers=[5, 4])
    with pytest.raises(
        ConfigError,
        match=r"loss\.attention_distributions\.layers: a token in layer 1 of the student sees its "
        r"whole sequence, and one in layer 5 of the teacher 4 tokens to either side",
    ):
        check_terms(MASKED_LM_TERMS, loss, student, teacher)
