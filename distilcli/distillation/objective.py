"""What a run trains towards: its samples, the module that computes its losses, its held-out scores.

The loop knows no more of masked-LM training (`masked_lm.py`) or of tasks (`tasks.py`) than this.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Protocol

import numpy as np
from accelerate import Accelerator
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from distilcli.batches.packing import PackedSequences
from distilcli.batches.plan import Draws, StepPlan
from distilcli.config.training import TrainConfig
from distilcli.distillation.identity import Identity
from distilcli.distillation.loss_modules import LossModule
from distilcli.models.saving import save_model
from distilcli.text.tokenizer_checks import refuse_unknown


class Scores(Protocol):
    """Held-out quality."""

    @property
    def criterion(self) -> float:
        """By which students are chosen: lower is better."""

    def metrics(self) -> dict[str, float]:
        """As metric keys and values."""


class Objective(ABC):
    """What a run trains towards.

    Attributes:
        module: computes the losses.
        tokenizer: saved beside the student.
        lengths: tokens of each training sample, int [samples].
        num_unlabelled: how many of the training samples only a teacher labels.
        num_held_out: samples to be measured on.
        unknown_share: of the tokens to train on, how many are [UNK], as a fraction.
    """

    module: LossModule
    tokenizer: PreTrainedTokenizerFast
    lengths: np.ndarray
    num_unlabelled: int = 0
    num_held_out: int
    unknown_share: float

    @property
    def student(self) -> PreTrainedModel:
        """What is trained."""
        return self.module.student

    def identity(self) -> Identity:
        """What training depends on besides what the run reads: teachers' outputs on disk."""
        teachers = self.module.teachers()
        return {what: one for teacher in teachers for what, one in teacher.identity().items()}

    def step_plan(self, train: TrainConfig, seed: int) -> StepPlan:
        """Which samples make each optimiser step.

        Raises:
            ConfigError: there are fewer samples than a step asks for.
        """
        return StepPlan(
            self.lengths,
            train.global_batch_size,
            train.tokens_per_micro_batch,
            seed,
            # A number of steps is reached in whatever epoch that may be; so is one of tokens.
            train.num_epochs if train.ends_with_epochs else None,
        )

    def refuse_unknown_text(self) -> None:
        """Refuse text that the tokenizer does not know.

        Raises:
            DataError: most of the tokens to train on are [UNK].
        """
        refuse_unknown(self.unknown_share, self.tokenizer)

    def save_student(self, folder: Path) -> None:
        """Write the student as it is now, as a plain transformers folder.

        Raises:
            RunFolderError, ModelError, WriteError: see `save_model`.
        """
        save_model(self.student, self.tokenizer, folder)

    @abstractmethod
    def pack(self, draws: Draws) -> PackedSequences:
        """One micro-batch of these training samples, each as it is in its epoch."""

    @abstractmethod
    def held_out(self, accelerator: Accelerator) -> Scores:
        """Scores of the student as it is now, over all processes."""

    @abstractmethod
    def check_teacher(self, accelerator: Accelerator) -> dict[str, float | None]:
        """What the teacher reaches on held-out samples, and what knowing nothing reaches.

        Raises:
            ModelError: the teacher is no better.
        """
