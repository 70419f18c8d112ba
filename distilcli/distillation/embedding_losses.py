"""Teacher, student and losses on vectors as one module; see `loss_modules.py`."""

import torch
from transformers import PreTrainedModel

from distilcli.config.embedding import EmbeddingLoss
from distilcli.distillation.loss_modules import Coefficients, LossModule, LossSums, Sums
from distilcli.distillation.teachers import ALONE, Teacher
from distilcli.losses.similarities import SMALLEST_GROUP
from distilcli.losses.table import EMBEDDING_TERMS, wanted_terms
from distilcli.losses.terms import Counts
from distilcli.losses.vectors import Vectors, VectorTerm
from distilcli.models.sentence_encoders import Encoding, encode
from distilcli.tasks.grouped_texts import GroupedTexts


class EmbeddingDistillation(LossModule):
    """Makes vectors of texts with the student and compares them with the teacher's.

    Args:
        student: the model that is trained.
        teacher: runs in every step, or has run already.
        encoding: how vectors are made, those of both.
        loss: weights and temperature.
        seed: see `LossModule`.
    """

    teacher: Teacher

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: Teacher,
        encoding: Encoding,
        loss: EmbeddingLoss,
        seed: int = 0,
    ) -> None:
        terms = wanted_terms(EMBEDDING_TERMS, loss, has_teacher=True)
        super().__init__(student, teacher, terms, seed, ALONE)
        self.encoding = encoding
        self._on_vectors = [term for term in terms if isinstance(term, VectorTerm)]

    def forward(self, batch: GroupedTexts, coefficients: Coefficients) -> LossSums:
        """Loss sums of one micro-batch.

        Args:
            batch: packed texts on this module's device.
            coefficients: weight over global count of each term.
        """
        taught = self.teacher.outputs(batch)[0].float()[batch.places]
        vectors, _ = encode(self.student, batch, self.encoding)
        vectors = vectors[batch.places]
        sums = Sums(self.terms, coefficients, vectors)
        # Vectors are few: what is computed of them is not rounded as the models' states are.
        with torch.autocast(vectors.device.type, enabled=False):
            for term in self._on_vectors:
                projected = self.projections.of(term, vectors)
                sums.add(term, term.sum_of_texts(Vectors(projected, taught, batch.groups)))
        return sums.result()

    def _counts_of(self, batch: GroupedTexts) -> Counts:
        grouped = sum(size for size in batch.groups if size >= SMALLEST_GROUP)
        texts = batch.num_texts
        return Counts(tokens=batch.num_tokens, compared=texts, labelled=0, grouped=grouped)
