"""A page as Markdown: the same words, tables and figures; figures are files beside it.

A figure within the text would have to be a data URL, which forges do not show.
"""

import re
from collections.abc import Mapping

from distilcli.files.marks import REPORT_MARK_IN_MARKDOWN
from distilcli.report.blocks import (
    Block,
    Code,
    Grid,
    KeyFigures,
    Missing,
    Page,
    Paragraph,
    Picture,
)


def markdown_of(page: Page, pictures: Mapping[str, str]) -> str:
    """The Markdown of a page.

    Args:
        page: what is shown.
        pictures: the file of each figure as a link, by its key; without one its description stands
            in its place.
    """
    lines = [REPORT_MARK_IN_MARKDOWN, "", f"# {_text(page.title)}", "", _text(page.kicker)]
    if page.lede:
        lines += ["", _text(page.lede)]
    for block in page.opening:
        lines += ["", *_block(block, pictures)]
    of = ""
    for section in page.sections:
        if section.of and section.of != of:
            lines += ["", f"## {_text(section.of)}"]
        of = section.of
        lines += ["", f"{'###' if of else '##'} {_text(section.title)}"]
        for block in section.blocks:
            lines += ["", *_block(block, pictures)]
    lines += ["", "---", *(f"\n{_text(line)}" for line in page.foot)]
    return "\n".join(lines) + "\n"


def _block(block: Block, pictures: Mapping[str, str]) -> list[str]:
    match block:
        case Paragraph():
            return [_text(block.text)]
        case Missing():
            return ["**What is missing**", "", *(f"- {_text(item)}" for item in block.items)]
        case KeyFigures():
            notes = [f" ({one.note})" if one.note else "" for one in block.figures]
            both = zip(block.figures, notes, strict=True)
            return [f"- **{_text(one.value)}** {_text(one.label + note)}" for one, note in both]
        case Grid():
            return _grid(block)
        case Picture():
            return _picture(block, pictures)
        case Code():
            fence = "`" * max(3, 1 + max(map(len, re.findall("`+", block.text)), default=0))
            text = block.text.rstrip("\n")
            return [f"{_text(block.title)}:", "", f"{fence}{block.language}", text, fence]


def _picture(block: Picture, pictures: Mapping[str, str]) -> list[str]:
    said = f"**{_text(block.title)}.** {_text(block.caption)}"
    if block.key in pictures:
        text = _text(f"{block.title}. {block.description}")
        lines = [said, "", f"![{text}]({pictures[block.key]})"]
    else:
        lines = [f"{said} {_text(block.description)}"]
    if block.data is not None:
        opening = ["<details>", "<summary>The values as a table</summary>"]
        lines += ["", *opening, "", *_grid(block.data), "", "</details>"]
    return lines


def _grid(block: Grid) -> list[str]:
    align = "---" if block.words else "---:"
    lines = [f"**{_text(block.caption)}**", ""]
    lines.append(_row(block.columns))
    lines.append(f"|{'|'.join(['---'] + [align] * (len(block.columns) - 1))}|")
    lines += [_row(row) for row in block.rows]
    if block.note:
        lines += ["", _text(block.note)]
    return lines


def _row(cells: object) -> str:
    assert isinstance(cells, list | tuple)
    escaped = (_text(str(cell)).replace("|", r"\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def _text(text: str) -> str:
    """Text that Markdown shows as it is."""
    text = " ".join(text.split())
    return re.sub(r"([\\`*_\[\]<>#])", r"\\\1", text)
