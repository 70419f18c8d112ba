"""Student and teacher on a task, together and packed, against padded models of transformers."""

from copy import deepcopy
from itertools import pairwise

import formulas
import numpy as np
import pytest
import torch
from binary_formulas import plain_binary_cross_entropy
from hypothesis import given
from hypothesis import strategies as st
from loss_settings import by_name, weights
from task_models import BODIES, each_task, make_inputs, make_model, outputs_of, run_padded
from torch import Tensor, nn

from distilcli.config.losses import TaskLossConfig
from distilcli.distillation.loss_modules import TaskDistillation
from distilcli.distillation.teachers import CachedTeacher, PlacedTeacher
from distilcli.tasks.inputs import pack_inputs
from distilcli.tasks.outputs import by_input


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance, check_dtype=False)


LENGTHS = [9, 5, 12, 12, 3, 20, 7]
SAMPLES = [3, 0, 2, 5, 4]  # not all, not in order
each_body = pytest.mark.parametrize("body", BODIES)


def loss_of(temperature: float = 2.0, **of_terms: float) -> TaskLossConfig:
    """The weights of the terms."""
    return TaskLossConfig.model_validate(weights(**of_terms) | {"temperature": temperature})


LOSSES = {
    "both": TaskLossConfig(),
    "all terms": loss_of(soft_targets=0.7, labels=0.4, hidden_cosine=0.6, temperature=3.0),
    "soft targets": loss_of(labels=0.0, temperature=1.0),
    "labels": loss_of(soft_targets=0.0),
    "cosine": loss_of(soft_targets=0.0, labels=0.0, hidden_cosine=1.0),
}
# One with every divergence, for the outputs that have all of them.
DIVERGENCES = loss_of(temperature=1.5, **dict.fromkeys(formulas.DIVERGENCES, 0.5))
each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
ALL_TERMS = LOSSES["all terms"]
WITH_EACH_LOSS = ("bert", "distilbert")  # with token types and without; with a pooler and without


def each_body_and_loss(*of_every_body: str) -> pytest.MarkDecorator:
    """Some losses for every body, and each loss for two: a loss does not ask which body it has."""
    cases = [
        pytest.param(body, loss, id=f"{body}-{name}")
        for body in BODIES
        for name, loss in LOSSES.items()
        if body in WITH_EACH_LOSS or name in of_every_body
    ]
    return pytest.mark.parametrize(("body", "loss"), cases)


def num_labels_of(family: str) -> int:
    return 1 if family == "number" else 3


def models_of(body: str, head: str, family: str) -> tuple[nn.Module, nn.Module]:
    """A student and a deeper teacher, in fp64."""
    labels = num_labels_of(family)
    student, teacher = (
        make_model(body, head, labels, num_layers=depth, seed=depth).double() for depth in (1, 3)
    )
    return student, teacher


def inputs_of(head: str, family: str):
    return make_inputs(LENGTHS, head, family, num_labels_of(family))


def divergences_of(family: str) -> list[str]:
    """Those that mean something for such outputs."""
    return ["soft_targets"] if family == "number" else list(formulas.DIVERGENCES)


def plain_soft(name: str, family: str, z: Tensor, v: Tensor, temperature: float) -> Tensor:
    if family == "number":
        return ((z - v) ** 2).sum()
    if family == "any-of":
        return formulas.of_each_class(name, z, v, temperature)
    return formulas.DIVERGENCES[name](z, v, temperature)


def naive_terms(student, teacher, inputs, samples, head, family, temperature) -> dict[str, Tensor]:
    """The sum of each term from padded runs, input by input and row by row."""
    z, hidden = run_padded(student, inputs, samples)
    v, teacher_hidden = (tensor.detach() for tensor in run_padded(teacher, inputs, samples))
    rows = inputs.num_outputs_of[samples].tolist()
    hard = z.new_zeros(())
    soft = dict.fromkeys(divergences_of(family), hard)
    for sample, own_z, own_v in zip(samples, z.split(rows), v.split(rows), strict=True):
        if head == "span":
            for column in (0, 1):  # a distribution of starts, and one of ends
                logits, taught = own_z[None, :, column], own_v[None, :, column]
                for name in soft:
                    soft[name] = soft[name] + formulas.DIVERGENCES[name](
                        logits, taught, temperature
                    )
                target = torch.from_numpy(inputs.targets[sample : sample + 1, column])
                hard = hard + formulas.cross_entropy(logits, target)
            continue
        first = inputs.output_offsets[sample]
        targets = torch.from_numpy(inputs.targets[first : first + len(own_z)])
        for name in soft:
            soft[name] = soft[name] + plain_soft(name, family, own_z, own_v, temperature)
        if family == "one-of":
            hard = hard + formulas.cross_entropy(own_z, targets)
        elif family == "any-of":
            hard = hard + plain_binary_cross_entropy(own_z, targets)
        else:
            hard = hard + ((own_z[:, 0] - targets) ** 2).sum()
    cosine = formulas.cosine_distance(hidden, teacher_hidden)
    return soft | {"labels": hard, "hidden_cosine": cosine}


def coefficients_of(module: TaskDistillation, counts: list[int] | None = None) -> list:
    """weight / count, as the loop gives it; counts that differ from term to term unless said."""
    counts = counts or [3 + place for place in range(len(module.terms))]
    return [torch.tensor(alpha / n) for alpha, n in zip(module.alphas(), counts, strict=True)]


def compare_with_padded(body, head, family, loss, cached):
    student, teacher = models_of(body, head, family)
    inputs = inputs_of(head, family)
    plain_student, plain_teacher = deepcopy(student), deepcopy(teacher)
    known = None
    if cached:
        with torch.no_grad():
            taught = run_padded(plain_teacher, inputs, SAMPLES)
        known = tuple(tensor.float().numpy() for tensor in taught)
    module = TaskDistillation(
        student,
        CachedTeacher(None, plain_teacher.config.hidden_size) if cached else PlacedTeacher(teacher),
        outputs_of(head, family),
        loss,
    )
    module.freeze_unused(pack_inputs(inputs, SAMPLES, known))
    coefficients = coefficients_of(module)
    found = module(pack_inputs(inputs, SAMPLES, known), coefficients)
    terms = naive_terms(
        plain_student, plain_teacher, inputs, SAMPLES, head, family, loss.temperature
    )
    total = sum(w * terms[name] for name, w in by_name(module, coefficients).items())
    # Outputs are in fp32 whatever the models are in.
    close(found.total, total, 2e-6)
    for name, value in by_name(module, found).items():
        close(value, terms[name].detach(), 2e-6)
    assert not found.terms.requires_grad

    found.total.backward()
    total.backward()
    expected = dict(plain_student.named_parameters())
    assert sum(p.grad is not None for p in student.parameters()) >= 8  # of a layer without biases
    for name, parameter in student.named_parameters():
        if parameter.grad is None:
            # Frozen: a head that no loss looks at, or BERT's unused pooler.
            assert not parameter.requires_grad
            assert expected[name].grad is None or not expected[name].grad.any(), name
        else:
            close(parameter.grad, expected[name].grad, 2e-6)


@pytest.mark.slow
@each_body_and_loss("all terms")
@each_task
def test_sums_and_gradients_are_the_padded_computation(body, head, family, loss):
    compare_with_padded(body, head, family, loss, cached=False)


@pytest.mark.slow
@each_task
@each_loss
def test_what_is_known_of_a_teacher_gives_the_padded_computation(head, family, loss):
    """Known outputs have no body: here is one student of the two that are compared above."""
    compare_with_padded("distilbert", head, family, loss, cached=True)


@each_task
def test_every_divergence_is_the_padded_computation(head, family):
    if family == "number":
        return  # of numbers there is one, as above
    student, teacher = models_of("distilbert", head, family)
    inputs = inputs_of(head, family)
    terms = naive_terms(deepcopy(student), teacher, inputs, SAMPLES, head, family, 1.5)
    teacher = PlacedTeacher(teacher)
    module = TaskDistillation(student, teacher, outputs_of(head, family), DIVERGENCES)
    found = by_name(module, module(pack_inputs(inputs, SAMPLES), coefficients_of(module)))
    assert set(formulas.DIVERGENCES) < found.keys()
    for name in formulas.DIVERGENCES:
        close(found[name], terms[name].detach(), 2e-6)


@each_body_and_loss("all terms", "cosine")
@each_task
def test_every_trained_parameter_gets_a_gradient(body, head, family, loss):
    """Processes that train together wait for each of them."""
    student, teacher = models_of(body, head, family)
    module = TaskDistillation(student, PlacedTeacher(teacher), outputs_of(head, family), loss)
    batch = pack_inputs(inputs_of(head, family), SAMPLES)
    module.freeze_unused(batch)
    module(batch, coefficients_of(module)).total.backward()
    for name, parameter in student.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


@each_task
@each_loss
def test_counts_are_what_terms_are_summed_over(head, family, loss):
    """A student is a mean away from its teacher: of inputs, words, starts and ends, or tokens."""
    student, teacher = models_of("bert", head, family)
    module = TaskDistillation(student, PlacedTeacher(teacher), outputs_of(head, family), loss)
    inputs = inputs_of(head, family)
    outputs = {"sequence": len(SAMPLES), "span": 2 * len(SAMPLES)}.get(head)
    if outputs is None:
        outputs = sum(1 + LENGTHS[sample] // 3 for sample in SAMPLES)
    counts = {"hidden_cosine": sum(LENGTHS[sample] for sample in SAMPLES)}
    assert by_name(module, module.counts(pack_inputs(inputs, SAMPLES))) == {
        name: counts.get(name, outputs) for name, weight in loss.weights.items() if weight
    }


@each_task
@pytest.mark.parametrize("cuts", [[2], [1, 2, 3, 4]])
def test_sums_over_micro_batches_are_those_of_the_whole(head, family, cuts):
    student, teacher = models_of("bert", head, family)
    module = TaskDistillation(student, PlacedTeacher(teacher), outputs_of(head, family), ALL_TERMS)
    inputs = inputs_of(head, family)
    whole = pack_inputs(inputs, SAMPLES)
    coefficients = coefficients_of(module, module.counts(whole))
    expected = module(whole, coefficients)
    expected.total.backward()
    gradients = {name: p.grad.clone() for name, p in module.student.named_parameters()}
    module.student.zero_grad()
    terms, counts = torch.zeros(len(module.terms)), np.zeros(len(module.terms), int)
    for first, last in pairwise([0, *cuts, len(SAMPLES)]):
        part = pack_inputs(inputs, SAMPLES[first:last])
        sums = module(part, coefficients)
        sums.total.backward()
        terms, counts = terms + sums.terms, counts + module.counts(part)
    assert counts.tolist() == module.counts(whole)
    close(terms, expected.terms, 2e-6)
    for name, parameter in module.student.named_parameters():
        close(parameter.grad, gradients[name], 2e-6)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.data())
def test_starts_and_ends_are_rows_of_their_own_input(lengths, data):
    logit = st.floats(-9, 9, width=32)
    pairs = data.draw(
        st.lists(st.tuples(logit, logit), min_size=sum(lengths), max_size=sum(lengths))
    )
    rows = by_input(torch.tensor(pairs), lengths).tolist()
    assert len(rows) == 2 * len(lengths)
    begin = 0
    for index, length in enumerate(lengths):
        own = pairs[begin : begin + length]
        assert rows[index][:length] == [start for start, _ in own]
        assert rows[len(lengths) + index][:length] == [end for _, end in own]
        for row in (rows[index], rows[len(lengths) + index]):
            assert len(row) == max(lengths)
            assert all(value < -1e20 for value in row[length:])  # no share of any softmax
        begin += length


@each_task
def test_an_input_alone_is_an_input_among_others(head, family):
    """The filling up beside longer inputs gives no share away and no NaN, in fp32 as well."""
    student, teacher = models_of("bert", head, family)
    module = TaskDistillation(
        student.float(), PlacedTeacher(teacher.float()), outputs_of(head, family), ALL_TERMS
    )
    inputs, coefficients = inputs_of(head, family), coefficients_of(module)
    together = module(pack_inputs(inputs, SAMPLES), coefficients)
    alone = [module(pack_inputs(inputs, [sample]), coefficients) for sample in SAMPLES]
    close(together.terms, sum(one.terms for one in alone), 1e-5)
    together.total.backward()
    assert all(p.grad.isfinite().all() for p in student.parameters())


# The teacher


@each_task
def test_the_teacher_is_frozen_and_stays_in_eval_mode(head, family):
    student, teacher = models_of("bert", head, family)
    for module in teacher.train().modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    before = deepcopy(teacher.state_dict())
    module = TaskDistillation(student, PlacedTeacher(teacher), outputs_of(head, family), ALL_TERMS)
    assert module.train() is module
    assert all(part.training for part in student.modules())
    assert not any(part.training for part in teacher.modules())
    module(pack_inputs(inputs_of(head, family), SAMPLES), coefficients_of(module)).total.backward()
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert all(torch.equal(weight, before[name]) for name, weight in teacher.state_dict().items())
    module.eval()
    assert not student.training


@each_task
def test_teacher_and_student_alike_differ_in_labels_alone(head, family):
    _, teacher = models_of("distilbert", head, family)
    module = TaskDistillation(
        deepcopy(teacher), PlacedTeacher(teacher), outputs_of(head, family), ALL_TERMS
    )
    batch = pack_inputs(inputs_of(head, family), SAMPLES)
    found = by_name(module, module(batch, coefficients_of(module)))
    assert found.pop("labels") > 0.1
    assert found.pop("hidden_cosine").abs() < 1e-4
    assert len(found) >= 1
    assert all(value.abs() < 1e-5 for value in found.values())


@each_task
def test_without_a_teacher_labels_alone_count(head, family):
    student, _ = models_of("bert", head, family)
    module = TaskDistillation(student, None, outputs_of(head, family), ALL_TERMS)
    batch = pack_inputs(inputs_of(head, family), SAMPLES)
    assert by_name(module, module.alphas()) == {"labels": ALL_TERMS.labels.weight}
    assert module.counts(batch)[0] > 0
    assert module(batch, coefficients_of(module)).terms[0] > 0


@each_body
@each_task
def test_the_cosine_alone_freezes_the_head(body, head, family):
    student, teacher = models_of(body, head, family)
    module = TaskDistillation(
        student, PlacedTeacher(teacher), outputs_of(head, family), LOSSES["cosine"]
    )
    module.freeze_unused(pack_inputs(inputs_of(head, family), SAMPLES))
    frozen = {name for name, p in student.named_parameters() if not p.requires_grad}
    body_names = {
        f"{student.base_model_prefix}.{n}" for n, _ in student.base_model.named_parameters()
    }
    head_names = {name for name, _ in student.named_parameters()} - body_names
    assert frozen == head_names | {name for name in body_names if ".pooler." in name}
    assert head_names


@pytest.mark.parametrize("head", ["sequence", "token", "span"])
def test_bf16_autocast_is_near_the_padded_computation(head):
    student, teacher = models_of("bert", head, "one-of")
    plain_student, plain_teacher = deepcopy(student), deepcopy(teacher)
    module = TaskDistillation(
        student.float(), PlacedTeacher(teacher.bfloat16()), outputs_of(head, "one-of"), ALL_TERMS
    )
    inputs = inputs_of(head, "one-of")
    with torch.autocast("cpu", torch.bfloat16):
        found = module(pack_inputs(inputs, SAMPLES), coefficients_of(module))
    found.total.backward()
    assert all(p.grad.dtype is torch.float32 for p in student.parameters())
    expected = naive_terms(plain_student, plain_teacher, inputs, SAMPLES, head, "one-of", 3.0)
    expected = torch.stack([expected[term.name] for term in module.terms]).detach()
    torch.testing.assert_close(found.terms.double(), expected, rtol=0.05, atol=0.05)
    assert found.terms.dtype == torch.float32
