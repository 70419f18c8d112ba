"""The parts of masked-LM training: tokens, teacher and initial student."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from distilcli.batches.masked import PackedBatch
from distilcli.config.experiment import MaskedLMExperiment
from distilcli.config.models import CheckpointStudent, CopiedStudent
from distilcli.corpus.store import TokenStore
from distilcli.distillation.inner_terms import check_terms
from distilcli.distillation.other_teachers import load_others
from distilcli.distillation.run_kind import Parts
from distilcli.distillation.sample_text import masked_sample
from distilcli.distillation.tokenization import (
    Tokenization,
    refuse_other_tokens,
    tokenization_of,
)
from distilcli.errors import ModelError
from distilcli.losses.table import MASKED_LM_TERMS
from distilcli.models.checks import check_length, check_pair, check_tokenizer, check_vocabulary
from distilcli.models.families import MaskedLM, is_masked_lm
from distilcli.models.loading import load_masked_lm
from distilcli.models.placement import resolve_precision
from distilcli.models.saving import first_difference, save_verified
from distilcli.models.students import build_student
from distilcli.models.vocabulary import trim_vocabulary


@dataclass(frozen=True)
class TextParts(Parts):
    """What masked-LM training needs.

    Attributes:
        tokenization: which tokens student and teacher read.
        store: of the student's tokens.
        whole_store: of the teacher's, where these are others; else None.
    """

    teacher: MaskedLM | None
    others: tuple[MaskedLM, ...] = field(default=(), kw_only=True)
    student: MaskedLM
    tokenization: Tokenization
    store: TokenStore
    whole_store: TokenStore | None


def load_teacher(
    experiment: MaskedLMExperiment, dtype: torch.dtype = torch.float32
) -> MaskedLM | None:
    """The experiment's teacher, checked against its sequences; None without one."""
    if experiment.teacher is None:
        return None
    teacher = load_masked_lm(
        experiment.teacher.model,
        revision=experiment.teacher.revision,
        dtype=dtype,
        needs_head=experiment.loss.asks_for_logits,
    )
    check_length(teacher, experiment.data.max_length)
    return teacher


def make_student(
    experiment: MaskedLMExperiment,
    teacher: MaskedLM | None,
    tokenization: Tokenization,
    make_store: Callable[[Tokenization], TokenStore] = Tokenization.open_store,
) -> MaskedLM:
    """The student as the experiment says it starts, checked against teacher and tokenizer.

    Args:
        experiment: all settings.
        teacher: in fp32.
        tokenization: of the student.
        make_store: gives the store of a tokenization, whose text a narrower student is made by.

    Raises:
        ConfigError, DataError, ModelError: the student cannot be made, or does not fit.
    """
    source, whole = experiment.student.named_model, tokenization.whole or tokenization
    if isinstance(experiment.student, CopiedStudent) and source is not None:
        refuse_other_tokens(f"student.source {source}", source, whole.tokenizer)

    def sequences() -> list[PackedBatch]:
        text = make_store(whole)
        return masked_sample(
            text.train, text.token_counts, whole.tokenizer, experiment.masking, experiment.seed
        )

    student = build_student(
        experiment.student,
        teacher,
        experiment.seed,
        experiment.loss.asks_for_logits,
        sequences,
    )
    if experiment.student.kept_vocabulary is not None:
        assert tokenization.kept is not None
        assert tokenization.whole is not None
        # Of a source with another vocabulary, the rows that are kept would be of other tokens.
        check_student(experiment, student, teacher, tokenization.whole)
        check_tokenizer(student, tokenization.whole.tokenizer, "the student")
        student = trim_vocabulary(student, tokenization.kept, tokenization.tokenizer)
    check_student(experiment, student, teacher, tokenization)
    check_tokenizer(student, tokenization.tokenizer, "the student")
    return student


def teacher_dtype(experiment: MaskedLMExperiment, device: torch.device) -> torch.dtype:
    """What the teacher's weights are held in on this device."""
    if experiment.teacher is None:
        return torch.float32
    return resolve_precision(experiment.teacher.precision, device)


def assemble_unsaved(
    experiment: MaskedLMExperiment, device: torch.device, *, by_content: bool = True
) -> TextParts:
    """The parts with a student that is made in memory; the store must be there.

    Args:
        experiment: what to assemble.
        device: decides the teacher's precision.
        by_content: see `Tokenization.open_store`.

    Raises:
        DataError, ModelError: see `Tokenization.open_store`, `load_teacher` and `make_student`.
    """
    tokenization = tokenization_of(experiment)
    store = tokenization.open_store(by_content=by_content)
    # Copied before the teacher's precision is lowered: the student starts from fp32.
    student = make_student(experiment, load_teacher(experiment), tokenization)
    return parts_of(experiment, tokenization, store, student, device)


def parts_of(
    experiment: MaskedLMExperiment,
    tokenization: Tokenization,
    store: TokenStore,
    student: MaskedLM,
    device: torch.device,
) -> TextParts:
    """The parts, with the teacher as it is run on this device.

    Raises:
        DataError, ModelError: they do not fit together.
    """
    teacher = load_teacher(experiment, teacher_dtype(experiment, device))
    whole = tokenization.whole if tokenization.is_paired else None
    others = load_others(experiment, teacher, (whole or tokenization).tokenizer, device)
    check_student(experiment, student, teacher, tokenization)
    check_vocabulary(student, store.manifest.vocab_size, "the student")
    whole_store = None if whole is None else whole.open_store(by_content=False)
    return TextParts(
        tokenization.tokenizer,
        teacher,
        student,
        tokenization,
        store,
        whole_store,
        others=others,
    )


def check_student(
    experiment: MaskedLMExperiment,
    student: MaskedLM,
    teacher: MaskedLM | None,
    tokenization: Tokenization,
) -> None:
    """Refuse a student that cannot be trained in this experiment.

    Raises:
        ConfigError, ModelError: vocabulary, positions or what a loss term compares do not fit.
    """
    check_length(student, experiment.data.max_length)
    if teacher is not None:
        ids = tokenization.teacher_ids
        check_pair(student, teacher, None if ids is None else len(ids))
        check_terms(MASKED_LM_TERMS, experiment.loss, student, teacher)


# A narrower student is computed, with another rounding on another machine or with other threads.
_ROUNDING = 1e-2


def keep_or_save_initial_student(
    student: MaskedLM,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    *,
    is_computed: bool = False,
) -> None:
    """Save the student that the experiment starts from, or check that it is already there.

    Args:
        student: made by this process.
        tokenizer: of it.
        folder: where it lies, or is saved.
        is_computed: whether its weights are no copies, but computed from a text.

    Raises:
        ModelError: another one lies there: of other settings, of another teacher, or edited.
    """
    if not folder.exists():
        save_verified(student, tokenizer, folder)
        return
    there = load_masked_lm(str(folder.resolve()), role="student", needs_head=is_masked_lm(student))
    differing = first_difference(student, there, _ROUNDING if is_computed else 0.0)
    if differing is not None:
        raise ModelError(
            f"{folder}: not the student that this experiment starts from ({differing} differs): "
            "the settings or the teacher have changed since it was made",
            "Make it anew with --force, or choose another name=...",
        )


def load_initial_student(experiment: MaskedLMExperiment, folder: Path) -> MaskedLM:
    """The student that lies in the run folder, with the experiment's dropout."""
    return build_student(
        CheckpointStudent(
            model=str(folder),
            dropout=experiment.student.dropout,
            attention_dropout=experiment.student.attention_dropout,
        ),
        None,
        experiment.seed,
        experiment.loss.asks_for_logits,
    )
