"""Figures of suites and ablations: a row for each, dots for seeds, lines for intervals."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from distilcli.report.blocks import Grid, Picture
from distilcli.report.drawing import (
    GREY,
    INK,
    NARROW,
    PAPER,
    RULE,
    SMALL,
    START,
    STUDENT,
    WIDE,
    draw,
    panels,
)
from distilcli.report.words import DASH, significant

_ROW = 30  # pixels


@dataclass(frozen=True)
class Difference:
    """How far a change is from the base.

    Attributes:
        name: of the change.
        mean: over seeds; None: not known.
        interval: around it; None: there is one seed.
    """

    name: str
    mean: float | None
    interval: tuple[float, float] | None

    @property
    def ends(self) -> tuple[float, float]:
        """What has to be on the axis of it."""
        return self.interval or (self.mean or 0.0, self.mean or 0.0)

    @property
    def reach(self) -> float:
        """How far it goes from 0."""
        return max(map(abs, self.ends))

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)


@dataclass(frozen=True)
class Score:
    """One panel of differences.

    Attributes:
        title: the score.
        differences: a row each.
        shown: a difference for people.
        scale: what values at the axis are multiplied by.
    """

    title: str
    differences: Sequence[Difference]
    shown: Callable[[float], str]
    scale: float = 1.0


_FAR = 4.0  # times as far as all others: off the axis, so that these can be told apart


def far_out(differences: Sequence[Difference]) -> list[Difference]:
    """The few that are so far from 0 that on one axis with them all others would be one point."""
    known = sorted((one for one in differences if one.mean is not None), key=lambda one: one.reach)
    for number in range(1, len(known) // 2 + 1):
        others, far = known[:-number], known[-number:]
        if far[0].reach > _FAR * others[-1].reach > 0:
            return far
    return []


def difference_picture(key: str, scores: Sequence[Score], caption: str) -> Picture:
    """Differences to the base with their intervals, a panel for each score."""
    title = "Differences to the base"
    names = [one.name for one in scores[0].differences]
    description = " ".join(
        f"{score.title}: {'; '.join(_said(one, score) for one in score.differences)}."
        for score in scores
    )
    if any(far_out(score.differences) for score in scores):
        caption += " Arrow: the mean is outside the axis; the number is its value."

    def paint(figure: Figure, is_narrow: bool) -> None:
        every = panels(figure, len(scores), 1 if is_narrow else len(scores))
        for place, (axes, score) in enumerate(zip(every, scores, strict=True)):
            _draw_differences(axes, score, names if is_narrow or place == 0 else None)

    height = 60 + _ROW * len(names)
    wide = draw(f"{key}-wide", title, description, (WIDE, height), paint)
    narrow = draw(f"{key}-narrow", title, description, (NARROW, height * len(scores)), paint)
    return Picture(key, title, caption, description, wide, narrow)


def _said(one: Difference, score: Score) -> str:
    if one.mean is None:
        return f"{one.name} not known"
    if one.interval is None:
        return f"{one.name} {score.shown(one.mean)}"
    low, high = map(score.shown, one.interval)
    return f"{one.name} {score.shown(one.mean)} ({low} to {high})"


def _draw_differences(axes: Axes, score: Score, names: Sequence[str] | None) -> None:
    axes.set_title(score.title)
    axes.grid(visible=False)
    axes.axvline(0.0, color=RULE, linewidth=1.2)
    far = far_out(score.differences)
    ends = [x for one in score.differences if one not in far for x in one.ends]
    low, high = min(0.0, *ends), max(0.0, *ends)
    room = 0.12 * (high - low) or 1.0
    axes.set_xlim(low - room, high + room)
    for row, one in enumerate(score.differences):
        if one.mean is None:
            continue
        colour = STUDENT if one.is_clear or one.interval is None else GREY
        if one in far:
            _draw_arrow(axes, row, one.mean, score.shown(one.mean), colour)
            continue
        if one.interval is not None:
            axes.plot(one.interval, [row, row], color=colour, linewidth=2.0)
        axes.plot([one.mean], [row], "o", color=colour, markersize=7)
    _rows(axes, len(score.differences), names)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: significant(score.scale * x)))


def _draw_arrow(axes: Axes, row: int, mean: float, text: str, colour: str) -> None:
    """At the edge of the axis, with the number beside it."""
    left = mean < 0
    x = axes.get_xlim()[0 if left else 1]
    mark = "<" if left else ">"
    axes.plot([x], [row], mark, color=colour, markersize=7, clip_on=False)
    axes.annotate(
        text,
        (x, row),
        xytext=(9 if left else -9, 0),
        textcoords="offset points",
        ha="left" if left else "right",
        va="center",
        color=colour,
        fontsize=SMALL,
    )


def _rows(axes: Axes, count: int, names: Sequence[str] | None) -> None:
    axes.set_ylim(count - 0.4, -0.6)
    axes.set_yticks(range(count), names or [""] * count)
    axes.tick_params(axis="y", labelcolor=INK, labelsize=SMALL, pad=8)
    axes.tick_params(axis="x", labelsize=SMALL)


@dataclass(frozen=True)
class Dots:
    """The seeds of one model on one task.

    Attributes:
        model: what it is.
        values: of each seed.
        median: of them.
        colour: of the model.
    """

    model: str
    values: Sequence[float]
    median: float
    colour: str


def suite_picture(
    key: str, tasks: Sequence[tuple[str, Sequence[Dots]]], shown: Callable[[float], str]
) -> Picture:
    """Scores of all models on all tasks: a row for each task, a dot for each seed.

    Args:
        key: its id.
        tasks: each with its models.
        shown: a score for people.
    """
    title = "Scores by task"
    description = " ".join(
        f"{task}: {'; '.join(f'{one.model} {shown(one.median)}' for one in models)}."
        for task, models in tasks
    )
    models = {one.model: one.colour for _, found in tasks for one in found}
    caption = (
        "Scores on the dev examples: a dot for each seed, and a line at the median. Colours: "
        f"those of the names above it ({', '.join(models)})."
    )
    if START in models.values():
        caption += " Hollow: the student that was fine-tuned on the labels alone."

    def paint(figure: Figure, is_narrow: bool) -> None:
        axes = figure.subplots()
        axes.grid(visible=False)
        for row, (_, found) in enumerate(tasks):
            axes.axhline(row, color=RULE, linewidth=0.8, zorder=0)
            for place, one in enumerate(found):
                y = row + 0.5 * ((place + 0.5) / len(found) - 0.5)
                inside = PAPER if one.colour == START else one.colour
                at = [y] * len(one.values)
                axes.plot(one.values, at, "o", color=one.colour, markersize=5, mfc=inside)
                axes.plot([one.median] * 2, [y - 0.1, y + 0.1], color=one.colour, linewidth=2.5)
        _rows(axes, len(tasks), [task for task, _ in tasks])
        axes.set_ylim(len(tasks) - 0.4, -0.9)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: shown(x)))
        axes.set_xlabel("score, percent")
        _name_models(axes, tasks)

    height = 90 + 46 * len(tasks)
    wide = draw(f"{key}-wide", title, description, (WIDE, height), paint)
    narrow = draw(f"{key}-narrow", title, description, (NARROW, height), paint)
    return Picture(key, title, caption, description, wide, narrow, _by_seed(tasks, shown))


def _name_models(axes: Axes, tasks: Sequence[tuple[str, Sequence[Dots]]]) -> None:
    """Names of the models above the first row, each in its colour, side by side."""
    models = {one.model: one.colour for _, found in tasks for one in found}
    x = 0.0  # pixels
    for name, colour in models.items():
        axes.annotate(
            name,
            (0.0, 1.0),
            xycoords="axes fraction",
            xytext=(x, 4),
            textcoords="offset points",
            color=colour,
            fontsize=SMALL,
            va="bottom",
            annotation_clip=False,
        )
        x += 7 * len(name) + 20


def _by_seed(tasks: Sequence[tuple[str, Sequence[Dots]]], shown: Callable[[float], str]) -> Grid:
    most = max((len(one.values) for _, found in tasks for one in found), default=0)
    rows = [
        [f"{task}, {one.model}", *map(shown, one.values), *([DASH] * (most - len(one.values)))]
        for task, found in tasks
        for one in found
    ]
    columns = ["task and model", *(f"run {number}" for number in range(1, most + 1))]
    return Grid("The score of every run", columns, rows)
