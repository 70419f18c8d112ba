"""The page about a suite: what students keep of their teachers on many tasks, over seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

from distilcli.evaluation.calibration import RELIABILITY_TITLES
from distilcli.report.blocks import Block, Grid, KeyFigure, KeyFigures, Page, Section
from distilcli.report.drawing import SERIES, START, STUDENT, TEACHER
from distilcli.report.intervals import Dots, suite_picture
from distilcli.report.published import ITS_STUDENT, REFERENCE
from distilcli.report.words import DASH, percent, title_of

# What a suite calls the teacher, the student on the labels alone, and the distilled one.
_COLOURS = {"teacher": TEACHER, "student": START, "distilled": STUDENT}
_SAID = {
    "student": "the student fine-tuned on the labels alone",
    "distilled": "the student distilled from the fine-tuned teacher",
}
Tasks = Mapping[str, Mapping[str, Any]]


def page_of_suite(record: Mapping[str, Any], foot: list[str]) -> Page:
    """The page about a suite.

    Args:
        record: what results.json of its folder holds.
        foot: what it was made of, and by what.
    """
    tasks: Tasks = record["tasks"]
    sections = [
        Section("scores", "Scores", _score_blocks(record)),
        Section("spread", "Spread over seeds", _spread_blocks(tasks)),
        Section("reliability", "Flips and calibration", _reliability_blocks(tasks)),
    ]
    figures = _key_figures(record.get("macro") or {})
    return Page(
        title=str(record.get("suite")),
        kicker="Suite of tasks",
        lede=_lede(record),
        opening=[KeyFigures(figures)] if figures else [],
        sections=[section for section in sections if section.blocks],
        foot=foot,
    )


def _models_of(tasks: Tasks) -> list[str]:
    return list(dict.fromkeys(model for task in tasks.values() for model in task["models"]))


def _lede(record: Mapping[str, Any]) -> str:
    tasks: Tasks = record["tasks"]
    seeds = {len(one["seeds"]) for task in tasks.values() for one in task["models"].values()}
    if not seeds:
        return "No run of this suite is finished."
    low, high = min(seeds), max(seeds)
    each = f"{low}" if low == high else f"{low} to {high}"
    text = f"{len(tasks)} tasks, each model trained with {each} seeds."
    said = [
        f"{_SAID[model]} keeps {percent(share)} of its teacher's mean score"
        for model in ("distilled", "student")
        if (share := _kept(record.get("macro") or {}, model)) is not None
    ]
    return f"{text} {'; '.join(said).capitalize()}." if said else text


def _kept(macro: Mapping[str, Any], model: str) -> float | None:
    found = macro.get(model)
    share = found.get("retained") if isinstance(found, dict) else None
    return float(share) if share is not None else None


def _key_figures(macro: Mapping[str, Any]) -> list[KeyFigure]:
    figures = []
    for model, one in macro.items():
        if isinstance(one, dict) and "mean" in one:
            kept = one.get("retained")
            note = "" if kept is None or model == "teacher" else f"{percent(kept)} kept"
            label = f"mean over {macro.get('tasks', '')} tasks, {model}".replace("  ", " ")
            figures.append(KeyFigure(f"{100 * one['mean']:.1f}", label, note))
    return figures[:4]


def _score_blocks(record: Mapping[str, Any]) -> list[Block]:
    tasks: Tasks = record["tasks"]
    models = _models_of(tasks)
    if not models:
        return []
    drawn = [(name, _dots(task["models"], models)) for name, task in tasks.items()]
    picture = suite_picture("scores-by-task", drawn, lambda x: f"{100 * x:.1f}".removesuffix(".0"))
    return [_score_grid(record, models), picture]


def _dots(found: Mapping[str, Any], models: Sequence[str]) -> list[Dots]:
    others = [model for model in models if model not in _COLOURS]
    dots = []
    for model in models:
        if model in found:
            one = found[model]
            colour = _COLOURS.get(model)
            if colour is None:
                colour = SERIES[(others.index(model) + 1) % len(SERIES)]
            values = [scores[one["score"]] for scores in one["seeds"].values()]
            dots.append(Dots(model, values, one["median"], colour))
    return dots


def _score_grid(record: Mapping[str, Any], models: Sequence[str]) -> Grid:
    tasks: Tasks = record["tasks"]
    published = any("published" in task for task in tasks.values())
    columns = ["task and score"]
    for model in models:
        columns += [model] if model == "teacher" else [model, "kept"]
    columns += [REFERENCE.name, ITS_STUDENT.name] if published else []
    rows = []
    for name, task in tasks.items():
        found = task["models"]
        score = next((title_of(one["score"]) for one in found.values()), DASH)
        known = task.get("published")
        paper = [f"{value:g}" for value in known.values()] if known else [DASH, DASH]
        cells = [cell for model in models for cell in _cells(model, found.get(model), "median")]
        rows.append([f"{name}, {score}", *cells, *(paper if published else [])])
    macro = record.get("macro") or {}
    if macro:
        cells = [cell for model in models for cell in _cells(model, macro.get(model), "mean")]
        paper = [DASH, DASH] if published else []
        rows.append([f"mean of {macro.get('tasks')} tasks", *cells, *paper])
    note = "; ".join(f"{model}: {_SAID[model]}" for model in models if model in _SAID)
    note = f"{note[:1].upper()}{note[1:]}. Kept: the share of the teacher's score."
    if published:
        note += f" {REFERENCE.name} and {ITS_STUDENT.name}: on the whole data (Sanh et al. 2019)."
    caption = "Dev scores in percent, medians over seeds."
    return Grid(caption, columns, rows, note, strong=(len(rows) - 1,) if macro else ())


def _cells(model: str, one: Mapping[str, Any] | None, which: str) -> list[str]:
    known = one is not None and one.get(which) is not None
    value = f"{100 * one[which]:.1f}" if one is not None and known else DASH
    if model == "teacher":
        return [value]
    return [value, percent(one.get("retained")) if one is not None else DASH]


def _spread_blocks(tasks: Tasks) -> list[Block]:
    models = _models_of(tasks)
    rows = [
        [name, *(_range(task["models"].get(m)) for m in models)] for name, task in tasks.items()
    ]
    if all(cell == DASH for row in rows for cell in row[1:]):
        return []
    caption = "Lowest and highest score over seeds, in percent."
    return [Grid(caption, ["task", *models], rows)]


def _range(one: Mapping[str, Any] | None) -> str:
    if one is None or len(one["seeds"]) < 2:
        return DASH
    return f"{100 * one['lowest']:.1f} {DASH} {100 * one['highest']:.1f}"


def _reliability_blocks(tasks: Tasks) -> list[Block]:
    models = _models_of(tasks)
    rows = [
        [name, *(_reliability(task["models"].get(model)) for model in models)]
        for name, task in tasks.items()
    ]
    if all(cell == DASH for row in rows for cell in row[1:]):
        return []
    names = " / ".join(RELIABILITY_TITLES.values())
    caption = f"{names[:1].upper()}{names[1:]} in percent, medians over seeds."
    return [Grid(caption, ["task", *models], rows)]


def _reliability(one: Mapping[str, Any] | None) -> str:
    found = None if one is None else one.get("reliability")
    if not found:
        return DASH
    cells = (found.get(key) for key in RELIABILITY_TITLES)
    return " / ".join(DASH if value is None else f"{100 * value:.1f}" for value in cells)
