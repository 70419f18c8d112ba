"""Which layers of the teacher the student was made of, as a figure."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from distilcli.report.blocks import Picture
from distilcli.report.drawing import (
    GREY,
    INK,
    NARROW,
    PAPER,
    SMALL,
    SOFT,
    STUDENT,
    WIDE,
    draw,
)
from distilcli.report.words import joined

_BOX = 0.78  # of the distance between two layers


def layer_picture(key: str, chosen: Sequence[int], depth: int, source: str) -> Picture:
    """The layer map as a figure.

    Args:
        key: its id.
        chosen: the source's layer, from 0, of each layer of the student.
        depth: layers of the source.
        source: what the student was copied from.
    """
    title = f"Layers of the student and of {source}"
    pairs = [f"{own} from {other}" for own, other in enumerate(chosen)]
    description = (
        f"The student has {len(chosen)} layers, {source} has {depth}. Counted from 0, student "
        f"layer {joined(pairs)}."
    )
    caption = (
        f"Which of the {depth} layers, counted from 0, each of the student's {len(chosen)} layers "
        "started from."
    )

    def paint(figure: Figure, is_narrow: bool) -> None:
        axes = figure.subplots()
        axes.set_axis_off()
        offset = (depth - len(chosen)) / 2
        own = _places(chosen, depth, offset)
        for place, other in zip(own, chosen, strict=True):
            axes.plot([other, place], [1.0, 0.0], color=STUDENT, linewidth=1.5, zorder=1)
        for layer in range(depth):
            _box(axes, layer, 1.0, str(layer), layer in set(chosen), is_narrow and depth > 16)
        for number, place in enumerate(own):
            _box(axes, place, 0.0, str(number), True, is_narrow and depth > 16)
        axes.text(-0.45, 1.42, source, color=SOFT, fontsize=SMALL, va="center")
        axes.text(min(own) - 0.45, -0.42, "student", color=STUDENT, fontsize=SMALL, va="center")
        axes.set_xlim(-0.6, max(depth, 10) - 0.4)
        axes.set_ylim(-0.62, 1.62)

    wide = draw(f"{key}-wide", title, description, (WIDE, 190), paint)
    narrow = draw(f"{key}-narrow", title, description, (NARROW, 170), paint)
    return Picture(key, title, caption, description, wide, narrow)


def _places(chosen: Sequence[int], depth: int, offset: float) -> list[float]:
    """Where the student's layers stand: evenly between the first and the last of the source."""
    if len(chosen) == 1:
        return [(depth - 1) / 2]
    inset = min(offset, (depth - 1) * 0.16)
    stride = (depth - 1 - 2 * inset) / (len(chosen) - 1)
    return [inset + stride * number for number in range(len(chosen))]


def _box(axes: Axes, x: float, y: float, text: str, is_used: bool, is_small: bool) -> None:
    half, height = _BOX / 2, 0.36
    colour = STUDENT if is_used else GREY
    axes.add_patch(
        FancyBboxPatch(
            (x - half, y - height / 2),
            _BOX,
            height,
            boxstyle="round,pad=0,rounding_size=0.12",
            facecolor=PAPER,
            edgecolor=colour,
            linewidth=1.5 if is_used else 1.0,
            zorder=2,
        )
    )
    colour = INK if is_used else SOFT
    size = 8 if is_small else SMALL
    axes.text(x, y, text, ha="center", va="center", color=colour, fontsize=size, zorder=3)
