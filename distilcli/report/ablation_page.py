"""The page about an ablation: which changes of an experiment matter, and how sure that is."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from distilcli.report.blocks import Block, Grid, Page, Paragraph, Section
from distilcli.report.intervals import Difference, Score, difference_picture
from distilcli.report.words import (
    DASH,
    PLUS_MINUS,
    change_of,
    compact,
    count,
    duration,
    joined,
    title_of,
    value_of,
)

_BASE = "base"
# Of masked-LM training those that say most, in this order; of a task the first ones.
_TEXT_SCORES = ("accuracy", "agreement", "loss")
_MOST_SCORES = 3
Changes = Mapping[str, Mapping[str, Any]]


def page_of_ablation(record: Mapping[str, Any], foot: list[str]) -> Page:
    """The page about an ablation.

    Args:
        record: what results.json of its folder holds.
        foot: what it was made of, and by what.
    """
    changes: Changes = record["changes"]
    scores = shown_scores(changes)
    sections = [
        Section("changes", "What was changed", _change_blocks(changes)),
        Section("differences", "Differences", _difference_blocks(record, scores)),
        Section("scores", "Scores", _score_blocks(changes, scores)),
        Section("cost", "Cost", _cost_blocks(changes)),
    ]
    return Page(
        title=str(record["ablation"]),
        kicker="Ablation",
        lede=_lede(record, scores),
        opening=[],
        sections=[section for section in sections if section.blocks],
        foot=foot,
    )


def shown_scores(changes: Changes) -> list[str]:
    """Three scores at most, which every change has."""
    found = [list(one["scores"]) for one in changes.values()]
    if not found:
        return []
    common = [score for score in found[0] if all(score in other for other in found[1:])]
    if {"loss", "accuracy"} <= set(common):
        return [score for score in _TEXT_SCORES if score in common]
    return common[:_MOST_SCORES]


def _seeds(changes: Changes) -> list[int]:
    """How many seeds each change has."""
    return [
        max((len(score["seeds"]) for score in one["scores"].values()), default=0)
        for one in changes.values()
    ]


def _lede(record: Mapping[str, Any], scores: Sequence[str]) -> str:
    changes: Changes = record["changes"]
    others = [name for name in changes if name != _BASE]
    if not changes:
        return "No run of this ablation is finished."
    seeds = sorted(set(_seeds(changes)))
    each = f"{seeds[0]} seeds" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds"
    text = f"{len(others)} changes of one experiment, each with {each}"
    budget, equal = record.get("budget"), record.get("equal")
    if budget:
        text += f", all for {_budget(float(budget), str(equal))}"
    return f"{text}. {_finding(changes, scores)}"


def _budget(budget: float, equal: str) -> str:
    return duration(budget) if equal == "seconds" else f"{count(budget)} {equal}"


def _finding(changes: Changes, scores: Sequence[str]) -> str:
    """Which changes differ from the base by more than the seeds do."""
    if not scores or _BASE not in changes:
        return "There is no base to compare them with yet."
    score = scores[0]
    found = [_difference(name, one, score) for name, one in changes.items() if name != _BASE]
    if all(one.interval is None for one in found):
        return "With one seed, nothing says how sure a difference is."
    unit = " points" if _is_share(score) else ""
    clear = [f"{one.name} ({change_of(score, one.mean)}{unit})" for one in found if one.is_clear]
    title = title_of(score)
    if not clear:
        return f"In {title} no change differs from the base by more than seeds explain."
    return f"In {title} these differ from the base by more than seeds explain: {joined(clear)}."


def _change_blocks(changes: Changes) -> list[Block]:
    rows = [
        [name, "; ".join(f"{key} = {compact(value)}" for key, value in one["settings"].items())]
        for name, one in changes.items()
        if one.get("settings")
    ]
    if not rows:
        return []
    rows.insert(0, [_BASE, "the experiment as it is, with which all changes are compared"])
    return [Grid("Settings of each change.", ["change", "settings"], rows, words=True)]


def _difference(name: str, change: Mapping[str, Any], score: str) -> Difference:
    found = (change.get("differences") or {}).get(score)
    if found is None:
        return Difference(name, None, None)
    interval = found.get("interval")
    return Difference(name, found["mean"], None if interval is None else tuple(interval))


def _difference_blocks(record: Mapping[str, Any], scores: Sequence[str]) -> list[Block]:
    changes = {name: one for name, one in record["changes"].items() if name != _BASE}
    if not any(one.get("differences") for one in changes.values()) or not scores:
        return []
    drawn = [
        Score(
            f"{title_of(score)}, {'points' if _is_share(score) else 'lower is better'}",
            [_difference(name, one, score) for name, one in changes.items()],
            partial(change_of, score),
            100.0 if _is_share(score) else 1.0,
        )
        for score in scores
    ]
    caption = (
        "Seed by seed: the mean and its 95 % interval (Student's t). "
        "Blue: the interval leaves out 0. Grey: these seeds do not show a difference."
    )
    blocks: list[Block] = [difference_picture("differences-to-base", drawn, caption)]
    paper = any("published" in one for one in changes.values())
    columns = ["change", *map(title_of, scores), *(["paper"] if paper else [])]
    rows = [
        [
            name,
            *(_with_interval(_difference(name, one, score), score) for score in scores),
            *([_signed(one.get("published"))] if paper else []),
        ]
        for name, one in changes.items()
    ]
    note = f"Paper: {record['published']}." if paper and record.get("published") else ""
    caption = "Differences to the base, with half the width of their 95 % intervals."
    blocks.append(Grid(caption, columns, rows, note))
    return blocks


def _is_share(score: str) -> bool:
    return value_of(score, 0.0).endswith("%")


def _with_interval(one: Difference, score: str) -> str:
    mean = change_of(score, one.mean)
    if one.interval is None:
        return mean
    half = change_of(score, (one.interval[1] - one.interval[0]) / 2).lstrip("+")
    return f"{mean} {PLUS_MINUS} {half}"


def _signed(value: float | None) -> str:
    return DASH if value is None else f"{value:+g}".replace("-", "\N{MINUS SIGN}")


def _score_blocks(changes: Changes, scores: Sequence[str]) -> list[Block]:
    """Medians and ranges over seeds of the scores that are shown."""
    if not scores:
        return [Paragraph("No run is finished.")]
    columns = ["change", *map(title_of, scores)]
    rows = [
        [name, *(_with_range(score, one["scores"][score]) for score in scores)]
        for name, one in changes.items()
    ]
    caption = "Medians over seeds, with the lowest and the highest in brackets."
    return [Grid(caption, columns, rows)]


def _with_range(score: str, found: Mapping[str, Any]) -> str:
    median = value_of(score, found["median"])
    if len(found["seeds"]) < 2:
        return median
    low, high = (
        value_of(score, found[which]).removesuffix("%").strip() for which in ("lowest", "highest")
    )
    return f"{median} ({low} {DASH} {high})"


def _cost_blocks(changes: Changes) -> list[Block]:
    rows = []
    for name, one in changes.items():
        length = one.get("length")
        if length is None:
            rows.append([name, DASH, DASH, DASH])
        else:
            cells = [count(length["steps"]), count(length["tokens"]), duration(length["seconds"])]
            rows.append([name, *cells])
    return [
        Grid("Length of a run, medians over seeds.", ["change", "steps", "tokens", "time"], rows)
    ]
