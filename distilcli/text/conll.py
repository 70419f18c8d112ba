"""CoNLL files: a word a line, its columns set apart by tabs or blanks, blank lines between."""

from collections.abc import Iterator
from itertools import groupby, islice
from typing import Any

from distilcli.text.row import BadRow, Row

_LOOKED_AT = 1000  # lines


def conll_rows(
    lines: Iterator[str], needed: list[str], columns: list[str] | None
) -> Iterator[Row | BadRow]:
    """Sentences: a word a line, its columns set apart by tabs (or blanks), blank lines between.

    Without names the first column is that of the words and the last that of the tags, which is
    the order of `needed`; where only words are needed, there may be no other column.
    """
    words_column = needed[0]
    tags_column = needed[1] if len(needed) > 1 else None
    names = columns or [words_column]
    all_lines = [line.rstrip("\r\n") for line in lines]
    by_tabs = any("\t" in line for line in all_lines)
    sentence: list[list[str]] = []
    first, bad = 0, ""

    def finish() -> Iterator[Row | BadRow]:
        if bad:
            yield BadRow(first, bad)
        elif sentence and sentence[0][0] != "-DOCSTART-":
            yield Row(first, _columns_of(sentence, names, words_column, tags_column))

    for number, line in enumerate(all_lines, start=1):
        if not line.strip():
            yield from finish()
            sentence, bad = [], ""
            continue
        is_comment = "\t" not in line if by_tabs else " = " in line
        if line.startswith("#") and is_comment and not sentence:
            continue  # of CoNLL-U; "#" may be a word, too
        fields = line.split("\t") if by_tabs else line.split()
        if names[0] == "id" and not fields[0].isdecimal():
            continue  # of CoNLL-U: words that are written as one, or not at all
        wanted = max(len(needed), len(fields))
        if columns or sentence:
            wanted = len(columns or sentence[0])
        if not sentence and not bad:
            first = number
        if len(fields) != wanted and not bad:
            first, bad = number, f"{len(fields)} columns where there should be {wanted}"
        sentence.append(fields)
    yield from finish()


def _columns_of(
    sentence: list[list[str]], names: list[str], words_column: str, tags_column: str | None
) -> dict[str, Any]:
    if len(names) == 1:  # not named: the first and the last
        words = {words_column: [fields[0] for fields in sentence]}
        if tags_column is None:
            return words
        return words | {tags_column: [fields[-1] for fields in sentence]}
    return {
        name: list(values) for name, values in zip(names, zip(*sentence, strict=True), strict=True)
    }


def is_like_conll(lines: Iterator[str]) -> bool:
    """Whether lines look like words and their columns, and not like a sentence each.

    They do where a line has a tab, or where blank lines stand between groups of lines that all
    have the same number of words.
    """
    seen = [line.strip() for line in islice(lines, _LOOKED_AT)]
    if any("\t" in line for line in seen):
        return True
    groups = [list(group) for has_words, group in groupby(seen, bool) if has_words]
    widths = {len(line.split()) for group in groups for line in group}
    return len(groups) > 1 and max(map(len, groups)) > 1 and len(widths) == 1
