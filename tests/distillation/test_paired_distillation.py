"""A student with a part of its teacher's vocabulary: every term against the formulas."""

from copy import deepcopy

import formulas
import pytest
import torch
from loss_settings import by_name, weights
from packed_batches import make_masker, random_split
from paired_batches import KEPT, NUM_TEACHER, paired_split, same_split
from torch import Tensor

from distilcli.batches.masked import PackedBatch, pack_masked
from distilcli.config.losses import LossConfig
from distilcli.distillation.loss_modules import Distillation
from distilcli.distillation.teachers import PlacedTeacher
from distilcli.models.copying import copy_layers

LENGTHS = [6, 1, 14, 9, 2]
ALL = LossConfig.model_validate(
    weights(
        soft_targets=5.0,
        reverse_kl=1.0,
        jensen_shannon=1.0,
        logit_mse=0.5,
        masked_lm=2.0,
        hidden_cosine=1.0,
    )
    | {"temperature": 2.0}
)


@pytest.fixture
def teacher(tiny_bert):
    return tiny_bert(vocab_size=NUM_TEACHER).double()


@pytest.fixture
def student(tiny_bert):
    return copy_layers(tiny_bert(num_layers=2, seed=1, vocab_size=len(KEPT)).double(), [0, 1])


@pytest.fixture
def masker(tiny_tokenizer):
    return make_masker(tiny_tokenizer, vocab_size=len(KEPT))


def pack(masker, samples=(0, 1, 2, 3, 4)) -> PackedBatch:
    return pack_masked(paired_split(LENGTHS), samples, masker, 2, 0.5, KEPT)


def distillation(student, teacher, loss: LossConfig = ALL) -> Distillation:
    return Distillation(student, PlacedTeacher(teacher, torch.from_numpy(KEPT)), loss)


def run_alone(model, row) -> tuple[Tensor, Tensor]:
    """Logits and last hidden states, each sequence run alone by transformers."""
    model.set_attn_implementation("eager")
    outputs = [
        model(input_ids=ids[None], output_hidden_states=True)
        for ids in row.input_ids[0].split(list(row.lengths))
    ]
    return (
        torch.cat([output.logits[0] for output in outputs]),
        torch.cat([output.hidden_states[-1][0] for output in outputs]),
    )


def plain_terms(student, teacher, batch: PackedBatch) -> dict[str, Tensor]:
    row = batch.teacher_row
    z, hidden = run_alone(student, batch)
    v, taught = (tensor.detach() for tensor in run_alone(teacher, row))
    soft, of_teacher = z[batch.soft_positions], v[row.soft_positions][:, KEPT]
    masked = batch.masked_positions
    found = {
        name: formula(soft, of_teacher, ALL.temperature)
        for name, formula in formulas.DIVERGENCES.items()
    }
    return found | {
        "masked_lm": formulas.cross_entropy(z[masked], batch.labels[masked]),
        "logit_mse": formulas.squared_error(soft, of_teacher),
        "hidden_cosine": formulas.cosine_distance(hidden[row.student_pairs], taught[row.pairs]),
    }


def coefficients_of(module: Distillation) -> list[Tensor]:
    return [torch.tensor(0.1 + 0.05 * place).double() for place in range(len(module.terms))]


def test_sums_and_gradients_are_the_plain_computation(student, teacher, masker):
    plain_student, plain_teacher = deepcopy(student), deepcopy(teacher)
    module, batch = distillation(student, teacher), pack(masker)
    coefficients = coefficients_of(module)
    found = module(batch, coefficients)
    terms = plain_terms(plain_student, plain_teacher, batch)
    assert len(terms) == len(module.terms)
    total = sum(w * terms[name] for name, w in by_name(module, coefficients).items())
    # The cosine is computed in float32 whatever the models are in.
    close = {"rtol": 1e-6, "atol": 1e-6, "check_dtype": False}
    for name, value in by_name(module, found).items():
        torch.testing.assert_close(value, terms[name].detach(), **close)
    torch.testing.assert_close(found.total, total, **close)
    found.total.backward()
    total.backward()
    for (name, one), (_, other) in zip(
        student.named_parameters(), plain_student.named_parameters(), strict=True
    ):
        torch.testing.assert_close(one.grad, other.grad, **close, msg=name)


def test_each_term_is_divided_by_what_it_looks_at(student, teacher, masker):
    module, batch = distillation(student, teacher), pack(masker)
    counts = by_name(module, module.counts(batch))
    compared = {"soft_targets", "reverse_kl", "jensen_shannon", "logit_mse"}
    assert {counts[name] for name in compared} == {batch.soft_positions.shape[0]}
    assert counts["masked_lm"] == batch.masked_positions.shape[0]
    assert counts["hidden_cosine"] == batch.teacher_row.pairs.shape[0]


def test_sums_do_not_depend_on_how_a_batch_is_cut(student, teacher, masker):
    module = distillation(student, teacher)
    coefficients = coefficients_of(module)
    whole = module(pack(masker), coefficients)
    parts = [module(pack(masker, part), coefficients) for part in ([0, 1], [2], [3, 4])]
    close = {"rtol": 1e-6, "atol": 1e-6}
    torch.testing.assert_close(sum(part.terms for part in parts), whole.terms, **close)
    torch.testing.assert_close(sum(part.total for part in parts), whole.total, **close)


def test_with_one_vocabulary_it_is_ordinary_distillation(tiny_bert, tiny_tokenizer):
    """To the last bit: the same tokens are compared in the same order."""
    split, masker = random_split([9, 20, 5], tiny_tokenizer), make_masker(tiny_tokenizer)
    teacher, student = tiny_bert(), tiny_bert(num_layers=2, seed=1)
    size = teacher.config.vocab_size
    ids = torch.arange(size)
    found = []
    for batch, of_teacher in (
        (pack_masked(split, range(3), masker, 1), None),
        (pack_masked(same_split(split, 3), range(3), masker, 1, 1.0, ids.numpy()), ids),
    ):
        one = deepcopy(student)
        module = Distillation(one, PlacedTeacher(deepcopy(teacher), of_teacher), ALL)
        sums = module(batch, [torch.tensor(0.1)] * len(module.terms))
        sums.total.backward()
        found.append([sums.terms, *(parameter.grad for parameter in one.parameters())])
    for one, other in zip(*found, strict=True):
        assert one is other is None or torch.equal(one, other)


def test_without_a_pair_labels_alone_are_learnt(student, teacher, masker):
    """A batch may hold no token that both have but [CLS] and [SEP], which are not masked."""
    batch = pack(masker)
    loss = LossConfig.model_validate(
        weights(soft_targets=5.0, masked_lm=2.0, hidden_cosine=0.0) | {"positions": "masked"}
    )
    module = distillation(student, teacher, loss)
    rows = paired_split([2]).rows
    rows[0] = type(rows[0])([2, 9, 10, 3], [2, 6, 3], [0, -2, -2, 2])
    split = paired_split([2])
    split.rows = rows
    batch = pack_masked(split, [0], masker, 0, 0.0, KEPT)
    assert batch.num_soft == 0 < batch.num_masked
    found = by_name(module, module(batch, coefficients_of(module)))
    assert found["soft_targets"] == 0.0 < found["masked_lm"]
