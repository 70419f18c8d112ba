"""What `eval` measured of models, from results.json, whatever kind of run it is of."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distilcli.evaluation.asked import ALL_TEACHERS, TEACHER
from distilcli.files.shown_paths import shown_path
from distilcli.report.blocks import Grid
from distilcli.report.words import DASH, count, percent, significant, title_of, value_of

AT_START = "at start"  # ends the name of a student that is not trained yet
_BESIDE = ("retained", "agreement", "flips", "right_to_wrong", "ece", "kl", "cosine", "neighbours")
_NOT_SHOWN = ("num_masked",)


@dataclass(frozen=True)
class Measured:
    """One model that was measured.

    Attributes:
        name: what it is called in the results.
        scores: all of them.
        kept: the share of the teacher's score that it has; None: not known.
        parameters: how many; None: it is a file.
        size_mib: of its weights.
        latency_ms: of one input at a time on the CPU; None: speed was not measured.
        speed_how: how that was measured.
    """

    name: str
    scores: Mapping[str, float]
    kept: float | None
    parameters: int | None
    size_mib: float | None
    latency_ms: float | None
    speed_how: str

    @property
    def is_teacher(self) -> bool:
        """Whether it is a teacher, or the mean of several."""
        return (
            self.name == ALL_TEACHERS or re.fullmatch(rf"{TEACHER}( \d+)?", self.name) is not None
        )

    @property
    def is_untrained(self) -> bool:
        """Whether it is a student before training."""
        return self.name.endswith(AT_START)


def measured_models(results: Mapping[str, Any] | None) -> list[Measured]:
    """The models of results.json, in their order; none where it is that of a suite."""
    models = (results or {}).get("models")
    if not isinstance(models, dict):
        return []
    return [_measured(name, record) for name, record in models.items() if isinstance(record, dict)]


def _measured(name: str, record: Mapping[str, Any]) -> Measured:
    latency, how = _latency(record)
    return Measured(
        name=shown_path(name),
        scores=dict(_scores(record)),
        kept=record.get("retained"),
        parameters=record.get("parameters"),
        size_mib=record.get("size_mib"),
        latency_ms=latency,
        speed_how=how,
    )


def _scores(record: Mapping[str, Any]) -> Sequence[tuple[str, float]]:
    found = dict(record.get("scores") or {})
    beside = {key: record[key] for key in _BESIDE if record.get(key) is not None}
    if "perplexity" in record and record["perplexity"] is not None:
        beside["perplexity"] = record["perplexity"]
    return [(k, v) for k, v in (found | beside).items() if isinstance(v, int | float)]


def _latency(record: Mapping[str, Any]) -> tuple[float | None, str]:
    """Milliseconds of one input on the CPU, and how they were measured."""
    speed = record.get("speed")
    if isinstance(speed, dict):
        how = f"one sequence of {speed['length']:,} tokens, {_threads(speed['threads'])}"
        return speed["latency_ms"], how
    for one in record.get("passes") or []:
        if one["device"] == "cpu" and one["inputs"]:
            how = f"{one['inputs']:,} inputs one by one, {_threads(one['threads'])}"
            return 1000 * one["single_seconds"] / one["inputs"], how
    return None, ""


def _threads(number: int) -> str:
    return f"{number} CPU thread{'s' if number > 1 else ''}"


def main_score(results: Mapping[str, Any] | None, models: Sequence[Measured]) -> str | None:
    """The score by which models are compared."""
    if results and isinstance(results.get("score"), str):
        return str(results["score"])
    known = [one.scores for one in models if one.scores]
    if not known:
        return None
    return next((s for s in ("accuracy", "loss") if all(s in one for one in known)), None)


def the_teacher(models: Sequence[Measured]) -> Measured | None:
    """What the others are compared with; of several teachers their mean."""
    by_name = {one.name: one for one in models}
    return by_name.get(ALL_TEACHERS) or by_name.get(TEACHER)


def the_student(models: Sequence[Measured], name: str) -> Measured | None:
    """The trained student of the run that is called `name`."""
    by_name = {one.name: one for one in models}
    others = [one for one in models if not one.is_teacher and not one.is_untrained]
    return by_name.get(f"{name} trained") or by_name.get(name) or (others[0] if others else None)


_FEW = 4  # models that stand side by side; more of them stand one below the other


def results_grid(models: Sequence[Measured], score: str | None, caption: str, note: str) -> Grid:
    """All that was measured, as `eval` shows it."""
    keys = scores_in_order(models, score)
    sizes = {
        "parameters": [count(one.parameters) for one in models],
        "MiB": [_one_place(one.size_mib) for one in models],
        "latency, ms": [_milliseconds(one.latency_ms) for one in models],
    }
    rows = [[title_of(key), *(_cell(key, one) for one in models)] for key in keys]
    rows += [[name, *cells] for name, cells in sizes.items() if set(cells) != {DASH}]
    strong = [place for place, key in enumerate(keys) if key in (score, "retained")]
    if len(models) <= _FEW:
        return Grid(caption, ["", *(one.name for one in models)], rows, note, strong=strong)
    turned = [[one.name, *(row[place] for row in rows)] for place, one in enumerate(models, 1)]
    return Grid(caption, ["model", *(row[0] for row in rows)], turned, note)


def scores_in_order(models: Sequence[Measured], score: str | None) -> list[str]:
    """The scores that any of the models has: the main one and its share first."""
    names = dict.fromkeys(key for one in models for key in one.scores)
    first = [key for key in (score, "retained") if key in names]
    last = [key for key in _BESIDE if key in names and key not in first]
    return [*first, *(k for k in names if k not in (*first, *last, *_NOT_SHOWN)), *last]


def _cell(key: str, one: Measured) -> str:
    if key in ("retained",):
        return percent(one.scores.get(key))
    if key == "perplexity":
        return significant(one.scores[key], 4) if key in one.scores else DASH
    return value_of(key, one.scores.get(key))


def _one_place(value: float | None) -> str:
    return DASH if value is None else f"{value:,.1f}"


def _milliseconds(value: float | None) -> str:
    return DASH if value is None else significant(value)
