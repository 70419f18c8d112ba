"""Figures as SVG: text stays text, colours are those of the page, and each says what it shows.

matplotlib draws with colours that no page has, one for each role, and `_settled` puts the page's
variables in their place. So one figure is right in light, in dark and on paper.
"""

import io
import re
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from distilcli.report.palette import PALETTE, palette_css

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
_PROPERTY = re.compile(r"([\w-]+):var\(--([\w-]+)\)")
_ROOM = 12  # pixels around a figure in a file
_FONTS = "system-ui, 'Segoe UI', Roboto, 'Liberation Sans', Arial, sans-serif"
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


def as_file(svg: str) -> str:
    """A figure as a file of its own, on a ground of its own and with some room around it.

    In light and dark it follows the reader's system. What knows no custom properties, as many
    converters do not, takes the light colours, which stand before them.
    """
    root = ElementTree.fromstring(svg)
    kind = root.tag.removesuffix("svg")
    for element in root.iter():
        if "style" in element.attrib:
            element.set("style", _PROPERTY.sub(_with_light, element.attrib["style"]))
    _, _, width, height = (float(number) for number in root.attrib["viewBox"].split())
    width, height = width + 2 * _ROOM, height + 2 * _ROOM
    box = {"x": f"{-_ROOM}", "y": f"{-_ROOM}", "width": f"{width:g}", "height": f"{height:g}"}
    root.attrib |= {
        "width": box["width"],
        "height": box["height"],
        "style": f"font-family:{_FONTS}",
    }
    root.set("viewBox", " ".join(box.values()))
    if not kind:
        root.set("xmlns", _NAMESPACE)
    style = ElementTree.Element(f"{kind}style")
    style.text = palette_css()
    ground = ElementTree.Element(f"{kind}rect", box)
    ground.set("style", _PROPERTY.sub(_with_light, "fill:var(--paper)"))
    root[2:2] = [style, ground]  # after title and description
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _with_light(match: re.Match[str]) -> str:
    """A declaration with a custom property, and before it one with the light colour."""
    return f"{match[1]}:{PALETTE[match[2]][0]};{match[0]}"


def _style(style: str) -> str:
    for colour, name in _VARIABLES.items():
        style = style.replace(colour, f"var(--{name})")
    style = re.sub(r"font-family: [^;\"]*;?", "", style)
    style = re.sub(r"font: (\d+ )?([\d.]+)px [^;]*", _font, style)
    return re.sub(r"\s*([:;])\s*", r"\1", style)


def _font(match: re.Match[str]) -> str:
    weight = f"font-weight: {match[1].strip()}; " if match[1] else ""
    return f"{weight}font-size: {match[2]}px"


def panels(figure: Figure, count: int, columns: int) -> list[Axes]:
    """So many panels in rows; those of the last row that are not needed stay empty."""
    rows = -(-count // columns)
    grid: Any = figure.subplots(rows, columns, squeeze=False)
    every: list[Axes] = [axes for row in grid for axes in row]
    for axes in every[count:]:
        axes.set_axis_off()
    return every[:count]
