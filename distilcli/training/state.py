"""How far a run is: what a checkpoint keeps beside weights and optimiser, checked when read."""

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from distilcli.distillation.identity import Identity, from_tree, to_tree
from distilcli.errors import RunFolderError

_IDENTITY = "identity"


@dataclass
class TrainState:
    """Everything beside weights and optimiser that a resume needs.

    Attributes:
        step: optimiser steps done.
        tokens: tokens trained on, over all processes.
        seconds: time spent in training, over all attempts.
        best_step: step of the best held-out scores, None before the first validation.
        best_criterion: of those scores; lower is better.
        best_scores: those scores as metrics.
        step_plan: by which rule steps draw samples; checkpoints that do not say follow the first.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best_step: int | None = None
    best_criterion: float | None = None
    best_scores: dict[str, float] = field(default_factory=dict)
    step_plan: int = 1


def to_record(state: TrainState, identity: Identity) -> dict[str, Any]:
    """The state and what the run depends on, for a checkpoint."""
    return {**asdict(state), _IDENTITY: to_tree(identity)}


def from_record(record: dict[str, Any]) -> tuple[TrainState, Identity | None]:
    """What `to_record` gave; no identity from a version that did not keep one.

    Raises:
        RunFolderError: a key is unknown or missing, or a value is of another kind.
    """
    known = {one.name for one in fields(TrainState)} | {_IDENTITY}
    unknown = sorted(record.keys() - known)
    missing = sorted({"step", "tokens", "seconds"} - record.keys())
    if unknown or missing:
        raise RunFolderError(f"its state has unknown or missing keys: {unknown + missing}")
    values = {key: value for key, value in record.items() if key != _IDENTITY}
    state = TrainState(**values)
    wrong = [name for name, is_right in _checks(state) if not is_right]
    if wrong:
        raise RunFolderError(f"its state has a value that cannot be: {wrong[0]}")
    try:
        return state, from_tree(record[_IDENTITY]) if _IDENTITY in record else None
    except ValueError as error:
        raise RunFolderError(f"its state has {error}") from error


def _checks(state: TrainState) -> list[tuple[str, bool]]:
    """Each value's name, and whether it is what it must be."""
    scores = state.best_scores
    return [
        ("step", _is_count(state.step)),
        ("tokens", _is_count(state.tokens)),
        ("seconds", _is_number(state.seconds)),
        ("best_step", state.best_step is None or _is_count(state.best_step)),
        ("best_criterion", state.best_criterion is None or _is_number(state.best_criterion)),
        ("best_scores", isinstance(scores, dict) and all(map(_is_number, scores.values()))),
        ("step_plan", _is_count(state.step_plan)),
    ]


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)
