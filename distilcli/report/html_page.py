"""A page as one HTML file: it needs no network, no script and no other file."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from distilcli.files.marks import REPORT_MARK
from distilcli.report.blocks import Block, Page, Section
from distilcli.report.palette import palette_css

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class _Part:
    """Sections that belong together: those of one run, or one section alone."""

    key: str
    title: str
    sections: Sequence[Section]
    is_run: bool


def html_of(page: Page) -> str:
    """The HTML of a page."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    blocks = environment.get_template("blocks.html")
    numbers = itertools.count(1)

    def show(block: Block) -> str:
        name = f"table-{next(numbers)}"
        return blocks.render(block=block, name=name).strip()

    style = palette_css() + (_TEMPLATES / "page.css").read_text(encoding="utf-8")
    page_html = environment.get_template("page.html").render(
        page=page, parts=_parts(page), show=show, style=style, mark=REPORT_MARK
    )
    return f"{page_html}\n"


def _parts(page: Page) -> list[_Part]:
    parts: list[_Part] = []
    for section in page.sections:
        if not section.of:
            parts.append(_Part(section.key, section.title, [section], False))
        elif parts and parts[-1].is_run and parts[-1].title == section.of:
            sections = [*parts[-1].sections, section]
            parts[-1] = _Part(parts[-1].key, section.of, sections, True)
        else:
            parts.append(_Part(f"{section.key}-run", section.of, [section], True))
    return parts
