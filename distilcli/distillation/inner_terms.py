"""What loss terms look at inside student and teacher, and the projections between their widths."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from distilcli.config.losses import BaseLoss
from distilcli.errors import ConfigError
from distilcli.files.digests import text_digest
from distilcli.losses.inside import CannotCompare, Compared, InnerTerm, Pair, Shape
from distilcli.losses.table import wanted_terms
from distilcli.losses.terms import Term
from distilcli.models.inside import Inside, Recorder, shape_of


def check_terms(
    table: Sequence[type[Term]], loss: BaseLoss, student: PreTrainedModel, teacher: PreTrainedModel
) -> None:
    """Refuse a pair of models in which some wanted term finds nothing to compare.

    Raises:
        ConfigError: naming the term's section.
    """
    for term in wanted_terms(table, loss, has_teacher=True):
        try:
            places_of([term], shape_of(student), shape_of(teacher))
        except CannotCompare as error:
            raise ConfigError(f"loss.{term.name}.{error}", error.hint) from error


def places_of(
    terms: Sequence[Term], student: Shape, teacher: Shape
) -> dict[InnerTerm, tuple[Pair, ...]]:
    """Where each term that looks inside looks."""
    inner = [term for term in terms if isinstance(term, InnerTerm)]
    return {term: tuple(term.places(student, teacher)) for term in inner}


class Looks:
    """What the terms of a run look at inside the two models.

    Args:
        terms: all of the run; those that do not look inside are passed over.
        student: is hooked into, where a term looks.
        teacher: likewise; None: it does not run, and no term looks.
    """

    def __init__(
        self, terms: Sequence[Term], student: PreTrainedModel, teacher: PreTrainedModel | None
    ) -> None:
        self.places: Mapping[InnerTerm, tuple[Pair, ...]] = {}
        if teacher is not None:
            self.places = places_of(terms, shape_of(student), shape_of(teacher))
        pairs = [pair for of_term in self.places.values() for pair in of_term]
        self.of_student = Recorder(student, {pair.student for pair in pairs})
        self.of_teacher = Recorder(teacher or student, {pair.teacher for pair in pairs})

    def compared(self, term: InnerTerm, student: Inside, teacher: Inside) -> list[Compared]:
        """What a term compares, of what was found in both models."""
        return [(student[pair.student], teacher[pair.teacher]) for pair in self.places[term]]


class Projections(nn.ModuleDict):
    """From the student's width to the teacher's, for the terms that need one width; trained.

    One for each term, for all layers: W_h and W_e of Jiao et al. 2020 (TinyBERT), eq. 8 and 9. They
    begin as random matrices that keep the size of what they project, and are no part of the
    student.

    Args:
        terms: all of the run.
        student: whose states are projected.
        teacher_width: of the teacher's hidden states; None: there is no teacher.
        seed: decides what they begin as, with the name of the term.
    """

    def __init__(
        self,
        terms: Sequence[Term],
        student: PreTrainedModel,
        teacher_width: int | None,
        seed: int,
    ) -> None:
        super().__init__()
        width = shape_of(student).width
        if teacher_width is None or teacher_width == width:
            return
        for term in terms:
            if term.needs_one_width:
                weight = _random_projection(width, teacher_width, f"{seed} {term.name}")
                projection = nn.Linear(width, teacher_width, bias=False, device="meta")
                projection.weight = nn.Parameter(weight.to(student.dtype))
                self[term.name] = projection

    def of(self, term: Term, states: Tensor) -> Tensor:
        """States of the student, projected if the term needs that; [tokens, teacher's width]."""
        projected: Tensor = self[term.name](states) if term.name in self else states
        return projected


def _random_projection(width: int, teacher_width: int, seed: str) -> Tensor:
    generator = torch.Generator().manual_seed(int(text_digest(seed)[:15], 16))
    return torch.randn(teacher_width, width, generator=generator) / math.sqrt(width)
