"""Held-out quality under one fixed mask: masked-LM loss, accuracy, agreement with the teacher.

The mask depends on nothing but the sample, chooses uniformly and always shows [MASK], so figures
of different experiments on the same store can be compared.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from distilcli.batches.masked import PackedBatch, held_out_batches
from distilcli.batches.masking import Masker
from distilcli.config.data import MaskingConfig
from distilcli.corpus.store import TokenStore
from distilcli.errors import NonFiniteLossError
from distilcli.models.attention import Packing, use_packed_attention
from distilcli.models.families import MaskedLM
from distilcli.models.running import run_encoder, vocabulary_projection

DIVERGED = "Use an earlier checkpoint, a lower optim.lr, or fp32 (train.precision=fp32)."
MASK_SEED = 0
_LOGIT_ELEMENTS = 1 << 24


@dataclass(frozen=True)
class HeldOutScores:
    """Quality at the masked positions of held-out text.

    Attributes:
        loss: masked-LM cross-entropy, nats per token.
        accuracy: share of masked tokens that are the most probable one.
        num_masked: masked tokens looked at.
        agreement: share of masked tokens where student and teacher put the same token first.
        kl: KL(teacher || student) at temperature 1, nats per token.
    """

    loss: float
    accuracy: float
    num_masked: int
    agreement: float | None = None
    kl: float | None = None

    @property
    def perplexity(self) -> float:
        """exp(loss); infinite when that overflows."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def criterion(self) -> float:
        """By which students are chosen: the loss."""
        return self.loss

    def metrics(self) -> dict[str, float]:
        """As metric keys and values; what was not measured is left out."""
        values = {
            "held_out/loss": self.loss,
            "held_out/accuracy": self.accuracy,
            "held_out/agreement": self.agreement,
            "held_out/kl": self.kl,
        }
        return {key: value for key, value in values.items() if value is not None}


def held_out_masker(
    store: TokenStore, tokenizer: PreTrainedTokenizerFast, mlm_probability: float
) -> Masker:
    """The fixed mask of held-out text."""
    config = MaskingConfig(
        mlm_probability=mlm_probability, mask_share=1.0, random_share=0.0, smoothing=0.0
    )
    vocab_size = store.manifest.vocab_size
    return Masker(config, tokenizer, vocab_size, store.token_counts, MASK_SEED)


@torch.no_grad()
def held_out_scores(
    student: MaskedLM,
    teacher: MaskedLM | None,
    batches: Iterable[PackedBatch],
    accelerator: Accelerator,
    name: str = "the student",
) -> HeldOutScores:
    """Scores of a student, beside its teacher if there is one, summed over all processes.

    Both models must use packed attention; precision is the caller's autocast. The student's mode
    is restored.

    Raises:
        NonFiniteLossError: a score is NaN or infinite; its message opens with `name`.
    """
    was_training = student.training
    student.eval()
    sums = torch.zeros(5, dtype=torch.float64, device=accelerator.device)
    for batch in batches:
        sums += _batch_sums(student, teacher, batch.to(accelerator.device))
    student.train(was_training)
    total = accelerator.reduce(sums, "sum").tolist()
    loss, correct, agreed, kl, num_masked = total
    count = max(num_masked, 1.0)
    # Comparisons with NaN are false: such a student would count as the best one so far.
    for what, value in (("held-out loss", loss), ("KL to the teacher", kl)):
        if not math.isfinite(value):
            raise NonFiniteLossError(
                f"{name}: its {what} is {value}: what it computes overflows", DIVERGED
            )
    return HeldOutScores(
        loss=loss / count,
        accuracy=correct / count,
        num_masked=int(num_masked),
        agreement=agreed / count if teacher is not None else None,
        kl=kl / count if teacher is not None else None,
    )


def scores_of_models(
    models: dict[str, MaskedLM],
    store: TokenStore,
    masker: Masker,
    accelerator: Accelerator,
    num_sequences: int,
    tokens_per_micro_batch: int,
) -> dict[str, HeldOutScores]:
    """Scores of each model alone; none where the store holds nothing out.

    Args:
        models: by name; each is moved to the device and switched to packed attention.
        store: whose held-out split is measured on.
        masker: its fixed mask.
        accelerator: names the device.
        num_sequences: how many of them, evenly spaced.
        tokens_per_micro_batch: of one forward pass.

    Raises:
        NonFiniteLossError: see `held_out_scores`.
    """
    scores = {}
    for name, model in models.items() if len(store.held_out) else ():
        use_packed_attention(model.to(accelerator.device))
        batches = held_out_batches(store.held_out, masker, num_sequences, tokens_per_micro_batch)
        scores[name] = held_out_scores(model, None, batches, accelerator, f"the {name}")
    return scores


def _batch_sums(student: MaskedLM, teacher: MaskedLM | None, batch: PackedBatch) -> Tensor:
    """Loss, correct, agreed, KL and count of one micro-batch, float64 [5]."""
    packing = Packing.of(batch)
    student_hidden = run_encoder(student, batch, packing)[batch.masked_positions]
    teacher_hidden = None
    if teacher is not None:
        teacher_hidden = run_encoder(teacher, batch, packing)[batch.masked_positions]
    labels = batch.labels[batch.masked_positions]
    sums = torch.zeros(5, dtype=torch.float64, device=labels.device)
    chunk = max(1, _LOGIT_ELEMENTS // student.config.vocab_size)
    for start in range(0, len(labels), chunk):
        rows = slice(start, start + chunk)
        log_q = _log_probs(student, student_hidden[rows])
        best = log_q.argmax(dim=-1)
        sums[0] += F.nll_loss(log_q, labels[rows], reduction="sum")
        sums[1] += (best == labels[rows]).sum()
        if teacher is not None:
            assert teacher_hidden is not None
            log_p = _log_probs(teacher, teacher_hidden[rows])
            sums[2] += (best == log_p.argmax(dim=-1)).sum()
            sums[3] += (log_p.exp() * (log_p - log_q)).sum()
    sums[4] = len(labels)
    return sums


def _log_probs(model: MaskedLM, hidden: Tensor) -> Tensor:
    features, weight, bias = vocabulary_projection(model, hidden)
    return torch.log_softmax(F.linear(features, weight, bias).float(), dim=-1)


def unigram_loss(store: TokenStore, batches: list[PackedBatch], accelerator: Accelerator) -> float:
    """Cross-entropy of the masked tokens under the training split's token frequencies."""
    counts = store.token_counts.astype(np.float64) + 1.0
    log_probs = torch.from_numpy(np.log(counts / counts.sum()))
    sums = torch.zeros(2, dtype=torch.float64)
    for batch in batches:
        labels = batch.labels[batch.masked_positions].cpu()
        sums += torch.stack([-log_probs[labels].sum(), torch.tensor(float(len(labels)))])
    total, count = accelerator.reduce(sums.to(accelerator.device), "sum").tolist()
    return float(total / max(count, 1.0))
