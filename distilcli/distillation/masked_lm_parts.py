"""The parts of masked-LM training: tokenizer, token store, teacher and initial student.

What is missing is made, by one process while the others wait.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from distilcli.config.experiment import MaskedLMExperiment
from distilcli.config.models import CheckpointStudent
from distilcli.corpus.prepare import Progress, is_prepared, prepare
from distilcli.corpus.store import TokenStore
from distilcli.distillation.run_kind import Parts, experiment_tokenizer
from distilcli.errors import DataError, ModelError
from distilcli.files.atomic import recover_all
from distilcli.losses.table import MASKED_LM_TERMS, hidden_terms
from distilcli.models.checks import check_length, check_pair, check_tokenizer, check_vocabulary
from distilcli.models.families import MaskedLM
from distilcli.models.loading import load_masked_lm
from distilcli.models.placement import resolve_precision
from distilcli.models.saving import first_difference, save_verified
from distilcli.models.students import build_student
from distilcli.text.tokenizer_checks import unknown_share, unknown_warning


@dataclass(frozen=True)
class TextParts(Parts):
    """What masked-LM training needs.

    Attributes:
        store: the token store.
    """

    teacher: MaskedLM | None
    student: MaskedLM
    store: TokenStore


def open_store(
    experiment: MaskedLMExperiment, tokenizer: PreTrainedTokenizerFast, *, by_content: bool = True
) -> TokenStore:
    """The experiment's finished token store.

    Args:
        experiment: names it.
        tokenizer: which it must have been made with.
        by_content: read every byte of it (`TokenStore.open`); one process of a run does.

    Raises:
        DataError: it is not there, not finished, or made with another tokenizer or settings.
    """
    store = TokenStore.open(Path(experiment.data.store), by_content=by_content)
    store.check_tokenizer(tokenizer)
    if not is_prepared(experiment.data, tokenizer, by_content=by_content):
        raise DataError(
            f"{experiment.data.store}: made with other data settings than this experiment's",
            "Name another data.store, or make the data section as it was.",
        )
    return store


def ensure_store(
    experiment: MaskedLMExperiment,
    tokenizer: PreTrainedTokenizerFast,
    num_proc: int,
    on_progress: Callable[[Progress], None] | None = None,
) -> TokenStore:
    """The experiment's token store, prepared first if it is missing or unfinished."""
    recover_all(Path(experiment.data.store))
    if is_prepared(experiment.data, tokenizer):
        return open_store(experiment, tokenizer)
    return prepare(experiment.data, tokenizer, num_proc, on_progress)


def store_warnings(store: TokenStore, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """What a user should know of a store before trusting what is trained on it."""
    share = unknown_share(store.token_counts, tokenizer)
    found = [unknown_warning(share, tokenizer), store.manifest.overlap.warning]
    if not store.has_digests:
        found.append(
            "made before token stores had digests: a damaged byte in it would not be noticed; "
            "delete it and run distilcli prepare, and it has them"
        )
    return [f"{store.folder}: {warning}" for warning in found if warning]


def load_teacher(
    experiment: MaskedLMExperiment, dtype: torch.dtype = torch.float32
) -> MaskedLM | None:
    """The experiment's teacher, checked against its sequences; None without one."""
    if experiment.teacher is None:
        return None
    teacher = load_masked_lm(
        experiment.teacher.model, revision=experiment.teacher.revision, dtype=dtype
    )
    check_length(teacher, experiment.data.max_length)
    return teacher


def make_student(
    experiment: MaskedLMExperiment, teacher: MaskedLM | None, tokenizer: PreTrainedTokenizerFast
) -> MaskedLM:
    """The student as the experiment says it starts, checked against teacher and tokenizer."""
    student = build_student(experiment.student, teacher, experiment.seed)
    check_student(experiment, student, teacher)
    check_tokenizer(student, tokenizer, "the student")
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
        by_content: see `open_store`.

    Raises:
        DataError, ModelError: see `open_store`, `load_teacher` and `make_student`.
    """
    tokenizer = experiment_tokenizer(experiment)
    store = open_store(experiment, tokenizer, by_content=by_content)
    # Copied before the teacher's precision is lowered: the student starts from fp32.
    student = make_student(experiment, load_teacher(experiment), tokenizer)
    teacher = load_teacher(experiment, teacher_dtype(experiment, device))
    check_student(experiment, student, teacher, store)
    return TextParts(tokenizer, teacher, student, store)


def check_student(
    experiment: MaskedLMExperiment,
    student: MaskedLM,
    teacher: MaskedLM | None,
    store: TokenStore | None = None,
) -> None:
    """Refuse a student that cannot be trained in this experiment, or on this store.

    Raises:
        ModelError: vocabulary, width or positions do not fit.
    """
    check_length(student, experiment.data.max_length)
    if teacher is not None:
        check_pair(student, teacher, hidden_terms(MASKED_LM_TERMS, experiment.loss.weights))
    if store is not None:
        check_vocabulary(student, store.manifest.vocab_size, "the student")


def keep_or_save_initial_student(
    student: MaskedLM, tokenizer: PreTrainedTokenizerFast, folder: Path
) -> None:
    """Save the student that the experiment starts from, or check that it is already there.

    Raises:
        ModelError: another one lies there: of other settings, of another teacher, or edited.
    """
    if not folder.exists():
        save_verified(student, tokenizer, folder)
        return
    differing = first_difference(student, load_masked_lm(str(folder.resolve()), role="student"))
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
    )
