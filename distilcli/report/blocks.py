"""What a page is made of, before it is HTML or Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(frozen=True)
class Paragraph:
    """Sentences.

    Attributes:
        text: plain text.
    """

    text: str
    kind: ClassVar[str] = "paragraph"


@dataclass(frozen=True)
class Missing:
    """What could not be shown, and how to get it.

    Attributes:
        items: a sentence each.
    """

    items: Sequence[str]
    kind: ClassVar[str] = "missing"


@dataclass(frozen=True)
class KeyFigure:
    """One of the few numbers that come first."""

    value: str
    label: str
    note: str = ""


@dataclass(frozen=True)
class KeyFigures:
    """The few numbers that come first."""

    figures: Sequence[KeyFigure]
    kind: ClassVar[str] = "key_figures"


@dataclass(frozen=True)
class Grid:
    """A table whose first column names its rows.

    Attributes:
        caption: what it shows, in a sentence or less.
        columns: names of all columns; that of the first may be empty.
        rows: texts, as many as there are columns.
        note: what a reader should know of it; below it.
        words: whether the cells are words, and not figures.
        strong: numbers of the rows that matter most.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    words: bool = False
    strong: Sequence[int] = ()
    kind: ClassVar[str] = "grid"


@dataclass(frozen=True)
class Picture:
    """A figure in two shapes, with all that it shows as text.

    Attributes:
        key: its id; no two of a page have the same.
        title: what it is, in a few words.
        caption: how to read it; below it.
        description: what it shows, for people who do not see it.
        wide: SVG for screens and paper.
        narrow: SVG for phones.
        data: its figures as a table; None where they stand in a table of the page.
    """

    key: str
    title: str
    caption: str
    description: str
    wide: str
    narrow: str
    data: Grid | None = None
    kind: ClassVar[str] = "picture"


@dataclass(frozen=True)
class Code:
    """Text as it is in a file.

    Attributes:
        title: what it is.
        text: its lines.
        language: for whoever colours it.
    """

    title: str
    text: str
    language: str = ""
    kind: ClassVar[str] = "code"


Block = Paragraph | Missing | KeyFigures | Grid | Picture | Code


@dataclass(frozen=True)
class Section:
    """A part of a page under a heading.

    Attributes:
        key: its id; no two of a page have the same.
        title: its heading.
        blocks: what is in it.
        of: name of the run that it is about, where a page is about several; its heading then
            stands below that of the run.
    """

    key: str
    title: str
    blocks: Sequence[Block]
    of: str = ""


@dataclass(frozen=True)
class Page:
    """A whole page.

    Attributes:
        title: its heading.
        kicker: what kind of page it is; above the heading.
        lede: what it comes to, in two or three sentences.
        opening: what stands before the first section.
        sections: in their order.
        foot: what it was made of, and by what.
    """

    title: str
    kicker: str
    lede: str
    opening: Sequence[Block]
    sections: Sequence[Section]
    foot: Sequence[str] = field(default=())

    @property
    def pictures(self) -> list[Picture]:
        """All figures, in their order."""
        blocks = [*self.opening, *(one for part in self.sections for one in part.blocks)]
        return [one for one in blocks if isinstance(one, Picture)]
