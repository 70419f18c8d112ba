"""Whether an export computes what its model computes: outputs, and scores on held-out data."""

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from distilcli.errors import CertificateError
from distilcli.export.graph import Graph
from distilcli.export.running import Run, batches_of, by_torch, evenly_spaced
from distilcli.export.subjects import MaskedText, Subject

MOST_DIFFERENT = 1e-4  # outputs of a graph in fp32 from those of the model
BATCH_SIZES = (1, 32)  # dynamic int8 rounds by what else is in a batch, so both are measured
# The two round by themselves. Of a masked-LM model with logits up to 22, onnxruntime was twice as
# far from fp64 as torch: together that may be three times, and there are other processors.
_ROUNDED = 4.0
_COMPARED = 64  # inputs all of whose outputs are compared
_LOGIT_ELEMENTS = 1 << 25
_ROUNDED_SCORE = 1e-6  # what a score may change by in fp32, where no decision is another one


@dataclass(frozen=True)
class Certificate:
    """What was measured of one export.

    Attributes:
        scores: by batch size, all scores by name.
        drop: how far the score by which exports are judged is below the model's, at the batch size
            where that is worse; below 0 where it is above.
        difference: the largest between an output of the model and of the export.
        left_out: products that are not in int8, because the score falls too far with them.
    """

    scores: Mapping[int, Mapping[str, float]]
    drop: float
    difference: float
    left_out: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """For programs."""
        found = asdict(self)
        found["scores"] = {str(size): dict(scores) for size, scores in self.scores.items()}
        return found | {"left_out": list(self.left_out)}


def certificate(
    subject: Subject,
    run: Run,
    reference: float,
    name: str,
    sizes: tuple[int, ...] = BATCH_SIZES,
    left_out: tuple[str, ...] = (),
) -> Certificate:
    """Measure an export.

    Args:
        subject: what it was made of.
        run: runs it.
        reference: the score of the model.
        name: of the export; opens messages.
        sizes: of the batches that scores are measured with.
        left_out: see `Certificate`.

    Raises:
        NonFiniteLossError: an output is NaN or infinite.
    """
    scores = {size: subject.scores(run, size, name) for size in sizes}
    drop = max(reference - found[subject.score] for found in scores.values())
    return Certificate(scores, drop, largest_difference(subject, run), left_out)


def largest_difference(subject: Subject, run: Run) -> float:
    """Between all outputs of a model and of an export at real tokens; NaN if one of them is.

    On so many inputs of each kind as `_COMPARED` says, at even distances, in batches of both sizes.
    """
    of_model = by_torch(subject.graph)
    largest = 0.0
    for inputs in subject.measured.values():
        samples = evenly_spaced(_COMPARED, len(inputs))
        batched = BATCH_SIZES[-1]
        if isinstance(subject, MaskedText):
            width = subject.model.config.vocab_size * int(inputs.lengths.max())
            batched = max(2, min(batched, _LOGIT_ELEMENTS // width))
        for size, chosen in ((1, samples[:8]), (batched, samples)):
            for _, batch in batches_of(subject.graph, inputs, chosen, size, subject.padding):
                is_token = batch["attention_mask"].bool().numpy()
                ours, theirs = of_model(batch), run(batch)
                for name, expected in ours.items():
                    difference = np.abs(expected - theirs[name])
                    if difference.shape[:2] == is_token.shape:
                        difference = difference[is_token]
                    found = float(difference.max())
                    largest = found if not found <= largest else largest
    return largest


def check_same(subject: Subject, found: Certificate, name: str) -> None:
    """Refuse a graph in fp32 whose outputs are others than the model's.

    `MOST_DIFFERENT` is allowed. Where outputs are large, fp32 itself may not reach that: then
    `_ROUNDED` times as much is allowed as the model's own outputs are away from what it computes in
    fp64.

    Raises:
        CertificateError: they are further away.
    """
    if found.difference <= MOST_DIFFERENT:
        return
    exact = Graph.double(copy.deepcopy(subject.graph))
    allowed = max(MOST_DIFFERENT, _ROUNDED * largest_difference(subject, by_torch(exact)))
    if not found.difference <= allowed:
        raise CertificateError(
            f"{name}: its outputs are up to {found.difference:.2g} away from the model's, and "
            f"{allowed:.2g} is allowed; nothing is written",
            "Please report it, with the versions that distilcli env says.",
        )


def falls_too_far(drop: float, most: float) -> bool:
    """Whether a score has fallen by more than is allowed, or it is not known how far."""
    return not drop <= most + _ROUNDED_SCORE


def check_drop(found: Certificate, most: float, score: str, reference: float, name: str) -> None:
    """Refuse an export whose score is too far below the model's.

    Raises:
        CertificateError: it is, or it is not known.
    """
    if falls_too_far(found.drop, most):
        raise CertificateError(
            f"{name}: its {score} is {reference - found.drop:.4f}, the model's {reference:.4f}: it "
            f"falls by {found.drop:.4f}, and --max-drop allows {most:g}; nothing is written",
            "Allow more, or leave this format out of --formats.",
        )
