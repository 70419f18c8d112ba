"""Teacher, student and losses together, against padded models of transformers and the formulas."""

from copy import deepcopy
from itertools import pairwise

import formulas
import pytest
import torch
from loss_settings import by_name, inside, weights
from packed_batches import make_masker, padded, random_split
from torch import Tensor
from transformers import PreTrainedModel

from distilcli.batches.masked import PackedBatch, pack_masked
from distilcli.config.losses import LossConfig
from distilcli.distillation.loss_modules import Distillation
from distilcli.distillation.teachers import PlacedTeacher
from distilcli.losses.table import MASKED_LM_TERMS
from distilcli.models.copying import copy_layers
from distilcli.models.families import encoder

LENGTHS = [3, 12, 12, 30, 7, 19, 5]
DEFAULT = LossConfig()


def placed(teacher: PreTrainedModel | None) -> PlacedTeacher | None:
    return None if teacher is None else PlacedTeacher(teacher)


def loss_of(**settings) -> LossConfig:
    """Weights by the names of the terms; and other settings."""
    of_terms = {name: value for name, value in settings.items() if isinstance(value, float)}
    temperature = of_terms.pop("temperature", 2.0)
    others = {name: value for name, value in settings.items() if not isinstance(value, float)}
    return LossConfig.model_validate(weights(**of_terms) | others | {"temperature": temperature})


NOT_BY_DEFAULT = {
    name: 1.0
    for name, weight in DEFAULT.weights.items()
    if not weight and name not in inside(MASKED_LM_TERMS)  # those: test_inner_terms.py
}
ALL_TERMS = loss_of(**NOT_BY_DEFAULT)
NONE = {"soft_targets": 0.0, "masked_lm": 0.0, "hidden_cosine": 0.0}
LOSSES = {
    "default": DEFAULT,
    "masked": loss_of(positions="masked"),
    "sampled": loss_of(positions={"sample": 0.3}, **NOT_BY_DEFAULT),
    "all terms": ALL_TERMS,
    "all terms, masked": loss_of(positions="masked", temperature=4.0, **NOT_BY_DEFAULT),
    "soft targets": loss_of(**NONE | {"soft_targets": 5.0}),
    "hard targets": loss_of(**NONE | {"masked_lm": 2.0}),
    "cosine": loss_of(**NONE | {"hidden_cosine": 1.0}),
    "logits": loss_of(**NONE | {"logit_mse": 1.0}),
}
each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


@pytest.fixture(params=["bert", "distilbert"])
def student(request, tiny_bert):
    bert = tiny_bert(num_layers=2, seed=1).double()
    return bert if request.param == "bert" else copy_layers(bert, [0, 1])


@pytest.fixture
def teacher(tiny_bert):
    return tiny_bert().double()


@pytest.fixture(scope="module")
def split(tiny_tokenizer):
    return random_split(LENGTHS, tiny_tokenizer)


@pytest.fixture
def batch(request, split, tiny_tokenizer) -> PackedBatch:
    """All sequences in one, with the positions that the test's `loss`, if it has one, looks at."""
    loss = request.getfixturevalue("loss") if "loss" in request.fixturenames else DEFAULT
    samples = range(len(LENGTHS))
    return pack_masked(split, samples, make_masker(tiny_tokenizer), 3, loss.unmasked_share)


def plain_run(model, batch: PackedBatch) -> tuple[Tensor, Tensor]:
    """Logits and last hidden states of the real tokens of the padded batch, row by row."""
    model.set_attn_implementation("eager")
    ids, real = padded(batch)
    output = model(input_ids=ids, attention_mask=real.long(), output_hidden_states=True)
    return output.logits[real], output.hidden_states[-1][real]


def plain_terms(student, teacher, batch: PackedBatch, loss: LossConfig) -> dict[str, Tensor]:
    """The sum of each term by the formulas, from full logits."""
    z, hidden = plain_run(student, batch)
    is_masked = batch.labels != -100
    found = {"masked_lm": formulas.cross_entropy(z[is_masked], batch.labels[is_masked])}
    if teacher is None:
        return found
    v, teacher_hidden = (tensor.detach() for tensor in plain_run(teacher, batch))
    soft = is_masked.clone()
    if loss.positions == "all":
        soft[:] = True
    elif loss.positions != "masked":
        soft[batch.soft_positions] = True
        assert is_masked.sum() < soft.sum() < len(soft)
    for name, formula in formulas.DIVERGENCES.items():
        found[name] = formula(z[soft], v[soft], loss.temperature)
    return found | {
        "hidden_cosine": formulas.cosine_distance(hidden, teacher_hidden),
        "logit_mse": formulas.squared_error(z[soft], v[soft]),
    }


def coefficients_of(module: Distillation, counts: list[int] | None = None) -> list[Tensor]:
    """weight / count, as the loop gives it; counts that differ from term to term unless said."""
    counts = counts or [50 - 7 * place for place in range(len(module.terms))]
    pairs = zip(module.alphas(), counts, strict=True)
    return [torch.tensor(alpha / max(1, n)).double() for alpha, n in pairs]


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-6) -> None:
    # The cosine is computed in float32 whatever the models are in.
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance, check_dtype=False)


def gradients(module: torch.nn.Module) -> dict[str, Tensor | None]:
    return {name: parameter.grad for name, parameter in module.named_parameters()}


@pytest.mark.slow
@each_loss
@pytest.mark.parametrize("with_teacher", [True, False], ids=["teacher", "alone"])
def test_sums_and_gradients_are_the_plain_computation(student, teacher, batch, loss, with_teacher):
    if not with_teacher:
        teacher = None
        loss = loss_of(masked_lm=2.0)  # else there is nothing to learn
    plain_student, plain_teacher = deepcopy(student), deepcopy(teacher)
    module = Distillation(student, placed(teacher), loss)
    coefficients = coefficients_of(module)
    found = module(batch, coefficients)
    terms = plain_terms(plain_student, plain_teacher, batch, loss)
    total = sum(w * terms[name] for name, w in by_name(module, coefficients).items())
    close(found.total, total)
    for name, value in by_name(module, found).items():
        close(value, terms[name].detach())
    assert not found.terms.requires_grad

    found.total.backward()
    total.backward()
    expected = gradients(plain_student)
    for name, gradient in gradients(student).items():
        if gradient is None:
            # Frozen: a part of the head that no loss looks at.
            assert expected[name] is None or not expected[name].any(), name
        else:
            close(gradient, expected[name])


@each_loss
def test_every_trained_parameter_gets_a_gradient(student, teacher, batch, loss):
    """DDP waits for each of them."""
    module = Distillation(student, placed(teacher), loss)
    module.freeze_unused(batch)
    assert all(parameter.grad is None for parameter in module.parameters())
    module(batch, coefficients_of(module)).total.backward()
    for name, parameter in student.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


def test_float64_is_exact_without_the_cosine(student, teacher, batch):
    loss = loss_of(hidden_cosine=0.0, **NOT_BY_DEFAULT)
    plain_student, plain_teacher = deepcopy(student), deepcopy(teacher)
    module = Distillation(student, placed(teacher), loss)
    found = module(batch, coefficients_of(module))
    terms = plain_terms(plain_student, plain_teacher, batch, loss)
    for name, value in by_name(module, found).items():
        close(value, terms[name].detach(), 1e-12)


# The teacher


def test_the_teacher_is_frozen_and_stays_in_eval_mode(student, tiny_bert, batch):
    teacher = tiny_bert(hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5).double().train()
    before = deepcopy(teacher.state_dict())
    module = Distillation(student, PlacedTeacher(teacher), ALL_TERMS)
    assert not any(part.training for part in teacher.modules())
    assert module.train() is module
    assert all(part.training for part in student.modules())
    assert not any(part.training for part in teacher.modules())
    module(batch, coefficients_of(module)).total.backward()
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    for name, weight in teacher.state_dict().items():
        assert torch.equal(weight, before[name])
    module.eval()
    assert not student.training


def test_teacher_and_student_alike_differ_in_nothing(teacher, batch):
    module = Distillation(deepcopy(teacher), PlacedTeacher(teacher), ALL_TERMS)
    found = by_name(module, module(batch, coefficients_of(module)))
    assert found.pop("masked_lm") > 1
    assert found.pop("hidden_cosine").abs() < 1e-5
    assert len(found) >= 2
    assert all(value.abs() < 1e-12 for value in found.values())


def test_a_teacher_of_another_width_without_the_cosine(student, tiny_bert, batch):
    wide = tiny_bert(hidden_size=32).double()
    loss = loss_of(hidden_cosine=0.0)
    plain_student, plain_teacher = deepcopy(student), deepcopy(wide)
    module = Distillation(student, PlacedTeacher(wide), loss)
    found = module(batch, coefficients_of(module))
    terms = plain_terms(plain_student, plain_student, batch, loss)
    close(by_name(module, found)["masked_lm"], terms["masked_lm"].detach())
    soft = formulas.soft_target_kl(
        plain_run(plain_student, batch)[0], plain_run(plain_teacher, batch)[0], loss.temperature
    )
    close(by_name(module, found)["soft_targets"], soft.detach(), 1e-10)


# Sums and counts


@each_loss
def test_counts_are_the_tokens_of_each_term(student, teacher, batch, loss):
    module = Distillation(student, placed(teacher), loss)
    everything, masked = sum(LENGTHS), int((batch.labels != -100).sum())
    soft = {"all": everything, "masked": masked}.get(str(loss.positions), batch.num_soft)
    counts = {"masked_lm": masked, "hidden_cosine": everything}
    assert by_name(module, module.counts(batch)) == {
        name: counts.get(name, soft) for name, weight in loss.weights.items() if weight
    }


def test_without_a_teacher_only_hard_targets_count(student, batch):
    module = Distillation(student, None, ALL_TERMS)
    assert by_name(module, module.alphas()) == {"masked_lm": 2.0}
    assert module.counts(batch) == [batch.num_masked]


@pytest.mark.slow
@each_loss
@pytest.mark.parametrize("cuts", [[3], [1, 2, 3, 4, 5, 6]])
def test_sums_over_micro_batches_are_those_of_the_whole(
    student, teacher, split, batch, tiny_tokenizer, loss, cuts
):
    """Also the gradient: nothing depends on how a step is cut."""
    module = Distillation(student, placed(teacher), loss)
    coefficients = coefficients_of(module, module.counts(batch))
    whole = module(batch, coefficients)
    whole.total.backward()
    expected = {k: v.clone() for k, v in gradients(student).items() if v is not None}
    student.zero_grad()
    masker = make_masker(tiny_tokenizer)
    edges = [0, *cuts, len(LENGTHS)]
    terms, counts = torch.zeros(len(module.terms)), [0] * len(module.terms)
    for first, last in pairwise(edges):
        part = pack_masked(split, range(first, last), masker, 3, loss.unmasked_share)
        sums = module(part, coefficients)
        sums.total.backward()
        terms = terms + sums.terms
        counts = [a + b for a, b in zip(counts, module.counts(part), strict=True)]
    assert counts == module.counts(batch)
    close(terms, whole.terms)
    found = {k: v for k, v in gradients(student).items() if v is not None}
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        close(gradient, expected[name])


def test_the_cosine_alone_freezes_the_head(student, teacher, batch):
    Distillation(student, PlacedTeacher(teacher), LOSSES["cosine"]).freeze_unused(batch)
    body = {id(parameter) for parameter in encoder(student).parameters()}
    for name, parameter in student.named_parameters():
        assert parameter.requires_grad == (id(parameter) in body), name
    assert student.get_input_embeddings().weight.requires_grad
    frozen = sum(not parameter.requires_grad for parameter in student.parameters())
    assert frozen == 5  # transform and its norm, two tensors each, and the decoder's bias


@pytest.mark.parametrize("loss", [DEFAULT, LOSSES["masked"]], ids=["all", "masked"])
def test_bf16_autocast_is_near_the_plain_computation(student, teacher, batch, loss):
    plain_student, plain_teacher = deepcopy(student), deepcopy(teacher)
    module = Distillation(student.float(), PlacedTeacher(teacher.bfloat16()), loss)
    with torch.autocast("cpu", torch.bfloat16):
        found = module(batch, coefficients_of(module))
    found.total.backward()
    assert all(p.grad.dtype is torch.float32 for p in student.parameters())
    terms = plain_terms(plain_student, plain_teacher, batch, loss)
    expected = torch.stack([terms[term.name] for term in module.terms]).detach()
    torch.testing.assert_close(found.terms.double(), expected, rtol=0.03, atol=0.03)
