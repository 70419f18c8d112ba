"""Teacher, student and losses together, against padded models of transformers and the formulas."""

from copy import deepcopy
from itertools import pairwise

import formulas
import pytest
import torch
from packed_batches import make_masker, padded, random_split

from distilcli.batches.masked import PackedBatch, pack
from distilcli.config.losses import LossConfig, SampledPositions
from distilcli.distillation.modules import MASKED_LM_TERMS as TERMS
from distilcli.distillation.modules import Distillation
from distilcli.losses.vocabulary import Coefficients
from distilcli.models.copying import copy_layers
from distilcli.models.families import encoder

LENGTHS = [3, 12, 12, 30, 7, 19, 5]
DEFAULT = LossConfig()
ALL_TERMS = LossConfig(alpha_mse=1.0)

LOSSES = {
    "default": DEFAULT,
    "masked": LossConfig(positions="masked"),
    "sampled": LossConfig(positions=SampledPositions(sample=0.3), alpha_mse=1.0),
    "all terms": ALL_TERMS,
    "all terms, masked": LossConfig(alpha_mse=1.0, positions="masked", temperature=4.0),
    "soft targets": LossConfig(alpha_mlm=0.0, alpha_cos=0.0),
    "hard targets": LossConfig(alpha_ce=0.0, alpha_cos=0.0),
    "cosine": LossConfig(alpha_ce=0.0, alpha_mlm=0.0),
    "logits": LossConfig(alpha_ce=0.0, alpha_mlm=0.0, alpha_cos=0.0, alpha_mse=1.0),
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
    return pack(split, samples, make_masker(tiny_tokenizer), 3, loss.unmasked_share)


def plain_run(model, batch: PackedBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and last hidden states of the real tokens of the padded batch, row by row."""
    model.set_attn_implementation("eager")
    ids, real = padded(batch)
    output = model(input_ids=ids, attention_mask=real.long(), output_hidden_states=True)
    return output.logits[real], output.hidden_states[-1][real]


def plain_terms(student, teacher, batch: PackedBatch, loss: LossConfig) -> torch.Tensor:
    """Sums of TERMS by the formulas, from full logits."""
    z, hidden = plain_run(student, batch)
    is_masked = batch.labels != -100
    mlm = formulas.cross_entropy(z[is_masked], batch.labels[is_masked])
    zero = mlm.new_zeros(())
    if teacher is None:
        return torch.stack([zero, mlm, zero, zero])
    v, teacher_hidden = (tensor.detach() for tensor in plain_run(teacher, batch))
    soft = is_masked.clone()
    if loss.positions == "all":
        soft[:] = True
    elif loss.positions != "masked":
        soft[batch.soft_positions] = True
        assert is_masked.sum() < soft.sum() < len(soft)
    ce = formulas.soft_target_kl(z[soft], v[soft], loss.temperature)
    cos = formulas.cosine_distance(hidden, teacher_hidden)
    mse = formulas.squared_error(z[soft], v[soft])
    return torch.stack([ce, mlm, cos, mse])


def coefficients_of(module: Distillation, counts: list[int] | None = None) -> Coefficients:
    """alpha / count, as the loop gives it; counts that differ from term to term unless said."""
    counts = counts or [50, 20, 30, 40]
    pairs = zip(module.alphas(), counts, strict=True)
    values = [torch.tensor(alpha / max(1, n)).double() if alpha else None for alpha, n in pairs]
    return Coefficients(*values)


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-6) -> None:
    # The cosine is computed in float32 whatever the models are in.
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance, check_dtype=False)


def gradients(module: torch.nn.Module) -> dict[str, torch.Tensor | None]:
    return {name: parameter.grad for name, parameter in module.named_parameters()}


@pytest.mark.slow
@each_loss
@pytest.mark.parametrize("with_teacher", [True, False], ids=["teacher", "alone"])
def test_sums_and_gradients_are_the_plain_computation(student, teacher, batch, loss, with_teacher):
    if not with_teacher:
        teacher = None
        loss = loss.model_copy(update={"alpha_mlm": 2.0})  # else there is nothing to learn
    plain_student, plain_teacher = deepcopy(student), deepcopy(teacher)
    module = Distillation(student, teacher, loss)
    weights = coefficients_of(module)
    found = module(batch, weights)
    terms = plain_terms(plain_student, plain_teacher, batch, loss)
    total = sum(w * term for w, term in zip(weights, terms, strict=True) if w is not None)
    close(found.total, total)
    used = torch.tensor(module.alphas()) != 0
    close(found.terms[used], terms[used].detach())
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
    module = Distillation(student, teacher, loss)
    module(batch, coefficients_of(module)).total.backward()
    for name, parameter in student.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


def test_float64_is_exact_without_the_cosine(student, teacher, batch):
    loss = LossConfig(alpha_cos=0.0, alpha_mse=1.0)
    plain_student, plain_teacher = deepcopy(student), deepcopy(teacher)
    module = Distillation(student, teacher, loss)
    found = module(batch, coefficients_of(module))
    terms = plain_terms(plain_student, plain_teacher, batch, loss)[[0, 1, 3]]
    close(found.terms[[0, 1, 3]], terms.detach(), 1e-12)


# The teacher


def test_the_teacher_is_frozen_and_stays_in_eval_mode(student, tiny_bert, batch):
    teacher = tiny_bert(hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5).double().train()
    before = deepcopy(teacher.state_dict())
    module = Distillation(student, teacher, ALL_TERMS)
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
    module = Distillation(deepcopy(teacher), teacher, ALL_TERMS)
    ce, mlm, cos, mse = module(batch, coefficients_of(module)).terms.tolist()
    assert max(abs(ce), abs(mse)) < 1e-12
    assert abs(cos) < 1e-5
    assert mlm > 1


def test_a_teacher_of_another_width_without_the_cosine(student, tiny_bert, batch):
    wide = tiny_bert(hidden_size=32).double()
    loss = LossConfig(alpha_cos=0.0)
    plain_student, plain_teacher = deepcopy(student), deepcopy(wide)
    module = Distillation(student, wide, loss)
    found = module(batch, coefficients_of(module))
    terms = plain_terms(plain_student, plain_student, batch, loss)
    close(found.terms[1], terms[1].detach())
    soft = formulas.soft_target_kl(
        plain_run(plain_student, batch)[0], plain_run(plain_teacher, batch)[0], loss.temperature
    )
    close(found.terms[0], soft.detach(), 1e-10)


# Sums and counts


@each_loss
def test_counts_are_the_tokens_of_each_term(student, teacher, batch, loss):
    counts = dict(zip(TERMS, Distillation(student, teacher, loss).counts(batch), strict=True))
    everything, masked = sum(LENGTHS), int((batch.labels != -100).sum())
    soft = {"all": everything, "masked": masked}.get(str(loss.positions), batch.num_soft)
    assert counts == {
        "ce": soft if loss.alpha_ce else 0,
        "mlm": masked if loss.alpha_mlm else 0,
        "cos": everything if loss.alpha_cos else 0,
        "mse": soft if loss.alpha_mse else 0,
    }


def test_without_a_teacher_only_hard_targets_count(student, batch):
    module = Distillation(student, None, ALL_TERMS)
    assert module.alphas() == [0.0, 2.0, 0.0, 0.0]
    assert module.counts(batch) == [0, batch.num_masked, 0, 0]


@pytest.mark.slow
@each_loss
@pytest.mark.parametrize("cuts", [[3], [1, 2, 3, 4, 5, 6]])
def test_sums_over_micro_batches_are_those_of_the_whole(
    student, teacher, split, batch, tiny_tokenizer, loss, cuts
):
    """Also the gradient: nothing depends on how a step is cut."""
    module = Distillation(student, teacher, loss)
    weights = coefficients_of(module, module.counts(batch))
    whole = module(batch, weights)
    whole.total.backward()
    expected = {k: v.clone() for k, v in gradients(student).items() if v is not None}
    student.zero_grad()
    masker = make_masker(tiny_tokenizer)
    edges = [0, *cuts, len(LENGTHS)]
    terms, counts = torch.zeros(4), [0] * 4
    for first, last in pairwise(edges):
        part = pack(split, range(first, last), masker, 3, loss.unmasked_share)
        sums = module(part, weights)
        sums.total.backward()
        terms = terms + sums.terms
        counts = [a + b for a, b in zip(counts, module.counts(part), strict=True)]
    assert counts == module.counts(batch)
    close(terms, whole.terms)
    found = {k: v for k, v in gradients(student).items() if v is not None}
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        close(gradient, expected[name])


def test_the_cosine_alone_freezes_the_head(student, teacher):
    Distillation(student, teacher, LOSSES["cosine"])
    body = {id(parameter) for parameter in encoder(student).parameters()}
    for name, parameter in student.named_parameters():
        assert parameter.requires_grad == (id(parameter) in body), name
    assert student.get_input_embeddings().weight.requires_grad
    frozen = sum(not parameter.requires_grad for parameter in student.parameters())
    assert frozen == 5  # transform and its norm, two tensors each, and the decoder's bias


@pytest.mark.parametrize("loss", [DEFAULT, LOSSES["masked"]], ids=["all", "masked"])
def test_bf16_autocast_is_near_the_plain_computation(student, teacher, batch, loss):
    plain_student, plain_teacher = deepcopy(student), deepcopy(teacher)
    module = Distillation(student.float(), teacher.bfloat16(), loss)
    with torch.autocast("cpu", torch.bfloat16):
        found = module(batch, coefficients_of(module))
    found.total.backward()
    assert all(p.grad.dtype is torch.float32 for p in student.parameters())
    terms = plain_terms(plain_student, plain_teacher, batch, loss)[:3]
    torch.testing.assert_close(found.terms[:3].double(), terms.detach(), rtol=0.03, atol=0.03)
