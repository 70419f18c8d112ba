"""Several teachers: every loss against the mean of their distributions, with full logits."""

from copy import deepcopy

import formulas
import pytest
import torch
from loss_settings import by_name, weights
from packed_batches import make_masker, padded, random_split
from paired_batches import KEPT, NUM_TEACHER, paired_split
from task_models import each_task, make_inputs, make_model, outputs_of, run_padded
from torch import Tensor, nn

from distilcli.batches.masked import PackedBatch, pack_masked
from distilcli.config.losses import LossConfig, TaskLossConfig
from distilcli.distillation.loss_modules import Distillation, TaskDistillation
from distilcli.distillation.teachers import (
    CachedTeacher,
    Ensemble,
    ModelTeacher,
    OffloadedTeacher,
    PlacedTeacher,
)
from distilcli.models.copying import copy_layers
from distilcli.tasks.inputs import pack_inputs

SHARES = (0.6, 0.1, 0.3)
LENGTHS = [3, 12, 30, 7]
DIVERGENCES = dict.fromkeys(formulas.DIVERGENCES, 0.5)
ALL = {**DIVERGENCES, "masked_lm": 2.0, "hidden_cosine": 1.0}
each_temperature = pytest.mark.parametrize("temperature", [1.0, 2.5])


def loss_of(temperature: float = 2.0, positions: str = "all", **of_terms: float) -> LossConfig:
    none = dict.fromkeys(LossConfig().weights, 0.0)
    return LossConfig.model_validate(
        weights(**none | (of_terms or ALL)) | {"temperature": temperature, "positions": positions}
    )


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance, check_dtype=False)


def ensemble_of(*teachers: ModelTeacher) -> Ensemble:
    return Ensemble(teachers, SHARES)


def coefficients_of(module: nn.Module) -> list[Tensor]:
    """Another one for each term."""
    return [torch.tensor(0.1 + 0.2 * place).double() for place in range(len(module.terms))]


def mean_logits(teachers: list[Tensor], temperature: float) -> Tensor:
    """T * log p, of which the formulas take the softmax; p is the mean, plainly."""
    parts = zip(teachers, SHARES, strict=True)
    return temperature * sum(w * formulas.softmax(v / temperature) for v, w in parts).log()


@pytest.fixture
def student(tiny_bert):
    return copy_layers(tiny_bert(num_layers=2, seed=9).double(), [0, 1])


@pytest.fixture
def teachers(tiny_bert) -> list:
    """The first one has the width of the student, the others have not."""
    shapes = {"hidden_size": 16}, {"hidden_size": 24, "num_layers": 2}, {"hidden_size": 8}
    return [tiny_bert(seed=seed, **shape).double() for seed, shape in enumerate(shapes)]


@pytest.fixture
def batch(tiny_tokenizer) -> PackedBatch:
    return batch_of(tiny_tokenizer)


def batch_of(tokenizer, unmasked_share: float = 1.0) -> PackedBatch:
    split = random_split(LENGTHS, tokenizer)
    return pack_masked(split, range(len(LENGTHS)), make_masker(tokenizer), 3, unmasked_share)


def plain_run(model: nn.Module, batch: PackedBatch) -> tuple[Tensor, Tensor]:
    model.set_attn_implementation("eager")
    ids, real = padded(batch)
    output = model(input_ids=ids, attention_mask=real.long(), output_hidden_states=True)
    return output.logits[real], output.hidden_states[-1][real]


@each_temperature
@pytest.mark.parametrize("positions", ["all", "masked"])
def test_masked_lm_is_the_plain_computation(
    student, teachers, tiny_tokenizer, temperature, positions
):
    loss = loss_of(temperature, positions)
    batch = batch_of(tiny_tokenizer, loss.unmasked_share)
    plain_student, plain_teachers = deepcopy(student), deepcopy(teachers)
    first, *others = map(PlacedTeacher, teachers)
    module = Distillation(student, first, loss, ensemble=ensemble_of(*others))
    coefficients = coefficients_of(module)
    found = module(batch, coefficients)

    z, hidden = plain_run(plain_student, batch)
    with torch.no_grad():
        runs = [plain_run(model, batch) for model in plain_teachers]
    v = mean_logits([logits for logits, _ in runs], temperature)
    masked = batch.labels != -100
    soft = masked if positions == "masked" else torch.ones_like(masked)
    terms = {
        name: formula(z[soft], v[soft], temperature)
        for name, formula in formulas.DIVERGENCES.items()
    }
    terms["masked_lm"] = formulas.cross_entropy(z[masked], batch.labels[masked])
    terms["hidden_cosine"] = formulas.cosine_distance(hidden, runs[0][1])  # of the first alone
    for name, value in by_name(module, found).items():
        close(value, terms[name].detach())
    found.total.backward()
    sum(w * terms[name] for name, w in by_name(module, coefficients).items()).backward()
    expected = dict(plain_student.named_parameters())
    for name, parameter in student.named_parameters():
        close(parameter.grad, expected[name].grad)


def test_a_smaller_vocabulary_is_averaged_over_what_it_keeps(tiny_bert, tiny_tokenizer):
    """Each teacher's distribution is renormalised over the student's tokens, then averaged."""
    kept = torch.from_numpy(KEPT)
    student = copy_layers(tiny_bert(2, seed=1, vocab_size=len(KEPT)).double(), [0, 1])
    teachers = [tiny_bert(seed=seed, vocab_size=NUM_TEACHER).double() for seed in (3, 4, 5)]
    masker = make_masker(tiny_tokenizer, vocab_size=len(KEPT))
    batch = pack_masked(paired_split([6, 1, 14, 9, 2]), range(5), masker, 2, 0.5, KEPT)
    first, *others = (PlacedTeacher(model, kept) for model in teachers)
    module = Distillation(
        deepcopy(student), first, loss_of(**DIVERGENCES), ensemble=ensemble_of(*others)
    )
    found = by_name(module, module(batch, coefficients_of(module)))

    def run_alone(model: nn.Module, row: PackedBatch) -> Tensor:
        model.set_attn_implementation("eager")
        rows = row.input_ids[0].split(list(row.lengths))
        return torch.cat([model(input_ids=ids[None]).logits[0] for ids in rows]).detach()

    row = batch.teacher_row
    z = run_alone(student, batch)[batch.soft_positions]
    v = [run_alone(model, row)[row.soft_positions][:, KEPT] for model in deepcopy(teachers)]
    for name, formula in formulas.DIVERGENCES.items():
        close(found[name], formula(z, mean_logits(v, 2.0), 2.0))


def test_a_teacher_with_itself_is_that_teacher(student, teachers, batch):
    def trained(ensemble: Ensemble | None) -> tuple[Tensor, list[Tensor]]:
        own = deepcopy(student)
        more = {} if ensemble is None else {"ensemble": ensemble}
        module = Distillation(own, PlacedTeacher(deepcopy(teachers[0])), loss_of(), **more)
        found = module(batch, coefficients_of(module))
        found.total.backward()
        return found.terms, [parameter.grad for parameter in own.parameters()]

    alone, gradients = trained(None)
    twice = Ensemble([PlacedTeacher(deepcopy(teachers[0]))], (0.25, 0.75))
    together, other_gradients = trained(twice)
    close(together, alone, 1e-12)
    for one, other in zip(other_gradients, gradients, strict=True):
        close(one, other, 1e-12)


def test_teachers_in_host_memory_are_those_beside_the_student(student, teachers, batch):
    cpu = torch.device("cpu")
    sums = []
    for place in (PlacedTeacher, lambda model: OffloadedTeacher(model, cpu)):
        first, *others = (place(deepcopy(model)) for model in teachers)
        module = Distillation(deepcopy(student), first, loss_of(), ensemble=ensemble_of(*others))
        sums.append(module(batch, coefficients_of(module)).terms)
    close(sums[0], sums[1], 1e-12)


def test_all_teachers_are_frozen_and_stay_in_eval_mode(student, teachers, batch):
    first, *others = map(PlacedTeacher, teachers)
    module = Distillation(student, first, loss_of(), ensemble=ensemble_of(*others)).train()
    module(batch, coefficients_of(module)).total.backward()
    assert student.training
    assert module.compilable() == [student, *teachers]
    for teacher in teachers:
        assert not teacher.training
        assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())


def test_others_do_not_run_where_no_logits_are_compared(student, teachers, batch):
    first, *others = map(PlacedTeacher, teachers)
    for teacher in teachers[1:]:
        teacher.register_forward_hook(lambda *_: pytest.fail("it ran"))
        teacher.bert.register_forward_hook(lambda *_: pytest.fail("it ran"))
    loss = loss_of(masked_lm=1.0, hidden_cosine=1.0)
    module = Distillation(student, first, loss, ensemble=ensemble_of(*others))
    assert module(batch, coefficients_of(module)).total > 0


# Tasks


TASK_LENGTHS, SAMPLES = [9, 5, 12, 12, 3, 20, 7], [3, 0, 2, 5, 4]


def task_models(head: str, family: str) -> list[nn.Module]:
    """A student and three teachers, in fp64."""
    labels = 1 if family == "number" else 3
    return [
        make_model("bert", head, labels, num_layers=depth, seed=seed).double()
        for seed, depth in enumerate((1, 3, 2, 3))
    ]


def task_loss(family: str, temperature: float) -> TaskLossConfig:
    of_terms = {"soft_targets": 0.5} if family == "number" else DIVERGENCES
    of_terms = of_terms | {"labels": 0.7, "hidden_cosine": 0.3}
    return TaskLossConfig.model_validate(weights(**of_terms) | {"temperature": temperature})


def plain_divergence(
    name: str, head: str, family: str, z: Tensor, v: list[Tensor], t: float
) -> Tensor:
    """Of the outputs for one input."""
    if family == "number":
        mean = sum(share * one for share, one in zip(SHARES, v, strict=True))
        return ((z - mean) ** 2).sum()
    if family == "any-of":  # each class is a distribution over two, with the logits x and 0
        pairs = [torch.stack([x.flatten(), torch.zeros(x.numel())], dim=1) for x in (z, *v)]
        mean = mean_logits(pairs[1:], t)
        return formulas.DIVERGENCES[name](pairs[0], mean, t) / z.shape[1]
    if head == "span":
        columns = [[one.T[i : i + 1] for one in (z, *v)] for i in (0, 1)]
        return sum(
            formulas.DIVERGENCES[name](own, mean_logits(taught, t), t) for own, *taught in columns
        )
    return formulas.DIVERGENCES[name](z, mean_logits(v, t), t)


@each_task
@each_temperature
@pytest.mark.parametrize("cached", [False, True], ids=["beside the student", "known"])
def test_a_task_is_the_plain_computation(head, family, temperature, cached):
    student, *teachers = task_models(head, family)
    inputs = make_inputs(TASK_LENGTHS, head, family, 1 if family == "number" else 3)
    plain_student, loss = deepcopy(student), task_loss(family, temperature)
    with torch.no_grad():
        taught = [run_padded(deepcopy(model), inputs, SAMPLES) for model in teachers]
    known, others = None, []
    if cached:
        (outputs, hidden), *rest = taught
        known = outputs.float().numpy(), hidden.float().numpy()
        others = [found.outputs.float().numpy() for found in rest]
        first, *more = (CachedTeacher(None, 16, other) for other in (None, 0, 1))
    else:
        first, *more = map(PlacedTeacher, teachers)
    module = TaskDistillation(
        student, first, outputs_of(head, family), loss, ensemble=ensemble_of(*more)
    )
    coefficients = by_name(module, coefficients_of(module))
    found = module(pack_inputs(inputs, SAMPLES, known, others), list(coefficients.values()))

    z, _ = run_padded(plain_student, inputs, SAMPLES)
    rows = inputs.num_outputs_of[SAMPLES].tolist()
    parts = list(zip(z.split(rows), *(one.outputs.split(rows) for one in taught), strict=True))
    total = z.new_zeros(())
    for name in loss.weights:
        if name in formulas.DIVERGENCES and loss.weights[name]:
            sums = [plain_divergence(name, head, family, own, v, temperature) for own, *v in parts]
            close(by_name(module, found)[name], sum(sums).detach(), 2e-6)
            total = total + coefficients[name] * sum(sums)
    alone = {name: 0.0 for name in formulas.DIVERGENCES if name in loss.weights}
    rest = TaskDistillation(
        plain_student,
        PlacedTeacher(deepcopy(teachers[0])),
        outputs_of(head, family),
        TaskLossConfig.model_validate(weights(**alone | {"labels": 0.7, "hidden_cosine": 0.3})),
    )
    total.backward()
    of_rest = [coefficients[term.name] for term in rest.terms]
    rest(pack_inputs(inputs, SAMPLES), of_rest).total.backward()
    found.total.backward()
    expected = dict(plain_student.named_parameters())
    for name, parameter in student.named_parameters():
        if parameter.grad is not None:
            close(parameter.grad, expected[name].grad, 4e-6)


def test_known_outputs_of_all_teachers_go_where_the_batch_goes(monkeypatch):
    inputs = make_inputs(TASK_LENGTHS, "token")
    rows = sum(inputs.num_outputs_of[SAMPLES].tolist())
    known = [torch.randn(rows, 3).numpy() for _ in SHARES]
    batch = pack_inputs(inputs, SAMPLES, (known[0], None), known[1:]).to(torch.device("meta"))
    assert batch.teacher_outputs.is_meta
    assert batch.other_outputs.is_meta
    assert batch.other_outputs.shape == (2, rows, 3)


@pytest.mark.parametrize("head", ["sequence", "token", "span"])
def test_the_mean_of_outputs_is_what_is_measured(head):
    """At T = 1, as the outputs of one model: with itself, a model is measured as it is."""
    kind = outputs_of(head, "one-of")
    lengths = [4, 1, 3]
    outputs = [torch.randn(8, 2).double() for _ in SHARES]
    found = kind.mean(outputs, SHARES, lengths)
    if head == "span":
        for part in range(2):
            columns = (one[:, part].split(lengths) for one in (found, *outputs))
            for own, *each in zip(*columns, strict=True):
                expected = mean_logits([one[None] for one in each], 1.0)
                close(formulas.softmax(own[None]), expected.exp(), 1e-12)
    else:
        close(formulas.softmax(found), mean_logits(outputs, 1.0).exp(), 1e-12)
    close(kind.mean([outputs[0]] * 3, SHARES, lengths), outputs[0], 1e-12)


def test_teachers_may_be_of_different_families():
    """Each has its positions and token types; only what is said of the same inputs is averaged."""
    inputs = make_inputs(TASK_LENGTHS, "token")
    student = make_model("bert", "token", num_layers=1).double()
    bodies = "distilbert", "roberta", "modernbert"
    teachers = [make_model(body, "token", seed=seed).double() for seed, body in enumerate(bodies)]
    with torch.no_grad():
        v = [run_padded(deepcopy(model), inputs, SAMPLES).outputs for model in teachers]
        z = run_padded(deepcopy(student), inputs, SAMPLES).outputs
    first, *others = map(PlacedTeacher, teachers)
    loss = TaskLossConfig.model_validate(weights(**DIVERGENCES | {"labels": 0.0}))
    module = TaskDistillation(
        student, first, outputs_of("token", "one-of"), loss, ensemble=ensemble_of(*others)
    )
    found = by_name(module, module(pack_inputs(inputs, SAMPLES), coefficients_of(module)))
    for name, formula in formulas.DIVERGENCES.items():
        close(found[name], formula(z, mean_logits(v, 2.0), 2.0), 2e-6)
