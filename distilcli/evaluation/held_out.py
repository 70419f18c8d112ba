"""Held-out quality under one fixed mask: masked-LM loss, accuracy, agreement with the teacher.

The mask depends on nothing but the sample, chooses tokens uniformly (also where training chooses
whole words) and always shows [MASK], so figures of different experiments on the same store can be
compared. Models of different vocabularies hide other pieces of the text: of theirs, the loss is
comparable for each character that was hidden.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from distilcli.batches.masked import PackedBatch
from distilcli.batches.masking import Masker
from distilcli.config.data import MaskingConfig
from distilcli.corpus.store import TokenStore
from distilcli.errors import NonFiniteLossError
from distilcli.evaluation.calibration import (
    NUM_BINS,
    calibration_bins,
    expected_calibration_error,
)
from distilcli.evaluation.gathering import DIVERGED
from distilcli.models.attention import Packing
from distilcli.models.families import MaskedLM
from distilcli.models.running import run_encoder, vocabulary_projection

MASK_SEED = 0
_LOGIT_ELEMENTS = 1 << 24


@dataclass(frozen=True)
class HeldOutScores:
    """Quality at the masked positions of held-out text.

    Attributes:
        loss: masked-LM cross-entropy, nats per token.
        accuracy: share of masked tokens that are the most probable one.
        num_masked: masked tokens looked at.
        agreement: share of masked tokens where student and teacher put the same token first; of
            the tokens that both have, where the student has a part of the vocabulary.
        kl: KL(teacher || student) at temperature 1, nats per token, of the same tokens; over the
            student's vocabulary.
        ece: expected calibration error of the most probable tokens, as a fraction.
        flips: share of the tokens of `agreement` where it fails.
        right_to_wrong: share of the same tokens that the teacher predicts and the student does not.
        loss_per_character: the loss by characters of the masked tokens, in nats; None while a
            model is trained, where nobody asks.
    """

    loss: float
    accuracy: float
    num_masked: int
    agreement: float | None = None
    kl: float | None = None
    ece: float | None = None
    flips: float | None = None
    right_to_wrong: float | None = None
    loss_per_character: float | None = None

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
            "held_out/ece": self.ece,
            "held_out/right_to_wrong": self.right_to_wrong,
            "held_out/loss_per_character": self.loss_per_character,
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


@dataclass(frozen=True)
class MixedModels:
    """Several models of one vocabulary as one, whose distribution is the mean of theirs.

    Attributes:
        models: all with the same tokens.
        shares: of each in the mean; they add up to 1.
    """

    models: Sequence[MaskedLM]
    shares: Sequence[float]


@torch.no_grad()
def held_out_scores(
    student: MaskedLM | MixedModels,
    teacher: MaskedLM | None,
    batches: Iterable[PackedBatch],
    accelerator: Accelerator,
    name: str = "the student",
    *,
    teacher_ids: Int[Tensor, " vocab"] | None = None,
    characters: Int[Tensor, " vocab"] | None = None,
) -> HeldOutScores:
    """Scores of a student, beside its teacher if there is one, summed over all processes.

    All models must use packed attention; precision is the caller's autocast. The student's mode
    is restored.

    Args:
        student: the model that is measured, or the mean of several.
        teacher: what it is compared with.
        batches: masked text.
        accelerator: names device and processes.
        name: opens the message of an error.
        teacher_ids: the teacher's id of each of the student's tokens; None: both have the same.
        characters: of each token; None: the loss by characters is not wanted.

    Raises:
        NonFiniteLossError: a score is NaN or infinite; its message opens with `name`.
    """
    members = _mean_of(student)
    was_training = [model.training for model in members.models]
    for model in members.models:
        model.eval()
    device = accelerator.device
    ids, lengths = (None if x is None else x.to(device) for x in (teacher_ids, characters))
    sums = torch.zeros(8, dtype=torch.float64, device=device)
    bins = torch.zeros(3, NUM_BINS, dtype=torch.float64, device=device)
    for batch in batches:
        of_batch, bins_of_batch = _batch_sums(members, teacher, batch.to(device), ids, lengths)
        sums += of_batch
        bins += bins_of_batch
    for model, mode in zip(members.models, was_training, strict=True):
        model.train(mode)
    total = accelerator.reduce(sums, "sum").tolist()
    bins = accelerator.reduce(bins, "sum")
    loss, correct, agreed, lost, kl, num_masked, num_compared, num_characters = total
    count, compared = max(num_masked, 1.0), max(num_compared, 1.0)
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
        agreement=agreed / compared if teacher is not None else None,
        kl=kl / compared if teacher is not None else None,
        ece=expected_calibration_error(bins),
        flips=1.0 - agreed / compared if teacher is not None else None,
        right_to_wrong=lost / compared if teacher is not None else None,
        loss_per_character=loss / num_characters if num_characters else None,
    )


def _mean_of(model: MaskedLM | MixedModels) -> MixedModels:
    """One model is the mean of itself."""
    return model if isinstance(model, MixedModels) else MixedModels([model], [1.0])


def _batch_sums(
    student: MixedModels,
    teacher: MaskedLM | None,
    batch: PackedBatch,
    teacher_ids: Tensor | None,
    characters: Tensor | None,
) -> tuple[Float[Tensor, " sums"], Float[Tensor, "3 bins"]]:
    """Of one micro-batch, and its `calibration_bins`; float64.

    The sums are loss, correct, agreed, right with the teacher alone, KL, masked tokens, those of
    them that are compared, characters.
    """
    num_compared = batch.num_soft_masked
    # Those that the teacher has, too, come first.
    positions = torch.cat([batch.soft_positions[:num_compared], batch.lone_positions])
    packing = Packing.of(batch)
    hidden = [run_encoder(model, batch, packing)[positions] for model in student.models]
    taught = None if teacher is None else _teacher_hidden(teacher, batch)
    labels = batch.labels[positions]
    sums = torch.zeros(8, dtype=torch.float64, device=labels.device)
    bins = sums.new_zeros(3, NUM_BINS)
    chunk = max(1, _LOGIT_ELEMENTS // student.models[0].config.vocab_size)
    for start in range(0, len(labels), chunk):
        rows = slice(start, start + chunk)
        log_q = _mean_log_probs(student, [states[rows] for states in hidden])
        best = log_q.argmax(dim=-1)
        is_right = best == labels[rows]
        sums[0] += F.nll_loss(log_q, labels[rows], reduction="sum")
        sums[1] += is_right.sum()
        probabilities = log_q.gather(-1, best[:, None])[:, 0].exp()
        bins += calibration_bins(probabilities, is_right)
        if teacher is not None and taught is not None and start < num_compared:
            log_p = _log_probs(teacher, taught[rows], teacher_ids)
            compared = log_q[: len(log_p)]
            likeliest = log_p.argmax(dim=-1)
            sums[2] += (best[: len(log_p)] == likeliest).sum()
            is_known = likeliest == labels[rows][: len(log_p)]
            sums[3] += (is_known & ~is_right[: len(log_p)]).sum()
            sums[4] += (log_p.exp() * (log_p - compared)).sum()
    sums[5], sums[6] = len(labels), num_compared
    if characters is not None:
        sums[7] = characters[labels].sum()
    return sums, bins


def _teacher_hidden(teacher: MaskedLM, batch: PackedBatch) -> Float[Tensor, "compared hidden"]:
    """Hidden states of a teacher at the masked tokens that are compared."""
    row = batch if batch.teacher_row is None else batch.teacher_row
    positions = row.soft_positions[: batch.num_soft_masked]
    return run_encoder(teacher, row, Packing.of(row))[positions]


def _mean_log_probs(mean: MixedModels, hidden: Sequence[Tensor]) -> Tensor:
    """Logarithms of the mean of distributions over the vocabulary."""
    members = zip(mean.models, hidden, mean.shares, strict=True)
    of_each = [_log_probs(model, states) + math.log(share) for model, states, share in members]
    return of_each[0] if len(of_each) == 1 else torch.logsumexp(torch.stack(of_each), dim=0)


def _log_probs(model: MaskedLM, hidden: Tensor, ids: Tensor | None = None) -> Tensor:
    """Log-probabilities over the vocabulary, or over some ids of it alone."""
    projection = vocabulary_projection(model, hidden)
    features, weight, bias = projection if ids is None else projection.of_rows(ids)
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
