"""Teacher, student and loss terms as one module: what accelerate wraps, so that DDP sees every use.

`forward` takes one packed micro-batch and returns the weighted total, which carries the gradient,
and the plain sum of each term. Nothing is averaged here, and no term is known by its name: which
there are is in `losses/table.py`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from distilcli.batches.masked import PackedBatch
from distilcli.config.losses import LossConfig, TaskLossConfig
from distilcli.distillation.inner_terms import Looks, Projections
from distilcli.distillation.teachers import ALONE, Ensemble, ModelTeacher, Teacher
from distilcli.losses.fused_head import fused_vocabulary_losses
from distilcli.losses.projections import Mixture, Projection
from distilcli.losses.table import MASKED_LM_TERMS, TASK_TERMS, wanted_terms
from distilcli.losses.terms import Counts, HiddenTerm, OutputTerm, Rows, Term, VocabularyTerm
from distilcli.models.attention import Packing, use_packed_attention
from distilcli.models.dropout import use_few_bits
from distilcli.models.families import MaskedLM
from distilcli.models.inside import Inside
from distilcli.models.running import run_encoder, run_model, vocabulary_projection
from distilcli.tasks.inputs import TaskBatch
from distilcli.tasks.outputs import Outputs

Coefficients = Sequence[Float[Tensor, ""]]


class LossSums(NamedTuple):
    """One micro-batch: the weighted total, and the sum of each term, detached, in their order."""

    total: Float[Tensor, ""]
    terms: Float[Tensor, " terms"]


class LossModule(nn.Module, ABC):
    """Teacher, student and losses as one module: what accelerate wraps, so that DDP sees every use.

    Its `forward(batch, coefficients)` gives `LossSums`; coefficients are weight over global count
    of each term. Nothing is averaged here.

    Args:
        student: the model that is trained.
        teacher: what it is compared with; None: nothing is.
        terms: the losses that are wanted.
        seed: of the projections that are learned beside the student.
        ensemble: the teachers that the first one is averaged with.
    """

    student: PreTrainedModel
    #: Whether what is done to logits over a vocabulary is compiled; on a GPU alone.
    compiles_losses = False

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: Teacher | None,
        terms: Sequence[Term],
        seed: int,
        ensemble: Ensemble,
    ) -> None:
        super().__init__()
        self.student = student
        self.teacher = teacher
        self.others: Any = nn.ModuleList(ensemble.others)  # of `Teacher`s, which it cannot say
        self.shares = ensemble.shares
        self.terms = tuple(terms)
        self._on_hidden = [term for term in terms if isinstance(term, HiddenTerm)]
        running = teacher.model if isinstance(teacher, ModelTeacher) else None
        self._looks = Looks(terms, student, running)
        width = None if teacher is None else teacher.width
        self.projections = Projections(terms, student, width, seed)
        use_packed_attention(student)
        use_few_bits(student)

    def compilable(self) -> list[PreTrainedModel]:
        """The models whose layers `train.compile` compiles."""
        of_teachers = (teacher.compilable() for teacher in self.teachers())
        return [self.student, *(model for models in of_teachers for model in models)]

    def teachers(self) -> list[Teacher]:
        """All of them, the first one first."""
        return [] if self.teacher is None else [self.teacher, *self.others]

    def counts(self, batch: Any) -> list[int]:
        """What the sum of each term over a micro-batch is divided by, once all are added up."""
        counts = self._counts_of(batch)
        return [term.count(counts) for term in self.terms]

    def alphas(self) -> list[float]:
        """Weight of each term at the present step."""
        return [term.weight for term in self.terms]

    def set_step(self, step: int, total_steps: int) -> None:
        """Give the terms the weights and temperatures of one step.

        Args:
            step: from 0.
            total_steps: of the run, over which they may change.
        """
        for term in self.terms:
            term.set_progress(step / max(total_steps - 1, 1))

    def changing(self) -> dict[str, float]:
        """Weights and temperatures that change over a run, as they are now, by keys of records."""
        return {key: value for term in self.terms for key, value in term.changing().items()}

    def trained(self) -> dict[str, nn.Parameter]:
        """What training changes or saves: the student's parameters and those of projections.

        The student's are named as in the student, the others `projections.TERM.weight`.
        """
        of_student = dict(self.student.named_parameters())
        return of_student | dict(self.projections.named_parameters(prefix="projections"))

    def freeze_unused(self, batch: Any) -> None:
        """Freeze the parameters that no wanted term gives a gradient: DDP would wait for one.

        Which these are, a micro-batch shows: what there is in it makes no difference.

        Args:
            batch: on this module's device.
        """
        wanting = [parameter for parameter in self.parameters() if parameter.requires_grad]
        device = self.student.device
        cuda = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(cuda):  # of dropout
            ones = [torch.ones((), device=device) for _ in self.terms]
            total = self(batch, ones).total
            gradients: Sequence[Tensor | None] = torch.autograd.grad(
                total, wanting, allow_unused=True
            )
        for parameter, gradient in zip(wanting, gradients, strict=True):
            if gradient is None:
                parameter.requires_grad_(False)

    def _add_hidden(self, sums: "Sums", student: Tensor, teacher: Tensor) -> None:
        """Add the terms on last hidden states, of the tokens that both models read."""
        for term in self._on_hidden:
            sums.add(term, term.sum(self.projections.of(term, student), teacher))

    def _add_inner(
        self, sums: "Sums", student: Inside, teacher: Inside, lengths: Sequence[int]
    ) -> None:
        """Add the terms on what is inside, of the tokens that both models read."""
        for term in self._looks.places:
            compared = [
                (self.projections.of(term, ours), theirs)
                for ours, theirs in self._looks.compared(term, student, teacher)
            ]
            sums.add(term, term.sum(compared, lengths))

    @abstractmethod
    def _counts_of(self, batch: Any) -> Counts:
        """What there is to compare in a micro-batch."""


class Sums:
    """Adds up the terms of one micro-batch, in whatever order they come.

    Args:
        terms: all that will come.
        coefficients: of each.
        like: a tensor of the device and of the precision that the total starts in.
    """

    def __init__(self, terms: Sequence[Term], coefficients: Coefficients, like: Tensor) -> None:
        self.of = dict(zip(terms, coefficients, strict=True))
        self._total = like.new_zeros((), dtype=torch.float32)
        self._found: dict[Term, Tensor] = {}

    def add(self, term: Term, value: Float[Tensor, ""]) -> None:
        """Add one term, whose sum carries its gradient."""
        self.add_together(self.of[term] * value, {term: value})

    def add_together(self, total: Float[Tensor, ""], sums: Mapping[Term, Tensor]) -> None:
        """Add several terms, or parts of them, whose gradient the weighted total carries."""
        self._total = self._total + total
        for term, value in sums.items():
            self._found[term] = self._found[term] + value if term in self._found else value

    def result(self) -> LossSums:
        """The total, and the sums in the order of the terms."""
        return LossSums(self._total, torch.stack([self._found[term] for term in self.of]).detach())


class Distillation(LossModule):
    """Runs student and teacher over the same masked input and compares them.

    Args:
        student: the model that is trained.
        teacher: runs in every step; None: hard targets alone.
        loss: weights, temperature, positions.
        seed: see `LossModule`.
        ensemble: other teachers that run in every step, if there are any.
    """

    student: MaskedLM
    teacher: ModelTeacher | None

    def __init__(
        self,
        student: MaskedLM,
        teacher: ModelTeacher | None,
        loss: LossConfig,
        seed: int = 0,
        ensemble: Ensemble = ALONE,
    ) -> None:
        has_teacher = teacher is not None
        terms = wanted_terms(MASKED_LM_TERMS, loss, has_teacher)
        super().__init__(student, teacher, terms, seed, ensemble)
        self._on_logits = [term for term in terms if isinstance(term, VocabularyTerm)]
        self._compares = any(term.needs_teacher for term in terms)

    def forward(self, batch: PackedBatch, coefficients: Coefficients) -> LossSums:
        """Loss sums of one micro-batch.

        Args:
            batch: packed sequences on this module's device.
            coefficients: weight over global count of each term.
        """
        packing = Packing.of(batch)
        row, teacher_hidden, taught = batch.teacher_row, None, Inside()
        if self.teacher is not None and self._compares:
            # First, while nothing is kept yet for the student's backward pass.
            with self._looks.of_teacher.recording() as taught:
                if row is None:
                    teacher_hidden = self.teacher.hidden(batch, packing)
                else:
                    teacher_hidden = self.teacher.hidden(row, Packing.of(row))
        others = self._projections_of_others(batch) if self.compares_logits else []
        with self._looks.of_student.recording() as found:
            student_hidden = run_encoder(self.student, batch, packing)
        sums = Sums(self.terms, coefficients, student_hidden)
        if self._on_logits:
            self._add_logit_terms(sums, batch, student_hidden, teacher_hidden, others)
        lengths = batch.lengths
        if row is not None:
            lengths = row.pair_lengths
            found = {place: states[row.student_pairs] for place, states in found.items()}
            taught = {place: states[row.pairs] for place, states in taught.items()}
        if self._on_hidden:
            assert teacher_hidden is not None
            if row is not None:
                student_hidden = student_hidden[row.student_pairs]
                teacher_hidden = teacher_hidden[row.pairs]
            self._add_hidden(sums, student_hidden, teacher_hidden)
        self._add_inner(sums, found, taught, lengths)
        return sums.result()

    @property
    def compares_logits(self) -> bool:
        """Whether some term compares logits with the teacher's."""
        return any(term.needs_teacher for term in self._on_logits)

    def _counts_of(self, batch: PackedBatch) -> Counts:
        return Counts(batch.num_compared, batch.num_soft, batch.num_masked)

    def _projections_of_others(self, batch: PackedBatch) -> list[Projection]:
        """Of each teacher but the first what its logits are made of, where they are compared."""
        row = batch if batch.teacher_row is None else batch.teacher_row
        packing = Packing.of(row)
        return [
            other.projection(other.hidden(row, packing)[row.soft_positions])
            for other in self.others
        ]

    def _add_logit_terms(
        self,
        sums: Sums,
        batch: PackedBatch,
        student_hidden: Float[Tensor, "tokens hidden"],
        teacher_hidden: Float[Tensor, "tokens hidden"] | None,
        others: Sequence[Projection],
    ) -> None:
        positions, num_labelled = batch.masked_positions, batch.num_masked
        teacher: Projection | Mixture | None = None
        if self.compares_logits:
            assert self.teacher is not None
            assert teacher_hidden is not None
            positions, num_labelled = batch.soft_positions, batch.num_soft_masked
            row = batch.teacher_row
            in_row = positions if row is None else row.soft_positions
            first = self.teacher.projection(teacher_hidden[in_row])
            teacher = Mixture([first, *others], self.shares) if others else first
            on_labels = [term for term in self._on_logits if not term.needs_teacher]
            if on_labels and batch.lone_positions.shape[0]:
                lone = batch.lone_positions
                hidden = student_hidden[lone]
                self._add_at(sums, on_labels, hidden, batch.labels[lone], None)
        labels = batch.labels[positions[:num_labelled]]
        self._add_at(sums, self._on_logits, student_hidden[positions], labels, teacher)

    def _add_at(
        self,
        sums: Sums,
        terms: list[VocabularyTerm],
        hidden: Float[Tensor, "positions hidden"],
        labels: Int[Tensor, " labelled"],
        teacher: Projection | Mixture | None,
    ) -> None:
        """Add terms at some positions, of which the first len(labels) have a label."""
        found = fused_vocabulary_losses(
            vocabulary_projection(self.student, hidden),
            teacher,
            labels,
            terms,
            [sums.of[term] for term in terms],
            compiled=self.compiles_losses,
        )
        sums.add_together(found.total, dict(zip(terms, found.sums, strict=True)))


class TaskDistillation(LossModule):
    """Runs the student over inputs of a task and compares it with labels and teacher.

    Args:
        student: the model that is trained.
        teacher: runs in every step, or has run already; None: labels alone.
        outputs: what a task's outputs are.
        loss: weights and temperature.
        seed: see `LossModule`.
        ensemble: other teachers, which run or have run as the first one, if there are any.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: Teacher | None,
        outputs: Outputs,
        loss: TaskLossConfig,
        seed: int = 0,
        ensemble: Ensemble = ALONE,
    ) -> None:
        has_teacher = teacher is not None
        terms = wanted_terms(TASK_TERMS, loss, has_teacher)
        super().__init__(student, teacher, terms, seed, ensemble)
        self.outputs = outputs
        self._on_rows = [term for term in terms if isinstance(term, OutputTerm)]

    def forward(self, batch: TaskBatch, coefficients: Coefficients) -> LossSums:
        """Loss sums of one micro-batch.

        Args:
            batch: packed inputs on this module's device.
            coefficients: weight over global count of each term.
        """
        taught: list[Tensor] = []
        teacher_hidden = None
        with self._looks.of_teacher.recording() as inside_teacher:
            if self.teacher is not None:
                first, teacher_hidden = self.teacher.outputs(batch)
                taught = [first]
        taught += [other.outputs(batch)[0] for other in self.others]
        with self._looks.of_student.recording() as inside_student:
            found, hidden = run_model(self.student, batch)
        sums = Sums(self.terms, coefficients, found)
        if self._on_rows:
            rows = self._rows(batch, found, taught)
            for on_rows in self._on_rows:
                sums.add(on_rows, on_rows.sum_of_rows(rows))
        if self._on_hidden:
            assert teacher_hidden is not None
            self._add_hidden(sums, hidden, teacher_hidden)
        self._add_inner(sums, inside_student, inside_teacher, batch.lengths)
        return sums.result()

    def _rows(self, batch: TaskBatch, found: Tensor, taught: Sequence[Tensor]) -> Rows:
        return Rows(
            self.outputs,
            self.outputs.rows(found, batch.lengths),
            [self.outputs.rows(one.float(), batch.lengths) for one in taught],
            self.outputs.targets(batch.targets),
            self.shares,
            batch.candidates.sizes if batch.candidates is not None else (),
        )

    def _counts_of(self, batch: TaskBatch) -> Counts:
        return self.outputs.counts(batch)
