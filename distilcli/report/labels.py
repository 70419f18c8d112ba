"""Names at the ends of lines and beside points, where they do not stand in each other's way."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes

from distilcli.report.drawing import SMALL


@dataclass(frozen=True)
class Label:
    """A name at the end of a line or beside a point.

    Attributes:
        text: what it says.
        y: where it would stand.
        colour: of what it names.
    """

    text: str
    y: float
    colour: str


def label_ends(axes: Axes, x: float, labels: Sequence[Label], gap_pixels: float = 14.0) -> None:
    """Names at the right end of lines, of one or two lines, moved apart where they would overlap.

    Call it when the limits of the axes are settled.
    """
    if not labels:
        return
    low, high = axes.get_ylim()
    figure = axes.get_figure()
    assert figure is not None
    figure.draw_without_rendering()  # type: ignore[union-attr]
    gap_pixels *= 1 + max(label.text.count("\n") for label in labels)
    gap = gap_pixels / max(1.0, axes.bbox.height * 72 / figure.dpi) * (high - low)
    placed = spread_apart([label.y for label in labels], gap, low, high)
    for label, y in zip(labels, placed, strict=True):
        axes.annotate(
            label.text,
            (x, y),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            color=label.colour,
            fontsize=SMALL,
            linespacing=1.1,
            annotation_clip=False,
        )


def spread_apart(
    wanted: Sequence[float], gap: float, low: float = float("-inf"), high: float = float("inf")
) -> list[float]:
    """Places at least `gap` apart, in the order of the wanted ones and as near as is simple."""
    order = sorted(range(len(wanted)), key=lambda place: wanted[place])
    placed = [wanted[place] for place in order]
    for _ in range(50):
        moved = False
        for i in range(1, len(placed)):
            lack = gap - (placed[i] - placed[i - 1])
            if lack > 1e-9 * max(1.0, abs(gap)):
                placed[i - 1] -= lack / 2
                placed[i] += lack / 2
                moved = True
        if not moved:
            break
    if placed and placed[-1] > high:
        placed[-1] = high
        for i in reversed(range(len(placed) - 1)):
            placed[i] = min(placed[i], placed[i + 1] - gap)
    if placed and placed[0] < low:
        placed[0] = low
        for i in range(1, len(placed)):
            placed[i] = max(placed[i], placed[i - 1] + gap)
    found = [0.0] * len(wanted)
    for place, y in zip(order, placed, strict=True):
        found[place] = y
    return found


@dataclass(frozen=True)
class Named:
    """A point with a name beside it.

    Attributes:
        text: the name.
        x: of the point.
        y: of the point.
        colour: of the name.
    """

    text: str
    x: float
    y: float
    colour: str


_Box = tuple[float, float, float, float]
# Where a name may stand beside its point: shifts in pixels, and how it is aligned there.
_BESIDE = (
    (9, 0, "left", "center"),
    (0, 8, "center", "bottom"),
    (-9, 0, "right", "center"),
    (0, -8, "center", "top"),
    (7, 9, "left", "bottom"),
    (7, -9, "left", "top"),
    (-7, 9, "right", "bottom"),
    (-7, -9, "right", "top"),
)


def name_points(axes: Axes, points: Sequence[Named]) -> None:
    """Names beside points, each where it is in the way of as little as can be.

    Call it when the limits of the axes are settled.
    """
    figure: Any = axes.get_figure()
    figure.draw_without_rendering()
    places = [axes.transData.transform((one.x, one.y)) * 72 / figure.dpi for one in points]
    taken: list[_Box] = [(x - 6, y - 6, x + 6, y + 6) for x, y in places]
    left, bottom, right, top = axes.bbox.extents * 72 / figure.dpi
    for one, (x, y) in zip(points, places, strict=True):
        width, height = 6.2 * len(one.text), 13.0
        boxes = [_box_of(x + dx, y + dy, width, height, ha, va) for dx, dy, ha, va in _BESIDE]

        def cost(place: int, boxes: list[_Box] = boxes) -> float:
            box = boxes[place]
            outside: float = max(0, left - box[0]) + max(0, box[2] - right - 4)
            outside += max(0, bottom - box[1]) + max(0, box[3] - top - 4)
            return sum(_shared(box, other) for other in taken) + 40 * outside + place

        best = min(range(len(boxes)), key=cost)
        taken.append(boxes[best])
        dx, dy, ha, va = _BESIDE[best]
        axes.annotate(
            one.text,
            (one.x, one.y),
            xytext=(dx, dy),
            textcoords="offset points",
            ha=ha,
            va=va,
            color=one.colour,
            fontsize=SMALL,
            annotation_clip=False,
        )


def _box_of(x: float, y: float, width: float, height: float, ha: str, va: str) -> _Box:
    x0 = x - {"left": 0.0, "center": width / 2, "right": width}[ha]
    y0 = y - {"bottom": 0.0, "center": height / 2, "top": height}[va]
    return x0, y0, x0 + width, y0 + height


def _shared(one: _Box, other: _Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return width * height if width > 0 and height > 0 else 0.0
