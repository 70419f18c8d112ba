"""Masked-LM training, one kind of run: a token store, dynamic masks, teacher and student."""

import os
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator

from distilcli.batches.masked import PackedBatch, held_out_batches, pack_masked
from distilcli.batches.masking import Masker
from distilcli.batches.plan import Draws
from distilcli.config.experiment import MaskedLMExperiment
from distilcli.corpus.store import TokenStore
from distilcli.distillation.held_out_terms import (
    compare_by_terms,
    held_out_means,
    predicts_tokens,
)
from distilcli.distillation.identity import (
    Identity,
    identity_of_model,
    identity_of_store,
    identity_of_teachers,
    identity_of_tokenizer,
)
from distilcli.distillation.loss_modules import Distillation
from distilcli.distillation.masked_lm_parts import (
    TextParts,
    assemble_unsaved,
    keep_or_save_initial_student,
    load_initial_student,
    load_teacher,
    make_student,
    parts_of,
)
from distilcli.distillation.measured_text import text_to_measure
from distilcli.distillation.objective import Objective, Scores
from distilcli.distillation.other_teachers import called_teachers, load_others
from distilcli.distillation.run_kind import (
    Audience,
    Place,
    RunKind,
    experiment_tokenizer,
    show_progress,
)
from distilcli.distillation.store_contents import contents_of, store_warnings
from distilcli.distillation.teachers import (
    ALONE,
    Ensemble,
    ModelTeacher,
    OffloadedTeacher,
    PlacedTeacher,
)
from distilcli.distillation.tokenization import (
    Tokenization,
    ensure_store,
    tokenization_of,
)
from distilcli.errors import ConfigError, DataError, ModelError
from distilcli.evaluation.asked import ALL_TEACHERS, Asked
from distilcli.evaluation.held_out import (
    held_out_masker,
    held_out_scores,
    unigram_loss,
)
from distilcli.evaluation.result import Result
from distilcli.evaluation.text import evaluate, lines_of, table_of
from distilcli.models.checks import check_vocabulary
from distilcli.models.families import MaskedLM
from distilcli.models.loading import load_masked_lm
from distilcli.text.tokenizer_checks import unknown_share

_SANITY_SEQUENCES = 200
# How far the student in a folder of a run is.
STUDENTS = {"initial-student": "at start", "student": "trained"}


class MaskedLMObjective(Objective):
    """Trains a student on masked text, beside its teacher if there is one.

    Args:
        experiment: all settings.
        parts: store, tokenizer, teacher and student; the student is trained in place.
        device: where the models will be.
    """

    module: Distillation

    def __init__(
        self, experiment: MaskedLMExperiment, parts: TextParts, device: torch.device
    ) -> None:
        self.experiment = experiment
        self.store = parts.store
        self.parts = parts
        self.tokenizer = parts.tokenizer
        teacher_ids = parts.tokenization.teacher_ids
        self._ids = None if teacher_ids is None else torch.from_numpy(teacher_ids)
        self.lengths = parts.store.train.lengths
        self.unknown_share = unknown_share(parts.store.token_counts, parts.tokenizer)
        self.num_held_out = len(parts.store.held_out)
        teacher: ModelTeacher | None = None
        ensemble = ALONE
        if parts.teacher is not None and experiment.teacher is not None:
            teacher, *others = (
                OffloadedTeacher(model, device, self._ids)
                if experiment.teacher.offload
                else PlacedTeacher(model, self._ids)
                for model in (parts.teacher, *parts.others)
            )
            ensemble = Ensemble(others, experiment.teacher.shares)
        self._teacher = None if teacher is None else teacher.model
        self.module = Distillation(
            parts.student, teacher, experiment.loss, experiment.seed, ensemble
        )
        compares = self.module.compares_logits
        self._unmasked_share = experiment.loss.unmasked_share if compares else 0.0
        self._masker = Masker(
            experiment.masking,
            parts.tokenizer,
            parts.store.manifest.vocab_size,
            parts.store.token_counts,
            experiment.seed,
        )

    def pack(self, draws: Draws) -> PackedBatch:
        """One micro-batch, each sample masked as in its epoch."""
        samples = draws.samples.tolist()
        return pack_masked(
            self.store.train,
            samples,
            self._masker,
            draws.epochs,
            self._unmasked_share,
            self.parts.tokenization.teacher_ids,
        )

    def held_out(self, accelerator: Accelerator) -> Scores:
        """Held-out scores of the student as it is now, beside its teacher."""
        batches = self._held_out_batches(
            self.store,
            self.parts.tokenization,
            self.experiment.validation.num_sequences,
            accelerator,
        )
        student = self.module.student
        if not predicts_tokens(self.experiment, (student, self._teacher)):
            return held_out_means(self.module, self.experiment.loss, batches, accelerator)
        return held_out_scores(student, self._teacher, batches, accelerator, teacher_ids=self._ids)

    def check_teacher(self, accelerator: Accelerator) -> dict[str, float | None]:
        """Held-out loss of each teacher and of token frequencies, in nats a masked token.

        Raises:
            ModelError: a teacher predicts held-out text no better than token frequencies do.
            NonFiniteLossError: a teacher that predicts nothing computes NaN.
        """
        if not self.num_held_out:
            return {"teacher_loss": None, "unigram_loss": None}
        if not predicts_tokens(self.experiment, (self.module.student, self._teacher)):
            return self._check_states(accelerator)
        store, tokenization = self.store, self.parts.tokenization
        if self.parts.whole_store is not None and tokenization.whole is not None:
            store, tokenization = self.parts.whole_store, tokenization.whole
        batches = self._held_out_batches(store, tokenization, _SANITY_SEQUENCES, accelerator)
        unigram = unigram_loss(store, batches, accelerator)
        if self._teacher is None:
            return {"teacher_loss": None, "unigram_loss": unigram}
        found: dict[str, float | None] = {}
        models = [self._teacher, *(other.model for other in self.module.others)]
        for called, model in zip(called_teachers(self.experiment), models, strict=True):
            loss = held_out_scores(model, None, batches, accelerator, called.where).loss
            if not loss < unigram:
                raise ModelError(
                    f"{called.where}: its held-out masked-LM loss, {loss:.3f}, is no better than "
                    f"the {unigram:.3f} of token frequencies alone",
                    "Check that the teacher and its tokenizer belong together and know this text.",
                )
            found[f"{called.key}_loss"] = loss
        return found | {"unigram_loss": unigram}

    def _check_states(self, accelerator: Accelerator) -> dict[str, float | None]:
        """Of a teacher that predicts nothing, look only whether what it computes is finite."""
        batches = self._held_out_batches(
            self.store, self.parts.tokenization, _SANITY_SEQUENCES, accelerator
        )
        where = " and ".join(called.where for called in called_teachers(self.experiment))
        held_out_means(self.module, self.experiment.loss, batches, accelerator, where)
        return {"teacher_loss": None, "unigram_loss": None}

    def _held_out_batches(
        self,
        store: TokenStore,
        tokenization: Tokenization,
        num_sequences: int,
        accelerator: Accelerator,
    ) -> list[PackedBatch]:
        experiment = self.experiment
        masker = held_out_masker(store, tokenization.tokenizer, experiment.masking.mlm_probability)
        batches = held_out_batches(
            store.held_out,
            masker,
            num_sequences,
            experiment.train.tokens_per_micro_batch,
            accelerator.process_index,
            accelerator.num_processes,
            tokenization.teacher_ids,
        )
        return list(batches)


class MaskedLMRun(RunKind[MaskedLMExperiment, TextParts]):
    """Masked-LM training on a token store."""

    def prepare(self, num_proc: int, audience: Audience) -> Result:
        """Prepare the token store, or find that it is there, and say what it holds."""

        def make(tokenization: Tokenization) -> TokenStore:
            return _prepared(tokenization, num_proc, audience)

        tokenization = tokenization_of(self.experiment, make)
        return contents_of(make(tokenization), tokenization)

    def assemble(
        self, device: torch.device, initial_student: Path, place: Place | None, audience: Audience
    ) -> TextParts:
        """Load the parts; the main process makes store and initial student where they are missing.

        Raises:
            DataError, ModelError: see `open_store`, `load_teacher` and `make_student`.
        """
        experiment = self.experiment
        if place is None:
            tokenization = tokenization_of(experiment)
        else:
            tokenization = self._make_what_is_missing(place, audience)
        # The main process has read every byte of it by now.
        store = tokenization.open_store(by_content=False)
        student = load_initial_student(experiment, initial_student)
        return parts_of(experiment, tokenization, store, student, device)

    def _make_what_is_missing(self, place: Place, audience: Audience) -> Tokenization:
        experiment = self.experiment

        def make(tokenization: Tokenization) -> TokenStore:
            with audience.bar("prepare") as bar:
                return ensure_store(tokenization, os.cpu_count() or 1, show_progress(bar))

        place.take()
        # Models first: a mistake there must not cost the hours that preparing a corpus may take.
        teacher = None if place.keeps_student else load_teacher(experiment)
        if not place.keeps_student:
            load_others(experiment, teacher, experiment_tokenizer(experiment))
        tokenization = tokenization_of(experiment, make)
        student = None
        if not place.keeps_student:
            student = make_student(experiment, teacher, tokenization, make)
        store = make(tokenization)
        # All checks before anything of the run is written: what fails them must not lie there.
        if student is not None:
            check_vocabulary(student, store.manifest.vocab_size, "the student")
        place.begin()
        if student is not None:
            keep_or_save_initial_student(
                student,
                tokenization.tokenizer,
                place.initial_student,
                is_computed=experiment.student.is_computed,
            )
        return tokenization

    def assemble_unsaved(self, device: torch.device, *, by_content: bool) -> TextParts:
        """The parts with a student that is made in memory."""
        return assemble_unsaved(self.experiment, device, by_content=by_content)

    def warn_about_data(self, parts: TextParts, audience: Audience) -> None:
        """Warn of what a user should know of the store."""
        for warning in store_warnings(parts.store, parts.tokenizer):
            audience.warn(warning)

    def identity(self, parts: TextParts, initial_student: Path) -> Identity:
        """Teacher, student at start, tokenizer, and the store for the text."""
        found = identity_of_tokenizer(parts.tokenizer) | identity_of_store(parts.store)
        found |= identity_of_teachers(self.experiment.teacher)
        return found | identity_of_model("initial student", str(initial_student))

    def objective(
        self,
        parts: TextParts,
        accelerator: Accelerator,
        on_note: Callable[[str], None],
        *,
        may_write: bool = True,
    ) -> MaskedLMObjective:
        """Masked text, teacher and student; nothing is written."""
        return MaskedLMObjective(self.experiment, parts, accelerator.device)

    def check_asked(self, asked: Asked) -> None:
        """Refuse examples, which are of a task, and a second teacher.

        Raises:
            ConfigError: naming the option.
        """
        if asked.dev:
            raise ConfigError(
                "--dev needs an experiment on a task; this one is masked-LM training",
                "Measure on text with --text FILE.",
            )
        if asked.documents is not None and not asked.text:
            raise ConfigError("--documents can only be used with --text")
        if asked.teacher is not None:
            raise ConfigError(
                "--teacher: the experiment names its teacher", "Override it: teacher.model=..."
            )

    def label(self, run: str, student: str) -> str:
        """The run, and how far its student is."""
        return f"{run} {STUDENTS.get(student, student)}"

    def compare(
        self, paths: dict[str, str], asked: Asked, accelerator: Accelerator, audience: Audience
    ) -> Result:
        """Quality on held-out text, or on text that is asked for, size and speed on the CPU.

        Raises:
            DataError, ModelError: text or models cannot be used, or do not fit together.
        """
        experiment = self.experiment
        models: dict[str, MaskedLM] = {}
        teachers = {called.name: called.model for called in called_teachers(experiment)}
        teacher = load_teacher(experiment)
        if teacher is not None:
            others = load_others(experiment, teacher, experiment_tokenizer(experiment))
            models = dict(zip(teachers, (teacher, *others), strict=True))
        needs_head = experiment.loss.asks_for_logits
        models |= {
            label: load_masked_lm(path, role="student", needs_head=needs_head)
            for label, path in paths.items()
        }
        text = text_to_measure(experiment, paths, asked, audience)
        for name, model in models.items():
            check_vocabulary(model, text.store.manifest.vocab_size, name)
        if not predicts_tokens(experiment, models.values()):
            places = teachers | paths
            return compare_by_terms(
                experiment, models, list(teachers), places, text, asked, accelerator, audience
            )
        rows = evaluate(
            models,
            list(teachers),
            text,
            experiment.train.tokens_per_micro_batch,
            accelerator,
            audience.note,
            asked.num_sequences,
            with_speed=asked.speed is not False,
            shares=experiment.teacher.shares if experiment.teacher is not None else (),
        )
        paths = teachers | {ALL_TEACHERS: ", ".join(teachers.values())} | paths
        found = {row.name: {"path": paths[row.name], **row.record()} for row in rows}
        record = {"text": text.record, "models": found}
        return Result(table_of(rows, text), lines_of(rows, text), record)


def _prepared(tokenization: Tokenization, num_proc: int, audience: Audience) -> TokenStore:
    """The store of a tokenization, made where it is not there, or not whole."""
    folder = tokenization.data.store
    if tokenization.is_prepared():
        try:
            store = tokenization.open_store()
        except DataError as error:
            audience.warn(f"{error.message}; what is damaged is made anew")
        else:
            audience.note(f"{folder}: already prepared")
            return store
    with audience.bar("prepare") as bar:
        return tokenization.prepare(num_proc, show_progress(bar))
