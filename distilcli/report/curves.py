"""Figures over the steps of runs: loss terms, held-out scores, the pace."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from distilcli.report.blocks import Grid, Picture
from distilcli.report.drawing import (
    NARROW,
    SMALL,
    STUDENT,
    TEACHER,
    WIDE,
    draw,
    panels,
)
from distilcli.report.labels import Label, label_ends
from distilcli.report.series import Series
from distilcli.report.words import count, significant, tick_of, title_of, value_of

_MOST_POINTS = 400  # of a line; more are not seen
_ROWS_OF_DATA = 12


@dataclass(frozen=True)
class Curve:
    """A line of a panel.

    Attributes:
        name: at its end; empty: only its last value stands there.
        series: what it shows.
        colour: of the line.
        rough: whether it is noisy, so that its moving mean is drawn over it.
    """

    name: str
    series: Series
    colour: str = STUDENT
    rough: bool = False


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        title: what is measured.
        shown: a value for people.
        tick: a value at the axis.
        curves: its lines.
        reference: a value for comparison, drawn as a dashed line; None: none.
        reference_name: what that is of.
    """

    title: str
    shown: Callable[[float], str]
    curves: Sequence[Curve]
    tick: Callable[[float], str] = significant
    reference: float | None = None
    reference_name: str = "teacher"


def over_steps(
    key: str, title: str, caption: str, shown_panels: Sequence[Panel], columns: int
) -> Picture:
    """A figure of panels over steps.

    Args:
        key: its id.
        title: what it is.
        caption: how to read it.
        shown_panels: one at least.
        columns: panels beside each other where there is room; on a phone it is one.
    """
    columns = min(columns, len(shown_panels))
    description = " ".join(_described(panel) for panel in shown_panels)

    def paint(figure: Figure, is_narrow: bool) -> None:
        every = panels(figure, len(shown_panels), 1 if is_narrow else columns)
        for axes, panel in zip(every, shown_panels, strict=True):
            _draw_panel(axes, panel)
        last_row = every[-1:] if is_narrow else every[-columns:]
        for axes in last_row:
            axes.set_xlabel("step")

    rows = -(-len(shown_panels) // columns)
    sizes = (WIDE, 40 + 200 * rows), (NARROW, 40 + 180 * len(shown_panels))
    wide, narrow = (
        draw(f"{key}-{shape}", title, description, size, paint)
        for shape, size in zip(("wide", "narrow"), sizes, strict=True)
    )
    return Picture(key, title, caption, description, wide, narrow, _data_of(shown_panels))


def _draw_panel(axes: Axes, panel: Panel) -> None:
    axes.set_title(panel.title)
    labels, end = [], 0.0
    for curve in panel.curves:
        if not len(curve.series):
            continue
        line = curve.series
        if curve.rough and len(line) > 20:
            raw = line.thinned(_MOST_POINTS)
            axes.plot(raw.steps, raw.values, color=curve.colour, linewidth=0.8, alpha=0.4)
            line = line.smooth()
        line = line.thinned(_MOST_POINTS)
        axes.plot(line.steps, line.values, color=curve.colour, solid_joinstyle="round")
        if len(line) < 13:
            axes.plot(line.steps, line.values, "o", color=curve.colour, markersize=4)
        end = max(end, line.steps[-1])
        value = panel.shown(line.values[-1])
        labels.append(Label(f"{curve.name}\n{value}".strip(), line.values[-1], curve.colour))
    if panel.reference is not None:
        axes.axhline(panel.reference, color=TEACHER, linewidth=1.5, linestyle=(0, (4, 3)))
        text = f"{panel.reference_name}\n{panel.shown(panel.reference)}"
        labels.append(Label(text, panel.reference, TEACHER))
    _settle_axes(axes, panel)
    label_ends(axes, axes.get_xlim()[1], labels)


def _settle_axes(axes: Axes, panel: Panel) -> None:
    """Few ticks, and limits that the first steps, which may be far above all others, do not set."""
    values = [v for curve in panel.curves for v in _typical(curve)]
    values += [] if panel.reference is None else [panel.reference]
    low, high = min(values), max(values)
    room = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    axes.set_ylim(low - room, high + room)
    axes.set_xlim(0, max(s for curve in panel.curves for s in curve.series.steps))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: panel.tick(value)))
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count(value)))
    axes.tick_params(labelsize=SMALL)


def _typical(curve: Curve) -> Sequence[float]:
    """The values that a panel must have room for: all, or those of the moving mean."""
    if curve.rough and len(curve.series) > 20:
        return curve.series.smooth().values
    return curve.series.values


def _described(panel: Panel) -> str:
    parts = []
    for curve in panel.curves:
        if len(curve.series):
            first, last = curve.series.values[0], curve.series.values[-1]
            steps = f"step {curve.series.steps[0]:,} to step {curve.series.steps[-1]:,}"
            of = f" of {curve.name}" if curve.name else ""
            parts.append(f"{panel.title}{of}: {panel.shown(first)} to {panel.shown(last)}, {steps}")
    if panel.reference is not None:
        parts.append(f"{panel.reference_name}: {panel.shown(panel.reference)}")
    return f"{'; '.join(parts)}."


def _data_of(shown_panels: Sequence[Panel]) -> Grid:
    """Values at some steps, one column a line; of noisy lines those of the moving mean."""
    named = [(panel, curve) for panel in shown_panels for curve in panel.curves]
    lines = [
        (panel, curve, curve.series.smooth() if curve.rough else curve.series)
        for panel, curve in named
    ]
    steps = sorted({step for _, _, line in lines for step in line.steps})
    stride = max(1, -(-len(steps) // _ROWS_OF_DATA))
    chosen = sorted({*steps[::stride], *steps[-1:]})
    columns = ["step"] + [f"{panel.title} {curve.name}".strip() for panel, curve, _ in lines]
    found = [dict(zip(line.steps, line.values, strict=True)) for _, _, line in lines]
    rows = [
        [count(step)]
        + [
            panel.shown(values[step]) if step in values else ""
            for (panel, _, _), values in zip(lines, found, strict=True)
        ]
        for step in chosen
    ]
    return Grid("Values at some steps", columns, rows)


def score_panel(
    score: str, curves: Sequence[Curve], reference: float | None, reference_name: str = "teacher"
) -> Panel:
    """A panel of one held-out score."""
    return Panel(
        title_of(score),
        lambda value: value_of(score, value),
        curves,
        lambda value: tick_of(score, value),
        reference,
        reference_name,
    )


def loss_panel(title: str, curves: Sequence[Curve]) -> Panel:
    """A panel of one loss term, whose values are nats or distances."""
    return Panel(title, significant, curves)
