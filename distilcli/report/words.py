"""Numbers and names as people read them."""

from collections.abc import Sequence
from math import floor, log10

from distilcli.evaluation import result
from distilcli.evaluation.calibration import RELIABILITY_TITLES
from distilcli.evaluation.result import is_share

TIMES = "\N{MULTIPLICATION SIGN}"
MINUS = "\N{MINUS SIGN}"
DASH = "\N{EN DASH}"
PLUS_MINUS = "\N{PLUS-MINUS SIGN}"
NO_BREAK = "\N{NO-BREAK SPACE}"
ARROW = "\N{RIGHTWARDS ARROW}"

_TITLES = {
    "kl": "KL to teacher",
    "loss": "loss",
    "f1": "F1",
    "macro_f1": "macro F1",
    "entity_f1": "entity F1",
    "accuracy_f1": "accuracy and F1",
    "pearson_spearman": "Pearson and Spearman",
    "matthews": "Matthews",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "exact_match": "exact match",
    "loss_per_character": "loss a character",
    "ndcg": "nDCG",
    "mrr": "MRR",
    "size_mib": "MiB",
    "cosine": "cosine to teacher",
    "neighbours": "neighbours kept",
    **RELIABILITY_TITLES,
}


def title_of(score: str) -> str:
    """What a score is called."""
    return _TITLES.get(score, score.replace("_", " "))


_TERMS = {
    "masked_lm": "masked LM",
    "logit_mse": "MSE of logits",
    "margin_mse": "MSE of margins",
    "reverse_kl": "reverse KL",
    "jensen_shannon": "Jensen-Shannon",
    "cosine": "cosine distance",
    "mse": "squared error",
}


def name_of_term(term: str) -> str:
    """What a loss term is called."""
    return _TERMS.get(term, term.replace("_", " "))


def tick_of(score: str, value: float) -> str:
    """A score at an axis: without zeros that say nothing."""
    return f"{significant(100 * value)}{NO_BREAK}%" if is_share(score) else significant(value)


def percent(share: float | None, digits: int = 1) -> str:
    """A share in percent."""
    return DASH if share is None else f"{_signed(100 * share, digits)}{NO_BREAK}%"


def value_of(score: str, value: float | None, digits: int = 3) -> str:
    """A score: in percent, or as a number."""
    if value is None:
        return DASH
    return percent(value) if is_share(score) else _signed(value, digits)


def _signed(value: float, digits: int) -> str:
    text = f"{value:,.{digits}f}"
    return MINUS + text[1:] if text.startswith("-") else text


def change_of(score: str, value: float | None) -> str:
    """A difference of a score, with its sign: points of percent, or a number."""
    if value is None:
        return DASH
    scaled, digits = (100 * value, 2) if is_share(score) else (value, 3)
    text = _signed(scaled, digits)
    return text if text.startswith(MINUS) else f"+{text}"


def count(number: float | None) -> str:
    """A whole number with commas."""
    return DASH if number is None else f"{number:,.0f}"


def short_count(number: float | None) -> str:
    """A large number in three digits: 6.99 M, 175 B."""
    if number is None:
        return DASH
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * size:
            return f"{significant(number / size)}{NO_BREAK}{letter}"
    return f"{number:,.0f}"


def significant(number: float, digits: int = 3) -> str:
    """A number with so many digits that count, and no more than it has."""
    if number == 0:
        return "0"
    if abs(number) < 5e-4:
        mantissa, _, exponent = f"{number:.1e}".partition("e")
        return f"{mantissa.replace('-', MINUS)}e{int(exponent)}".replace("e-", f"e{MINUS}")
    places = digits - 1 - floor(log10(abs(number)))
    text = f"{number:,.{max(0, places)}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return MINUS + text[1:] if text.startswith("-") else text


def factor(ratio: float | None) -> str:
    """How many times, such as 1.6 x."""
    return DASH if ratio is None else f"{ratio:.{1 if ratio < 10 else 0}f}{NO_BREAK}{TIMES}"


def duration(seconds: float) -> str:
    """A length of time: 42 s, 7 min, 3 h 05 min, 2 d 4 h."""
    return result.duration(seconds).replace(" ", NO_BREAK)


def joined(words: Sequence[str]) -> str:
    """One, one and two, one, two and three."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def compact(value: object) -> str:
    """A value of the settings on one line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict):
        inner = ", ".join(f"{key}: {compact(one)}" for key, one in value.items())
        return "{" + inner + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(compact(one) for one in value) + "]"
    return str(value)
