"""What a command found out, as people read it and as programs read it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from distilcli.config.losses import LossConfig

# Scores that are no shares.
_NO_SHARES = frozenset({"loss", "kl", "loss_per_character", *LossConfig.model_fields})


@dataclass(frozen=True)
class Table:
    """Rows of text under column names; the first column is words, the others figures."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Result:
    """What was found out.

    Attributes:
        table: for people.
        lines: what is said below the table.
        warnings: what a user should know before trusting the figures.
        record: all of it, for programs.
    """

    table: Table
    lines: Sequence[str]
    record: dict[str, Any]
    warnings: Sequence[str] = field(default=())


def is_share(score: str) -> bool:
    """Whether a score is shown in percent."""
    return score not in _NO_SHARES


def percent(share: float | None) -> str:
    """A share as a percentage, or a dash when it is not known."""
    return "-" if share is None else f"{100 * share:.1f} %"


def number(value: float | None, digits: int = 3) -> str:
    """A number with fixed digits, or a dash when it is not known."""
    return "-" if value is None else f"{value:.{digits}f}"
