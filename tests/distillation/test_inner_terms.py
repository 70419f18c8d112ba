"""Terms that look inside the models, against hidden states that transformers itself gives."""

import re
from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loss_settings import by_name, weights
from packed_batches import make_masker, random_split
from paired_batches import KEPT, NUM_TEACHER, paired_split
from task_models import each_task, make_inputs, make_model, outputs_of, run_padded
from tiny_families import HIDDEN, exact_attention, tiny_masked_lm
from torch import Tensor

from distilcli.batches.masked import PackedBatch, pack_masked
from distilcli.config.losses import LossConfig, TaskLossConfig
from distilcli.distillation.inner_terms import Looks, check_terms
from distilcli.distillation.loss_modules import Distillation, TaskDistillation
from distilcli.distillation.teachers import PlacedTeacher
from distilcli.errors import ConfigError
from distilcli.losses.hidden_states import uniform_layers
from distilcli.losses.inside import InnerTerm, Pair, Place, Shape
from distilcli.losses.table import MASKED_LM_TERMS
from distilcli.models.families import FAMILIES
from distilcli.tasks.inputs import pack_inputs

LENGTHS = [3, 12, 12, 30, 7, 5]
each_family = pytest.mark.parametrize("family", FAMILIES)
CLOSE = {"rtol": 2e-5, "atol": 1e-6, "check_dtype": False}  # terms are computed in fp32
ONLY_INNER = dict.fromkeys(("soft_targets", "masked_lm", "hidden_cosine"), 0.0)


def loss_of(**of_terms: float) -> LossConfig:
    """The weights of the terms; those by default are 0."""
    return LossConfig.model_validate(weights(**ONLY_INNER | of_terms))


def of_states(distance: str = "mse", layers: str | list[int | None] = "uniform") -> LossConfig:
    section = {"weight": 1.5, "distance": distance, "layers": layers}
    return LossConfig.model_validate(weights(**ONLY_INNER) | {"hidden_states": section})


@pytest.fixture
def batch(tiny_tokenizer) -> PackedBatch:
    split = random_split(LENGTHS, tiny_tokenizer)
    return pack_masked(split, range(len(LENGTHS)), make_masker(tiny_tokenizer), 1)


def models(family: str, student_layers: int = 2, teacher_layers: int = 5, width: int = HIDDEN):
    """A student, of this width, and a deeper teacher, in fp64."""
    names = FAMILIES[family].settings
    student = tiny_masked_lm(
        family, seed=1, num_layers=student_layers, **{names.hidden_size: width}
    )
    return student.double(), tiny_masked_lm(family, num_layers=teacher_layers).double()


def states_of(model, row) -> list[Tensor]:
    """Hidden states of all layers, each sequence run alone by transformers."""
    model.set_attn_implementation(exact_attention(model))
    runs = [
        model(input_ids=ids[None], output_hidden_states=True).hidden_states
        for ids in row.input_ids[0].split(list(row.lengths))
    ]
    return [torch.cat([states[0] for states in of_layer]) for of_layer in zip(*runs, strict=True)]


def gradients(student, total: Tensor) -> dict[str, Tensor | None]:
    names, parameters = zip(*student.named_parameters(), strict=True)
    wanting = [parameter.requires_grad_(True) for parameter in parameters]
    found = torch.autograd.grad(total, wanting, allow_unused=True, retain_graph=True)
    return dict(zip(names, found, strict=True))


def squared(student: Tensor, teacher: Tensor) -> Tensor:
    return sum(((s - t) ** 2).mean() for s, t in zip(student, teacher, strict=True))


def cosines(student: Tensor, teacher: Tensor) -> Tensor:
    norms = student.square().sum(-1).sqrt() * teacher.square().sum(-1).sqrt()
    return (1 - (student * teacher).sum(-1) / norms).sum()


@each_family
@pytest.mark.parametrize(
    ("distance", "layers", "compared"),
    [
        ("mse", "uniform", [(1, 3), (2, 5)]),
        ("cosine", "uniform", [(1, 3), (2, 5)]),
        ("mse", [0, None], [(1, 0)]),
    ],
)
def test_hidden_states_are_those_that_transformers_gives(family, distance, layers, compared, batch):
    student, teacher = models(family)
    states, of_teacher = (states_of(model, batch) for model in (student, teacher))
    plain = {"mse": squared, "cosine": cosines}[distance]
    expected = sum(plain(states[ours], of_teacher[theirs].detach()) for ours, theirs in compared)
    module = Distillation(student, PlacedTeacher(teacher), of_states(distance, layers))
    found = module(batch, [torch.tensor(0.3).double()])
    torch.testing.assert_close(found.terms[0], expected.detach(), **CLOSE)
    wanted = gradients(student, 0.3 * expected)
    for name, gradient in gradients(student, found.total).items():
        torch.testing.assert_close(gradient, wanted[name], **CLOSE, msg=name)
    assert sum(gradient is not None for gradient in wanted.values()) > 5


@each_family
def test_embeddings_are_what_the_first_layer_is_given(family, batch):
    student, teacher = models(family)
    expected = squared(states_of(student, batch)[0], states_of(teacher, batch)[0].detach())
    module = Distillation(student, PlacedTeacher(teacher), loss_of(embeddings=2.0))
    found = module(batch, [torch.ones(()).double()])
    torch.testing.assert_close(found.terms[0], expected.detach(), **CLOSE)
    wanted = gradients(student, expected)
    for name, gradient in gradients(student, found.total).items():
        torch.testing.assert_close(gradient, wanted[name], **CLOSE, msg=name)


# A student of another width


WIDE_TERMS = {"hidden_cosine": 0.7, "hidden_states": 1.0, "embeddings": 0.5}


def projected(module: Distillation, ours: list[Tensor], theirs: list[Tensor]) -> dict[str, Tensor]:
    """Each term by its formula, with the matrices that the module learns."""
    matrix = {name: one.weight for name, one in module.projections.items()}
    last = matrix["hidden_states"].T
    return {
        "hidden_cosine": cosines(ours[-1] @ matrix["hidden_cosine"].T, theirs[-1]),
        "hidden_states": squared(ours[1] @ last, theirs[3]) + squared(ours[2] @ last, theirs[5]),
        "embeddings": squared(ours[0] @ matrix["embeddings"].T, theirs[0]),
    }


@pytest.mark.parametrize("family", ["bert", "distilbert", "modernbert"])
def test_another_width_is_met_by_learned_projections(family, batch):
    student, teacher = models(family, width=24)
    ours, theirs = states_of(student, batch), [s.detach() for s in states_of(teacher, batch)]
    module = Distillation(student, PlacedTeacher(teacher), loss_of(**WIDE_TERMS), seed=3)
    expected = projected(module, ours, theirs)
    found = module(batch, [torch.tensor(weight).double() for weight in WIDE_TERMS.values()])
    values = by_name(module, found)
    for name, value in expected.items():
        torch.testing.assert_close(values[name], value.detach(), **CLOSE, msg=name)
    found.total.backward()
    trained = {name: one.grad for name, one in module.trained().items()}
    total = sum(weight * expected[name] for name, weight in WIDE_TERMS.items())
    wanted = torch.autograd.grad(total, list(module.trained().values()), allow_unused=True)
    for name, gradient in zip(trained, wanted, strict=True):
        torch.testing.assert_close(trained[name], gradient, **CLOSE, msg=name)
    assert {name for name in trained if name.startswith("projections.")} == {
        f"projections.{name}.weight" for name in WIDE_TERMS
    }


def test_projections_depend_on_the_seed_alone_and_keep_the_size_of_states():
    student, teacher = models("bert", width=24)

    def make(**more) -> dict[str, Tensor]:
        module = Distillation(student, PlacedTeacher(teacher), loss_of(**WIDE_TERMS), **more)
        return {name: one.weight.detach() for name, one in module.projections.items()}

    torch.manual_seed(1)
    first = make(seed=7)
    torch.manual_seed(2)
    again, other = make(seed=7), make(seed=8)
    assert all(torch.equal(weight, again[name]) for name, weight in first.items())
    assert not any(torch.equal(weight, other[name]) for name, weight in first.items())
    assert not torch.equal(first["hidden_states"], first["embeddings"])
    assert {tuple(weight.shape) for weight in first.values()} == {(HIDDEN, 24)}
    states = torch.randn(500, 24).double()
    ratio = (states @ first["hidden_states"].T).square().mean() / states.square().mean()
    assert 0.7 < ratio < 1.4


def test_models_of_one_width_have_no_projections():
    student, teacher = models("bert")
    module = Distillation(student, PlacedTeacher(teacher), loss_of(**WIDE_TERMS))
    assert len(module.projections) == 0
    assert module.trained().keys() == dict(student.named_parameters()).keys()


# What gets a gradient, and how a batch may be cut


def test_what_gets_no_gradient_is_frozen_and_nothing_else(batch):
    """Of the embeddings alone no layer gets one; of states after the first layer, that alone."""
    for loss, last in ((loss_of(embeddings=1.0), -1), (of_states(layers=[2, None]), 0)):
        student, teacher = models("bert")
        student.train()
        module = Distillation(student, PlacedTeacher(teacher), loss)
        state = torch.get_rng_state()
        module.freeze_unused(batch)
        assert torch.equal(torch.get_rng_state(), state)
        trained = {name for name, one in student.named_parameters() if one.requires_grad}
        assert trained == {
            name
            for name, _ in student.named_parameters()
            if "embeddings" in name or any(f".layer.{i}." in name for i in range(last + 1))
        }
        module(batch, [torch.ones(()).double()]).total.backward()
        assert {name for name, one in student.named_parameters() if one.grad is not None} == trained


def test_sums_do_not_depend_on_how_a_batch_is_cut(tiny_tokenizer):
    split, masker = random_split(LENGTHS, tiny_tokenizer), make_masker(tiny_tokenizer)
    student, teacher = models("modernbert", width=24)
    module = Distillation(student, PlacedTeacher(teacher), loss_of(**WIDE_TERMS))
    coefficients = [torch.tensor(weight).double() for weight in WIDE_TERMS.values()]
    whole = module(pack_masked(split, range(6), masker, 1), coefficients)
    cuts = ([0, 3], [5], [1, 2, 4])
    parts = [module(pack_masked(split, cut, masker, 1), coefficients) for cut in cuts]
    torch.testing.assert_close(sum(part.terms for part in parts), whole.terms, **CLOSE)
    parameters = list(module.trained().values())
    found, expected = (
        torch.autograd.grad(total, parameters, allow_unused=True)
        for total in (sum(part.total for part in parts), whole.total)
    )
    torch.testing.assert_close(
        [one for one in found if one is not None],
        [one for one in expected if one is not None],
        **CLOSE,
    )


# Tasks


@each_task
@pytest.mark.parametrize("body", ["bert", "distilbert", "modernbert"])
def test_on_a_task_the_inputs_are_compared_token_by_token(body, head, family):
    labels = 1 if family == "number" else 3
    student, teacher = (
        make_model(body, head, labels, num_layers=depth, seed=depth, width=width).double()
        for depth, width in ((1, 24), (3, 16))
    )
    inputs, samples = make_inputs([9, 5, 12, 3, 7], head, family, labels), [3, 0, 2, 4]
    loss = TaskLossConfig.model_validate(
        weights(soft_targets=0.0, labels=0.0, hidden_states=1.0, embeddings=0.5)
    )
    (first, last), of_teacher = (
        [run_padded(deepcopy(model), inputs, samples, after).hidden for after in range(depth + 1)]
        for model, depth in ((student, 1), (teacher, 3))
    )
    module = TaskDistillation(student, PlacedTeacher(teacher), outputs_of(head, family), loss)
    matrix = {name: one.weight.detach().T for name, one in module.projections.items()}
    expected = squared(last @ matrix["hidden_states"], of_teacher[3])
    expected = expected + 0.5 * squared(first @ matrix["embeddings"], of_teacher[0])
    batch = pack_inputs(inputs, samples)
    found = module(batch, [torch.tensor(weight).double() for weight in (1.0, 0.5)])
    torch.testing.assert_close(found.total, expected, **CLOSE)
    assert module.counts(batch) == [batch.num_tokens] * 2


# Two vocabularies


class Lengths(InnerTerm):
    """A term that remembers what it was shown."""

    name = "hidden_states"
    metric = "loss/hidden_states"

    def places(self, student: Shape, teacher: Shape) -> list[Pair]:
        place = Place("hidden_states", 1)
        return [Pair(place, place)]

    def sum(self, compared, lengths):
        self.lengths = list(lengths)
        [(student, teacher)] = compared
        self.shown = student.shape[0], teacher.shape[0]
        return (student - teacher).square().sum()


def test_of_two_vocabularies_the_tokens_that_both_read_are_compared(tiny_tokenizer):
    lengths = [6, 1, 14, 9, 2]
    masker = make_masker(tiny_tokenizer, vocab_size=len(KEPT))
    batch = pack_masked(paired_split(lengths), range(5), masker, 2, 0.5, KEPT)
    row = batch.teacher_row
    student = tiny_masked_lm("bert", seed=1, num_layers=2, vocab_size=len(KEPT)).double()
    teacher = tiny_masked_lm("bert", num_layers=4, vocab_size=NUM_TEACHER).double()
    ours, theirs = states_of(student, batch), states_of(teacher, row)
    expected = squared(ours[0][row.student_pairs], theirs[0][row.pairs]) + sum(
        squared(ours[i][row.student_pairs], theirs[2 * i][row.pairs]) for i in (1, 2)
    )
    loss = loss_of(hidden_states=1.0, embeddings=1.0)
    placed = PlacedTeacher(teacher, torch.from_numpy(KEPT))
    module = Distillation(student, placed, loss)
    found = module(batch, [torch.ones(()).double()] * 2)
    torch.testing.assert_close(found.total, expected, **CLOSE)
    assert module.counts(batch) == [row.pairs.shape[0]] * 2

    assert sum(row.pair_lengths) == row.pairs.shape[0] < batch.num_tokens
    ends = np.cumsum(batch.lengths)
    of_each = [
        int(((row.student_pairs >= end - n) & (row.student_pairs < end)).sum())
        for end, n in zip(ends, batch.lengths, strict=True)
    ]
    assert list(row.pair_lengths) == of_each
    term = Lengths(1.0, 1.0)
    module._looks = Looks([term], student, teacher)
    module.terms = (term,)
    module(batch, [torch.ones(()).double()])
    assert term.lengths == of_each
    assert term.shown == (sum(of_each), sum(of_each))


# What does not fit


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([2], "loss.hidden_states.layers: 1 entries, and the student has 2 layers"),
        ([2, 6], "loss.hidden_states.layers: 6 is over the 5 layers of the teacher"),
    ],
)
def test_layers_that_there_are_not_are_refused(layers, message):
    student, teacher = models("bert")
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_terms(MASKED_LM_TERMS, of_states(layers=layers), student, teacher)
    check_terms(MASKED_LM_TERMS, of_states(layers=[2, 5]), student, teacher)


def test_uniform_layers_are_evenly_spaced_and_end_with_the_last():
    assert uniform_layers(6, 12) == [2, 4, 6, 8, 10, 12]
    assert uniform_layers(4, 12) == [3, 6, 9, 12]
    assert uniform_layers(3, 3) == [1, 2, 3]
    assert uniform_layers(4, 6) == [2, 3, 5, 6]  # 1.5 and 4.5 are rounded up
    assert uniform_layers(6, 2) == [1, 1, 1, 1, 2, 2]


@given(st.integers(1, 40), st.integers(1, 40))
def test_uniform_layers_never_go_back(num_student_layers, num_teacher_layers):
    layers = uniform_layers(num_student_layers, num_teacher_layers)
    assert len(layers) == num_student_layers
    assert layers == sorted(layers)
    assert layers[0] >= 1
    assert layers[-1] == num_teacher_layers
