"""From an experiment and a student to what is exported: an explicit table of kinds of runs."""

from collections.abc import Callable

from distilcli.distillation.embedding_parts import open_texts, tell_of_texts
from distilcli.distillation.embeddings import EmbeddingRun, with_other_pairs
from distilcli.distillation.masked_lm import MaskedLMRun
from distilcli.distillation.masked_lm_parts import load_teacher
from distilcli.distillation.measured_text import text_to_measure
from distilcli.distillation.run_kind import (
    AnyKind,
    Audience,
    experiment_tokenizer,
    student_tokenizer,
)
from distilcli.distillation.task_parts import task_tokenizer
from distilcli.distillation.task_rows import look_at_rows, with_other_dev
from distilcli.distillation.tasks import TaskRun
from distilcli.evaluation.asked import Asked
from distilcli.evaluation.masked_inputs import masked_inputs
from distilcli.export.subjects import MaskedText, OfTask, OfVectors, Subject
from distilcli.models.checks import check_tokenizer, check_vocabulary
from distilcli.models.loading import load_masked_lm
from distilcli.models.sentence_encoders import load_encoder, own_encoding
from distilcli.models.task_models import load_finetuned, load_finetuned_teacher

# Of text there is as much as anyone wants: so much is measured on where nobody says.
_SEQUENCES = 1000


def open_subject(kind: AnyKind, name: str, asked: Asked, audience: Audience) -> Subject:
    """Load a student, and read what it is measured on.

    Args:
        kind: of run, with the experiment, that it is of.
        name: folder or hub name of the student.
        asked: on which text or examples it is measured, and on how many sequences of text.
        audience: told what is read.

    Raises:
        ConfigError, DataError, ModelError: text, rows or model cannot be used, or do not fit
            together.
    """
    return _OPEN[type(kind)](kind, name, asked, audience)


def _masked_lm(kind: MaskedLMRun, name: str, asked: Asked, audience: Audience) -> Subject:
    experiment = kind.experiment
    model = load_masked_lm(name, role="student")
    text = text_to_measure(experiment, {"the student": name}, asked, audience)
    check_vocabulary(model, text.store.manifest.vocab_size, f"student {name}")
    inputs = masked_inputs(text, asked.num_sequences or _SEQUENCES)
    return MaskedText(
        name=name,
        model=model,
        tokenizer=student_tokenizer(name),
        what=f"{len(inputs.targets):,} masked tokens of {text.name}",
        teacher=lambda: load_teacher(experiment),
        text=inputs,
    )


def _of_task(kind: TaskRun, name: str, asked: Asked, audience: Audience) -> Subject:
    experiment = kind.experiment
    if asked.dev:
        experiment = with_other_dev(experiment, asked.dev)
    task = look_at_rows(experiment, audience)
    model = load_finetuned(name, task)
    tokenizer = student_tokenizer(name, task_tokenizer(experiment))
    check_tokenizer(model, tokenizer, f"student {name}")
    return OfTask(
        name=name,
        model=model,
        tokenizer=tokenizer,
        what=f"{task.num_examples[1]:,} dev examples",
        teacher=lambda: load_finetuned_teacher(experiment, task),
        task=task,
    )


def _of_vectors(kind: EmbeddingRun, name: str, asked: Asked, audience: Audience) -> Subject:
    experiment = with_other_pairs(kind.experiment, asked.dev)
    data, encoding, _ = open_texts(experiment)
    tell_of_texts(data, encoding, audience)
    model = load_encoder(name)
    tokenizer = student_tokenizer(name, experiment_tokenizer(experiment))
    check_tokenizer(model, tokenizer, f"student {name}")
    teacher = experiment.teacher
    counts = (f"{len(inputs):,} texts of {what}" for what, inputs in data.measured.items())
    return OfVectors(
        name=name,
        model=model,
        tokenizer=tokenizer,
        what=", ".join(counts),
        teacher=lambda: load_encoder(teacher.model, teacher.revision, "teacher"),
        data=data,
        encoding=own_encoding(name, encoding),
    )


_OPEN: dict[type[AnyKind], Callable[..., Subject]] = {
    MaskedLMRun: _masked_lm,
    TaskRun: _of_task,
    EmbeddingRun: _of_vectors,
}
