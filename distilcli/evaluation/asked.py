"""What is asked of a measurement."""

from dataclasses import dataclass

TEACHER = "teacher"  # what the teacher is called beside other models
ALL_TEACHERS = "teachers"  # what the mean of several teachers is called there


def teacher_names(number: int) -> list[str]:
    """What teachers are called beside other models, the first one first."""
    return [TEACHER, *(f"{TEACHER} {place}" for place in range(2, number + 1))][:number]


@dataclass(frozen=True)
class Asked:
    """What is to be measured, and on what.

    Attributes:
        text: files to measure on instead of held-out text.
        documents: what one document of a text file among them is; None: as in the experiment.
        dev: files to measure on instead of a task's dev examples.
        teacher: to compare with on `text`, where no experiment names one.
        num_sequences: held-out sequences to look at, or inputs of a task to time; None: all.
        speed: whether speed is measured; None: on text, not on a task.
    """

    text: tuple[str, ...] = ()
    documents: str | None = None
    dev: tuple[str, ...] = ()
    teacher: str | None = None
    num_sequences: int | None = None
    speed: bool | None = None

    @property
    def is_other_data(self) -> bool:
        """Whether something else than the experiment's own data is measured on."""
        return bool(self.text or self.dev)
