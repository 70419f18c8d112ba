"""Figures as SVG: text stays text, colours are those of the page, and each says what it shows.

matplotlib draws with colours that no page has, one for each role, and `_settled` puts the page's
variables in their place. So one figure is right in light, in dark and on paper.
"""

import io
import re
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

# Roles of colours: what matplotlib is told, and the variable of the page that it stands for.
INK, SOFT, RULE, PAPER, GREY = "#010101", "#010102", "#010103", "#010104", "#010105"
STUDENT, TEACHER, START = "#010201", "#010202", "#010203"
# Of several runs, one after the other.
SERIES = ("#010301", "#010302", "#010303", "#010304", "#010305", "#010306")
_VARIABLES = {
    INK: "ink",
    SOFT: "soft",
    RULE: "rule",
    PAPER: "paper",
    GREY: "grey",
    STUDENT: "student",
    TEACHER: "teacher",
    START: "start",
    **{colour: f"series-{place}" for place, colour in enumerate(SERIES, start=1)},
}
# Pixels of a figure in the column of the page, and on a phone of 360.
WIDE, NARROW = 760, 320
TEXT, SMALL = 12, 11
_NAMESPACE = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"
_STYLE: Any = {  # matplotlib's types name each of its settings
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",  # comes with matplotlib; the page has its own
    "font.size": TEXT,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": SOFT,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.titlelocation": "left",
    "axes.titlesize": TEXT,
    "axes.titlecolor": INK,
    "axes.titlepad": 10,
    "axes.labelsize": SMALL,
    "axes.unicode_minus": True,
    "xtick.color": RULE,
    "xtick.labelcolor": SOFT,
    "xtick.labelsize": SMALL,
    "ytick.labelcolor": SOFT,
    "ytick.labelsize": SMALL,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "round",
}
Draw = Callable[[Figure, bool], None]


def draw(key: str, title: str, description: str, size: tuple[int, int], paint: Draw) -> str:
    """One figure as an SVG element.

    Args:
        key: begins all ids in it.
        title: what it is.
        description: what it shows.
        size: width and height in pixels.
        paint: draws it, given the figure and whether it is for a phone.
    """
    width, height = size
    with mpl.rc_context({**_STYLE, "svg.hashsalt": key}), _quietly():
        gaps = ConstrainedLayoutEngine(w_pad=0.04, h_pad=0.04, hspace=0.09, wspace=0.05)
        figure = Figure(figsize=(width / 72, height / 72), layout=gaps)
        FigureCanvasSVG(figure)
        paint(figure, width <= NARROW)
        buffer = io.BytesIO()
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(buffer, format="svg", metadata=nothing, transparent=True)
    return _settled(buffer.getvalue(), key, title, description, size)


@contextmanager
def _quietly() -> Iterator[None]:
    """Names may hold characters that matplotlib's own font lacks; the page's has them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        yield


def _settled(svg: bytes, key: str, title: str, description: str, size: tuple[int, int]) -> str:
    """The element with the page's colours and font, ids of its own, and its text for readers."""
    ElementTree.register_namespace("", _NAMESPACE)
    root = ElementTree.fromstring(svg)
    for child in list(root):
        if child.tag.endswith("metadata"):
            root.remove(child)
    _own_ids(root, key)
    for element in root.iter():
        if "style" in element.attrib:
            element.set("style", _style(element.get("style", "")))
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("viewBox", f"0 0 {size[0]} {size[1]}")
    root.set("role", "img")
    root.set("aria-labelledby", f"{key}-title {key}-description")
    for place, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(f"{{{_NAMESPACE}}}{tag}")
        element.set("id", f"{key}-{'title' if tag == 'title' else 'description'}")
        element.text = text
        root.insert(place, element)
    return ElementTree.tostring(root, encoding="unicode")


def _own_ids(root: ElementTree.Element, key: str) -> None:
    """Keep the ids that something refers to, with `key` before them; the links without xlink."""
    used = set()
    for element in root.iter():
        if _LINK in element.attrib:
            used.add(element.attrib[_LINK].removeprefix("#"))
        used |= set(re.findall(r"url\(#([^)]+)\)", " ".join(element.attrib.values())))
    for element in root.iter():
        if _LINK in element.attrib:
            link = element.attrib.pop(_LINK).removeprefix("#")
            element.set("href", f"#{key}-{link}")
        for name, value in list(element.attrib.items()):
            if name == "id":
                if value in used:
                    element.set("id", f"{key}-{value}")
                else:
                    del element.attrib["id"]
            elif "url(#" in value:
                element.set(name, value.replace("url(#", f"url(#{key}-"))


def _style(style: str) -> str:
    for colour, name in _VARIABLES.items():
        style = style.replace(colour, f"var(--{name})")
    style = re.sub(r"font-family: [^;\"]*;?", "", style)
    style = re.sub(r"font: (\d+ )?([\d.]+)px [^;]*", _font, style)
    return re.sub(r"\s*([:;])\s*", r"\1", style)


def _font(match: re.Match[str]) -> str:
    weight = f"font-weight: {match[1].strip()}; " if match[1] else ""
    return f"{weight}font-size: {match[2]}px"


# What figures have in common


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


def panels(figure: Figure, count: int, columns: int) -> list[Axes]:
    """So many panels in rows; those of the last row that are not needed stay empty."""
    rows = -(-count // columns)
    grid: Any = figure.subplots(rows, columns, squeeze=False)
    every: list[Axes] = [axes for row in grid for axes in row]
    for axes in every[count:]:
        axes.set_axis_off()
    return every[:count]
