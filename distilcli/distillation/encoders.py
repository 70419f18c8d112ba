"""Sentence encoders as teachers: beside the student, or with vectors that are kept on disk."""

from hashlib import blake2b
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from distilcli.distillation.teacher_outputs import TeacherOutputs
from distilcli.distillation.teachers import PlacedTeacher
from distilcli.models.sentence_encoders import Encoding, encode
from distilcli.tasks.inputs import Inputs, TaskBatch


class PlacedEncoder(PlacedTeacher):
    """A sentence encoder that runs in every step.

    Args:
        model: frozen here, and switched to packed attention.
        encoding: how its vectors are made.
    """

    def __init__(self, model: PreTrainedModel, encoding: Encoding) -> None:
        super().__init__(model)
        self._encoding = encoding

    @torch.no_grad()
    def outputs(self, batch: TaskBatch) -> tuple[Tensor, Tensor | None]:
        """The vectors of a batch's texts, computed."""
        return encode(self.model, batch, self._encoding)[0], None


class EncoderOutputs(TeacherOutputs):
    """Vectors of one teacher for all texts to train on.

    Args:
        root: folder of all entries.
        teacher: whose vectors they are.
        inputs: texts as it is shown them.
        encoding: how vectors are made.
    """

    def __init__(
        self, root: Path, teacher: PreTrainedModel, inputs: Inputs, encoding: Encoding
    ) -> None:
        super().__init__(root, teacher, inputs, with_hidden=False)
        self._encoding = encoding
        made = f"{self.key} {encoding.pooling} {encoding.normalizes}"
        self.key = blake2b(made.encode(), digest_size=16).hexdigest()
        self.folder = root / self.key

    def run(self, teacher: PreTrainedModel, batch: TaskBatch) -> tuple[Tensor, Tensor]:
        """Vectors and last hidden states of some texts."""
        return encode(teacher, batch, self._encoding)
