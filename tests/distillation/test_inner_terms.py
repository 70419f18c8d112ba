"""Terms that look inside the models, against hidden states that transformers itself gives."""

import pytest
import torch
from loss_settings import weights
from packed_batches import make_masker, random_split
from tiny_families import HIDDEN, exact_attention, tiny_masked_lm
from torch import Tensor

from distilcli.batches.masked import PackedBatch, pack_masked
from distilcli.config.losses import LossConfig
from distilcli.distillation.loss_modules import Distillation
from distilcli.distillation.teachers import PlacedTeacher
from distilcli.models.families import FAMILIES

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
