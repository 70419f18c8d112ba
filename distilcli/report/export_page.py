"""The page about exports of which no run is named."""

from collections.abc import Sequence
from typing import Any

from distilcli.report.blocks import Block, Grid, KeyFigure, KeyFigures, Page, Section
from distilcli.report.export_sections import (
    compared_grid,
    export_blocks,
    export_figure,
    files_grid,
    in_words,
)
from distilcli.report.exports import Export
from distilcli.report.words import joined, title_of, value_of


def page_of_exports(exports: Sequence[Export], foot: list[str]) -> Page:
    """The page about one export, or about several."""
    names = [one.name for one in exports]
    blocks: list[Block] = [compared_grid(list(zip(names, exports, strict=True)))]
    is_one = len(exports) == 1
    sections = [Section("compared", "All exports", [] if is_one else blocks)]
    sections += [
        Section(f"export-{number}", "What was measured" if is_one else one.name, made)
        for number, one in enumerate(exports, start=1)
        if (made := export_blocks([one], f"of-{number}-"))
    ]
    sections.append(Section("files", "Files", [files_grid(exports)]))
    made_title = "How it was made" if is_one else "How they were made"
    sections.append(Section("made", made_title, [_made_grid(exports)]))
    return Page(
        title=joined(names),
        kicker="Export of a student" if is_one else f"{len(exports)} exports of students",
        lede=_lede(exports[0]) if is_one else "",
        opening=[KeyFigures(_key_figures(exports[0]))] if is_one else [],
        sections=[section for section in sections if section.blocks],
        foot=foot,
    )


def _lede(export: Export) -> str:
    of = f" of the run {export.experiment}" if export.experiment else ""
    what = f"The student{of} ({export.student}), measured on {export.measured_on}."
    return f"{what} {in_words(export)}"


def _key_figures(export: Export) -> list[KeyFigure]:
    """What the best format comes to, beside what it was made of."""
    best, of = export.best, export.reference
    speed = export_figure(export)
    figures = [] if speed is None else [speed]
    note = "" if of is None else f"{of} in torch: {export.times[of].mib:,.1f} MiB"
    figures.append(KeyFigure(f"{best.mib:,.1f}", "MiB", note))
    note = f"student in torch: {value_of(export.score, export.student_score)}"
    score = value_of(export.score, best.score)
    figures.append(KeyFigure(score, title_of(export.score), note))
    return figures


def _made_grid(exports: Sequence[Export]) -> Grid:
    """Command, versions and machine of each export."""
    found = [_made(one.environment) | {"student": one.student} for one in exports]
    keys = dict.fromkeys(key for one in found for key in one)
    rows = [[key, *(one.get(key, "") for one in found)] for key in keys]
    return Grid(
        "Command, versions and machine.", ["", *(one.name for one in exports)], rows, words=True
    )


def _made(environment: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    if environment.get("command"):
        found["command"] = " ".join(["distilcli", *environment["command"][1:]])
    for key in ("distilcli", "python", "platform", "cpu", "cpu_threads"):
        if environment.get(key) is not None:
            found[key.replace("_", " ")] = str(environment[key])
    packages = environment.get("packages") or {}
    if packages:
        found["packages"] = ", ".join(f"{name} {one}" for name, one in packages.items())
    return found
