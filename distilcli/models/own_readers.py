"""Which teachers of a task read its texts themselves, with a tokenizer of their own."""

from distilcli.config.experiment import TaskExperiment
from distilcli.config.models import NamedTeacher, TaskTeacherModel
from distilcli.errors import ConfigError
from distilcli.models.padded import is_packed
from distilcli.text.tokenizers import load_tokenizer, tokenizer_fingerprint


def must_read_itself(teacher: NamedTeacher, key: str) -> bool:
    """Whether a teacher cannot be run packed over the student's tokens, whatever its tokenizer.

    Args:
        teacher: its section.
        key: its dotted place in the experiment.

    Raises:
        ModelError: there is no such model.
    """
    if isinstance(teacher, TaskTeacherModel) and teacher.is_zero_shot:
        return True
    role = key if key == "teacher" else f"{key}.model"
    return not is_packed(teacher.model, teacher.revision, role)


def first_reads_itself(experiment: TaskExperiment) -> bool:
    """Whether the first teacher reads the texts itself, and the student names its own model.

    Raises:
        ConfigError: it does, and the student names none: nobody else has tokens for it.
        ModelError: a model is not there.
    """
    teacher, source = experiment.teacher, experiment.model_source
    if teacher is None:
        return False
    if must_read_itself(teacher, "teacher"):
        if source is None:
            raise ConfigError(
                f"student.source: a student cannot be copied from teacher.model {teacher.model}, "
                "whose layers and tokenizer it cannot have",
                "Name the model that the student starts from: student.source=MODEL, or "
                "'student={kind: checkpoint, model: MODEL}'.",
            )
        return True
    if source is None:
        return False
    own = load_tokenizer(teacher.model, teacher.revision, needs=("pad_token",))
    return tokenizer_fingerprint(own) != tokenizer_fingerprint(load_tokenizer(source))
