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


def duration(seconds: float) -> str:
    """A length of time as people say it: 42 s, 7 min, 3 h 05 min, 2 d 4 h."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    hours = minutes // 60
    if hours < 48:
        return f"{hours} h {minutes % 60:02d} min"
    return f"{hours // 24} d {hours % 24} h"
