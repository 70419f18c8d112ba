"""What BERT-base and DistilBERT reach on dev sets, to stand beside measured scores.

Source: Sanh et al. 2019, tables 1 and 2 (medians of 5 seeds, in percent).
"""

from typing import NamedTuple


class Published(NamedTuple):
    """Scores in percent."""

    bert: float
    distilbert: float


GLUE_MACRO = Published(79.5, 77.0)
SCORES = {
    "CoLA": Published(56.3, 51.3),
    "MNLI": Published(86.7, 82.2),
    "MRPC": Published(88.6, 87.5),
    "QNLI": Published(91.8, 89.2),
    "QQP": Published(89.6, 88.5),
    "RTE": Published(69.3, 59.9),
    "SST-2": Published(92.7, 91.3),
    "STS-B": Published(89.0, 86.9),
    "WNLI": Published(53.5, 56.3),
    "IMDb": Published(93.46, 92.82),
    "SQuAD": Published(88.5, 85.8),  # F1; exact match 81.2 and 77.7
}
# DistilBERT on SQuAD with a second step of distillation, from a fine-tuned BERT: exact match, F1.
SQUAD_DISTILLED = (79.1, 86.9)
SQUAD_EXACT_MATCH = Published(81.2, 77.7)
