"""Figures of quality against size and latency, and of size among published models."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log10
from typing import Literal

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
    draw,
    panels,
)
from distilcli.report.labels import Named, name_points, spread_apart
from distilcli.report.measured import Measured
from distilcli.report.published import MODELS, REFERENCE, SOURCE
from distilcli.report.words import DASH, NO_BREAK, count, percent, short_count, significant

_LARGEST = 400e9
_MIB_OF_PARAMETER = 4 / 2**20  # in fp32, of which the published models are


@dataclass(frozen=True)
class Drawn:
    """One model in a figure.

    Attributes:
        name: beside it.
        kept: the share of the teacher's score that it has.
        colour: of it.
        parameters: how many; None: not known.
        mib: of its weights or its file; None: not known.
        latency: as a share of the teacher's; None: not measured.
        mark: how it is drawn: a circle, or a square for an export.
    """

    name: str
    kept: float
    colour: str
    parameters: float | None
    mib: float | None
    latency: float | None
    mark: Literal["o", "s"] = "o"

    @property
    def is_published(self) -> bool:
        """Whether it is one of the literature."""
        return self.colour == GREY


@dataclass(frozen=True)
class Point:
    """A model in one panel.

    Attributes:
        model: it.
        x: its size, or its latency.
    """

    model: Drawn
    x: float


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


def drawn_models(models: Sequence[Measured]) -> list[Drawn]:
    """The models of results.json of which is known what they keep."""
    teacher = next((one for one in models if one.kept == 1.0 and one.is_teacher), None)
    of_teacher = teacher.latency_ms if teacher is not None else None
    students = [one for one in models if not one.is_teacher and not one.is_untrained]
    return [
        Drawn(
            name=one.name,
            kept=one.kept,
            colour=colour_of(one, students.index(one) if one in students else 0, len(students) > 1),
            parameters=one.parameters,
            mib=one.size_mib,
            latency=one.latency_ms / of_teacher if one.latency_ms and of_teacher else None,
        )
        for one in models
        if one.kept is not None
    ]


def _published_models() -> list[Drawn]:
    assert REFERENCE.glue is not None
    assert REFERENCE.seconds is not None
    return [
        Drawn(
            name=one.name,
            kept=one.glue / REFERENCE.glue,
            colour=GREY,
            parameters=one.parameters,
            mib=_MIB_OF_PARAMETER * one.parameters,
            latency=one.seconds / REFERENCE.seconds,
        )
        for one in MODELS
        if one.glue is not None and one.seconds is not None
    ]


def quality_picture(key: str, own: Sequence[Drawn], what: str, how: str) -> Picture | None:
    """Quality against size and, where it was measured, latency; None where sizes are not known.

    Sizes are parameters, or MiB where exports are among the models, whose numbers are smaller.

    Args:
        key: its id.
        own: the models, those of the literature not among them.
        what: the score that is kept.
        how: how latency was measured, for the caption.
    """
    in_mib = any(one.mark == "s" for one in own)
    models = [*own, *_published_models()]
    found = [(one, one.mib if in_mib else one.parameters) for one in models]
    sizes = [Point(one, x) for one, x in found if x]
    if all(point.model.is_published for point in sizes):
        return None
    latencies = [Point(one, one.latency) for one in models if one.latency is not None]
    if all(point.model.is_published for point in latencies):
        latencies = []
    shown = _mib if in_mib else short_count
    title = "Quality against size" + (" and latency" if latencies else "")
    unit = "" if in_mib else " parameters"
    described = [
        f"{one.model.name}: {percent(one.model.kept)} of the teacher's {what}, {shown(one.x)}{unit}"
        for one in sizes
    ]
    described += [
        f"{one.model.name}: {percent(one.x)} of the teacher's latency" for one in latencies
    ]
    description = f"{'; '.join(described)}."

    def paint(figure: Figure, is_narrow: bool) -> None:
        every = panels(figure, 1 + bool(latencies), 1 if is_narrow else 2)
        _scatter(every[0], sizes)
        _size_axis(every[0], sizes, shown)
        every[0].set_xlabel("MiB of weights" if in_mib else "parameters")
        every[0].set_title(f"{what} kept, by size")
        if latencies:
            _scatter(every[1], latencies)
            every[1].set_xlabel("latency, share of the teacher's")
            every[1].xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:.0f} %"))
            every[1].xaxis.set_major_locator(MaxNLocator(4))
            every[1].set_title(f"{what} kept, by latency")
        for axes, points in zip(every, (sizes, latencies), strict=False):
            name_points(axes, [_named(point) for point in points])

    height = 300
    wide = draw(f"{key}-wide", title, description, (WIDE, height), paint)
    tall = height * (1 + bool(latencies)) - 20
    narrow = draw(f"{key}-narrow", title, description, (NARROW, tall), paint)
    caption = f"Up is better, left is smaller or faster. {'Squares: exports. ' if in_mib else ''}"
    caption += f"{SOURCE}{' In MiB they are in fp32.' if in_mib else ''}"
    caption += f" Latency of the models here: {how}." if latencies and how else ""
    data = _data(sizes, latencies, what, "MiB" if in_mib else "parameters", shown)
    return Picture(key, title, caption, description, wide, narrow, data)


def _mib(size: float) -> str:
    return f"{significant(size)}{NO_BREAK}MiB"


def _named(point: Point) -> Named:
    colour = SOFT if point.model.is_published else point.model.colour
    return Named(point.model.name, point.x, point.model.kept, colour)


def _scatter(axes: Axes, points: Sequence[Point]) -> None:
    for one in points:
        size = 6 if one.model.is_published else 9
        size -= one.model.mark == "s"
        mark, colour = one.model.mark, one.model.colour
        order = 3 if one.model.is_published else 4
        axes.plot([one.x], [one.model.kept], mark, color=colour, markersize=size, zorder=order)
    low, high = min(one.model.kept for one in points), max(one.model.kept for one in points)
    room = max(0.06, 0.12 * (high - low))
    axes.set_ylim(low - room, high + room)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.0f} %"))
    axes.margins(x=0.16)


def _size_axis(axes: Axes, points: Sequence[Point], shown: Callable[[float], str]) -> None:
    low, high = min(one.x for one in points), max(one.x for one in points)
    axes.set_xscale("log")
    axes.set_xlim(low / 2.5, high * 2.5)
    decades = [m * 10.0**e for e in range(-3, 13) for m in (1, 3)]
    axes.xaxis.set_major_locator(FixedLocator([x for x in decades if low / 2.5 < x < high * 2.5]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: shown(x).removesuffix("MiB").strip()))


def _data(
    sizes: Sequence[Point],
    latencies: Sequence[Point],
    what: str,
    size: str,
    shown: Callable[[float], str],
) -> Grid:
    shares = {one.model.name: percent(one.x) for one in latencies}
    rows = [[one.model.name, shown(one.x), percent(one.model.kept)] for one in sizes]
    columns = ["model", size, f"{what} kept"]
    if latencies:
        columns.append("latency, share of the teacher's")
        rows = [[*row, shares.get(row[0], DASH)] for row in rows]
    return Grid("The points", columns, rows)


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
