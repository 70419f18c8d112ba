"""Figures of quality against size and latency, and of size among published models."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log10

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from distilcli.report.blocks import Grid, Picture
from distilcli.report.drawing import (
    GREY,
    NARROW,
    SERIES,
    SMALL,
    SOFT,
    START,
    STUDENT,
    TEACHER,
    WIDE,
    Named,
    draw,
    name_points,
    panels,
    spread_apart,
)
from distilcli.report.measured import Measured
from distilcli.report.published import MODELS, REFERENCE, SOURCE
from distilcli.report.words import count, percent, short_count

_LARGEST = 400e9


@dataclass(frozen=True)
class Point:
    """One model.

    Attributes:
        name: beside it.
        x: its size, or its latency.
        y: the share of the teacher's score that it has.
        colour: of it.
        is_published: whether it is one of the literature.
    """

    name: str
    x: float
    y: float
    colour: str
    is_published: bool = False


def colour_of(one: Measured, place: int, several: bool) -> str:
    """Teachers, students at their start and trained ones each have a colour; several students more.

    Args:
        one: the model.
        place: its place among the trained students.
        several: whether there is more than one trained student.
    """
    if one.is_teacher:
        return TEACHER
    if one.is_untrained:
        return START
    return SERIES[place % len(SERIES)] if several else STUDENT


def quality_picture(key: str, models: Sequence[Measured], what: str) -> Picture | None:
    """Quality against size and, where it was measured, latency; None where quality is not known.

    Args:
        key: its id.
        models: that were measured.
        what: the score that is kept.
    """
    sizes, latencies = _points(models)
    if not sizes:
        return None
    title = "Quality against size" + (" and latency" if latencies else "")
    described = [
        f"{one.name}: {percent(one.y)} of the teacher's {what}, {short_count(one.x)} parameters"
        for one in sizes
    ]
    described += [f"{one.name}: {percent(one.x)} of the teacher's latency" for one in latencies]
    description = f"{'; '.join(described)}."

    def paint(figure: Figure, is_narrow: bool) -> None:
        every = panels(figure, 1 + bool(latencies), 1 if is_narrow else 2)
        _scatter(every[0], sizes)
        _size_axis(every[0], sizes)
        if latencies:
            _scatter(every[1], latencies)
            every[1].set_xlabel("latency, share of the teacher's")
            every[1].xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:.0f} %"))
            every[1].xaxis.set_major_locator(MaxNLocator(4))
        every[0].set_title(f"{what} kept, by size")
        if latencies:
            every[1].set_title(f"{what} kept, by latency")
        for axes, points in zip(every, (sizes, latencies), strict=False):
            named = [Named(p.name, p.x, p.y, SOFT if p.is_published else p.colour) for p in points]
            name_points(axes, named)

    height = 300
    wide = draw(f"{key}-wide", title, description, (WIDE, height), paint)
    tall = height * (1 + bool(latencies)) - 20
    narrow = draw(f"{key}-narrow", title, description, (NARROW, tall), paint)
    how = next((one.speed_how for one in models if one.speed_how), "")
    caption = f"Up is better, left is smaller or faster. {SOURCE}"
    caption += f" Latency of this run's models: {how}." if latencies else ""
    return Picture(key, title, caption, description, wide, narrow, _data(sizes, latencies, what))


def _points(models: Sequence[Measured]) -> tuple[list[Point], list[Point]]:
    teacher = next((one for one in models if one.kept == 1.0 and one.is_teacher), None)
    students = [one for one in models if not one.is_teacher and not one.is_untrained]
    several = len(students) > 1
    sizes, latencies = [], []
    for one in models:
        if one.kept is None:
            continue
        colour = colour_of(one, students.index(one) if one in students else 0, several)
        if one.parameters:
            sizes.append(Point(one.name, one.parameters, one.kept, colour))
        if one.latency_ms and teacher is not None and teacher.latency_ms:
            share = one.latency_ms / teacher.latency_ms
            latencies.append(Point(one.name, share, one.kept, colour))
    assert REFERENCE.glue is not None
    assert REFERENCE.seconds is not None
    for known in MODELS:
        if known.glue is None or known.seconds is None or not sizes:
            continue
        kept = known.glue / REFERENCE.glue
        sizes.append(Point(known.name, known.parameters, kept, GREY, True))
        if latencies:
            latencies.append(Point(known.name, known.seconds / REFERENCE.seconds, kept, GREY, True))
    return sizes, latencies


def _scatter(axes: Axes, points: Sequence[Point]) -> None:
    for one in points:
        size = 6 if one.is_published else 9
        axes.plot([one.x], [one.y], "o", color=one.colour, markersize=size, zorder=3)
    low, high = min(one.y for one in points), max(one.y for one in points)
    room = max(0.06, 0.12 * (high - low))
    axes.set_ylim(low - room, high + room)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.0f} %"))
    axes.margins(x=0.16)


def _size_axis(axes: Axes, points: Sequence[Point]) -> None:
    low, high = min(one.x for one in points), max(one.x for one in points)
    axes.set_xscale("log")
    axes.set_xlim(low / 2.5, high * 2.5)
    decades = [m * 10**e for e in range(3, 13) for m in (1, 3)]
    axes.xaxis.set_major_locator(FixedLocator([x for x in decades if low / 2.5 < x < high * 2.5]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: short_count(x)))
    axes.set_xlabel("parameters")


def _data(sizes: Sequence[Point], latencies: Sequence[Point], what: str) -> Grid:
    shares = {one.name: percent(one.x) for one in latencies}
    rows = [
        [one.name, short_count(one.x), percent(one.y), shares.get(one.name, "")] for one in sizes
    ]
    return Grid("The points", ["model", "parameters", f"{what} kept", "latency"], rows)


def size_picture(
    key: str, models: Sequence[tuple[str, int, str]], own_name: str = "this run"
) -> Picture:
    """Sizes over the years on a logarithmic axis, up to GPT-3, with those of the run beside them.

    Args:
        key: its id.
        models: name, parameters and colour of each model of the run.
        own_name: what stands below these.
    """
    title = "Size among published models"
    own = "; ".join(f"{name}: {count(size)} parameters" for name, size, _ in models)
    known = "; ".join(f"{m.name} ({m.year}): {short_count(m.parameters)}" for m in MODELS)
    description = f"{own}. Published models: {known}."
    caption = (
        "Parameters on a logarithmic axis, by the year of the paper. Grey: sizes that the papers "
        "of these models give; that of ELMo is from Sanh et al. 2019."
    )

    def paint(figure: Figure, is_narrow: bool) -> None:
        axes = figure.subplots()
        years = sorted({one.year for one in MODELS})
        place = years[-1] + 1
        for one in MODELS:
            axes.plot([one.year], [one.parameters], "o", color=GREY, markersize=7)
        for _, size, colour in models:
            axes.plot([place], [size], "o", color=colour, markersize=9)
        low = min([size for _, size, _ in models] + [one.parameters for one in MODELS])
        axes.set_yscale("log")
        axes.set_ylim(low / 3, _LARGEST)
        axes.set_xlim(years[0] - 0.25, place + (1.0 if is_narrow else 0.75))
        axes.yaxis.set_major_locator(FixedLocator([10.0**e for e in range(3, 12)]))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_ylim(low / 3, _LARGEST)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: short_count(y)))
        axes.set_xticks([*years, place], [*map(str, years), own_name])
        for year in years:
            of_year = [one for one in MODELS if one.year == year]
            sizes = [] if is_narrow else [short_count(one.parameters) for one in of_year]
            names = [one.name for one in of_year]
            names = [" ".join(pair) for pair in zip(names, sizes, strict=True)] if sizes else names
            _name_column(axes, year, names, [m.parameters for m in of_year], [SOFT] * len(names))
        names = [f"{name} {short_count(size)}" for name, size, _ in models]
        _name_column(axes, place, names, [s for _, s, _ in models], [c for _, _, c in models])

    wide = draw(f"{key}-wide", title, description, (WIDE, 340), paint)
    narrow = draw(f"{key}-narrow", title, description, (NARROW, 360), paint)
    rows = [[m.name, str(m.year), short_count(m.parameters)] for m in MODELS]
    rows = [[name, "", short_count(size)] for name, size, _ in models] + rows
    data = Grid("The points", ["model", "year", "parameters"], rows)
    return Picture(key, title, caption, description, wide, narrow, data)


def _name_column(
    axes: Axes, x: float, names: Sequence[str], sizes: Sequence[float], colours: Sequence[str]
) -> None:
    """Names to the right of points one above the other, a line apart at least."""
    low, high = axes.get_ylim()
    gap = 14 * log10(high / low) / (axes.bbox.height * 72 / axes.figure.dpi)
    for name, y, colour in zip(
        names, spread_apart([log10(size) for size in sizes], gap), colours, strict=True
    ):
        axes.annotate(
            name,
            (x, 10**y),
            xytext=(9, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            fontsize=SMALL,
            annotation_clip=False,
        )
