"""What a run came to, for whoever started it and for trackers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainResult:
    """The result of a finished run.

    Attributes:
        run_folder: where everything lies.
        student: folder of the trained student.
        steps: optimiser steps done.
        student_step: the step that `student` was taken from: the best by its held-out scores.
        tokens: tokens trained on.
        seconds: time spent training.
        held_out: scores of `student` as metrics; empty without held-out samples.
        already_finished: there was nothing left to do.
    """

    run_folder: str
    student: str
    steps: int
    student_step: int
    tokens: int
    seconds: float
    held_out: dict[str, float]
    already_finished: bool

    @property
    def figures(self) -> dict[str, float]:
        """What the run came to, by name: for a table."""
        return self.held_out | {
            "student step": self.student_step,
            "steps": self.steps,
            "tokens": self.tokens,
            "seconds": round(self.seconds, 1),
        }
