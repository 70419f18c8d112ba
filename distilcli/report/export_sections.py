"""What is shown of exports: a table of what was measured, a figure of size and speed, the files."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from distilcli.report.blocks import Block, Grid, KeyFigure, Picture
from distilcli.report.drawing import INK, NARROW, SMALL, STUDENT, TEACHER, WIDE, draw, panels
from distilcli.report.exports import Export
from distilcli.report.scatter import Drawn
from distilcli.report.words import ARROW, DASH, TIMES, factor, significant, title_of, value_of

_TORCH = {"teacher": "teacher in torch", "student": "student in torch"}
_ROW = 30  # pixels
_DIGITS = 16  # of a digest


def export_blocks(exports: Sequence[Export], prefix: str = "") -> list[Block]:
    """Each export with a table and, where speed was measured, a figure.

    Args:
        exports: of one student.
        prefix: begins the ids of figures.
    """
    blocks: list[Block] = []
    for number, export in enumerate(exports, start=1):
        blocks.append(export_grid(export))
        if export.times:
            blocks.append(speed_picture(f"{prefix}export-{number}", export))
    return blocks


def export_grid(export: Export) -> Grid:
    """Score, size and speed of the student in torch and of each format."""
    title = title_of(export.score)
    columns = ["", title, "falls by", "furthest apart", "MiB"]
    rows = [
        [name, *_score_cells(export, key), *_cells(export, key)]
        for key, name in (_TORCH | {one.kind: one.title for one in export.files}).items()
        if key in export.times or key not in _TORCH or key == "student"
    ]
    if export.times:
        of = "the teacher" if export.reference == "teacher" else "the student in torch"
        columns += ["one input, ms", "32 inputs, ms", "faster, one", "faster, 32"]
    else:
        of = ""
        rows = [row[:5] for row in rows]
    caption = f"The export {export.name}, measured on {export.measured_on}."
    best = [row[0] for row in rows].index(export.best.title)
    return Grid(caption, columns, rows, _note(export, of), strong=(best,))


def _score_cells(export: Export, key: str) -> list[str]:
    if key == "teacher":
        return [DASH] * 3
    if key == "student":
        return [value_of(export.score, export.student_score), DASH, DASH]
    [file] = [one for one in export.files if one.kind == key]
    drop = 100 * (export.student_score - file.score)
    text = f"{drop:.2f}".replace("-", "\N{MINUS SIGN}")
    return [value_of(export.score, file.score), text, significant(file.difference, 2)]


def _cells(export: Export, key: str) -> list[str]:
    """MiB, then times and how many times as fast as the reference."""
    time = export.times.get(key)
    sizes = {one.kind: one.mib for one in export.files}
    size = sizes.get(key, time.mib if time is not None else None)
    mib = DASH if size is None else f"{size:,.1f}"
    if time is None or export.reference is None:
        return [mib, *[DASH] * 4]
    reference = export.times[export.reference]
    return [
        mib,
        significant(time.single_ms),
        significant(time.batched_ms),
        factor(reference.single_ms / time.single_ms),
        factor(reference.batched_ms / time.batched_ms),
    ]


def _note(export: Export, of: str) -> str:
    parts = [
        "Falls by: points below the student in torch. Furthest apart: the largest difference "
        "between an output of the student in torch and of the file."
    ]
    if any(one.kind == "int8" for one in export.files):
        parts.append("In int8 the lower score of inputs one by one and in batches of 32 is shown.")
    left_out = sum(one.left_out for one in export.files)
    if left_out:
        parts.append(f"{left_out} products stayed in fp32.")
    if of:
        parts.append(f"Faster: than {of}, {_machine(export)}.")
    return " ".join(parts)


def _machine(export: Export) -> str:
    threads = export.environment.get("cpu_threads")
    cpu = export.environment.get("cpu") or "the CPU"
    number = f"{threads} thread{'' if threads == 1 else 's'}" if threads else "all threads"
    return f"on {number} of {cpu}"


def speed_picture(key: str, export: Export) -> Picture:
    """Times and sizes as bars, a row for the teacher, the student and each format."""
    names = {**_TORCH, **{one.kind: one.title for one in export.files}}
    rows = [(names[kind], kind, time) for kind, time in export.times.items() if kind in names]
    parts = {
        "one input, ms": [time.single_ms for _, _, time in rows],
        "32 inputs, ms": [time.batched_ms for _, _, time in rows],
        "size, MiB": [time.mib for _, _, time in rows],
    }
    title = f"Speed and size of {export.name}"
    labels = [name for name, _, _ in rows]
    described = (
        f"{what}: "
        + "; ".join(f"{name} {significant(x)}" for name, x in zip(labels, values, strict=True))
        for what, values in parts.items()
    )
    description = f"{'. '.join(described)}."
    colours = [TEACHER if kind == "teacher" else STUDENT for _, kind, _ in rows]

    def paint(figure: Figure, is_narrow: bool) -> None:
        every = panels(figure, len(parts), 1 if is_narrow else len(parts))
        for place, (axes, (what, values)) in enumerate(zip(every, parts.items(), strict=True)):
            _bars(axes, values, colours, labels if is_narrow or place == 0 else None)
            axes.set_title(what)

    height = 50 + _ROW * len(rows)
    wide = draw(f"{key}-wide", title, description, (WIDE, height), paint)
    narrow = draw(f"{key}-narrow", title, description, (NARROW, height * len(parts)), paint)
    caption = f"Shorter is better. Forward passes {_machine(export)}, medians of five."
    return Picture(key, title, caption, description, wide, narrow)


def _bars(
    axes: Axes, values: Sequence[float], colours: Sequence[str], names: Sequence[str] | None
) -> None:
    axes.grid(visible=False)
    axes.barh(range(len(values)), values, height=0.55, color=colours)
    for row, value in enumerate(values):
        axes.annotate(
            significant(value),
            (value, row),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            color=INK,
            fontsize=SMALL,
            annotation_clip=False,
        )
    axes.set_ylim(len(values) - 0.5, -0.5)
    axes.set_xlim(0, 1.3 * max(values))
    axes.set_yticks(range(len(values)), names or [""] * len(values))
    axes.tick_params(axis="y", labelcolor=INK, labelsize=SMALL)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)


def drawn_exports(export: Export, kept: float | None, colour: str, prefix: str = "") -> list[Drawn]:
    """The formats of an export, for the figure of quality against size and latency.

    What a format keeps of the teacher's score is what the student keeps, times the format's score
    as a share of the student's where both were measured with the export.

    Args:
        export: of the student.
        kept: what the student keeps of its teacher's score; None: not known.
        colour: of the student.
        prefix: before the names, where there are several students.
    """
    if kept is None or export.student_score <= 0:
        return []
    return [
        Drawn(
            name=f"{prefix}{one.short}",
            kept=kept * one.score / export.student_score,
            colour=colour,
            parameters=None,
            mib=one.mib,
            latency=share_of_latency(export, one.kind),
            mark="s",
        )
        for one in export.files
    ]


def timed(drawn: Sequence[Drawn], students: Mapping[str, Export]) -> tuple[list[Drawn], str]:
    """Models with the latencies that were measured with exports, where there are no others.

    Args:
        drawn: models by their names, the teacher as `teacher`.
        students: an export of each student, by the student's name.

    Returns:
        The models, and how their latency was measured; empty where nothing was taken.
    """
    if not students or any(one.latency is not None for one in drawn if one.mark == "o"):
        return list(drawn), ""
    shares = {name: share_of_latency(export, "student") for name, export in students.items()}
    shares["teacher"] = 1.0
    found = [replace(one, latency=one.latency or shares.get(one.name)) for one in drawn]
    first = next(iter(students.values()))
    return found, f"one input at a time, as export measured it, {_machine(first)}"


def share_of_latency(export: Export, kind: str) -> float | None:
    """The time of one input as a share of the teacher's; None where it was not measured."""
    if "teacher" not in export.times or kind not in export.times:
        return None
    return export.times[kind].single_ms / export.times["teacher"].single_ms


def in_words(export: Export) -> str:
    """What the best format of an export comes to, in a sentence."""
    best = export.best
    parts = []
    times = export.faster(best.kind)
    if times is not None:
        parts.append(f"is {times:.1f} times as fast as its {export.reference} in torch")
    parts.append(f"takes {best.mib:,.1f} MiB")
    score = title_of(export.score)
    own, other = (value_of(export.score, x) for x in (best.score, export.student_score))
    what = f"has {'the same' if own == other else f'{own} instead of {other}'} {score}"
    return f"Exported as {best.title}, the student {', '.join(parts)} and {what}."


def export_figure(export: Export) -> KeyFigure | None:
    """How fast the best format of an export is; None where that was not measured."""
    best, of = export.best, export.reference
    if of is None or best.kind not in export.times:
        return None
    before, after = (export.times[one].single_ms for one in (of, best.kind))
    note = f"{before:,.1f} ms {ARROW} {after:,.1f} ms, CPU"
    label = f"as fast as the {of}, {best.title}, one at a time"
    return KeyFigure(f"{before / after:.1f}{TIMES}", label, note)


def files_grid(exports: Sequence[Export]) -> Grid:
    """The files of exports with their digests."""
    several = len(exports) > 1
    rows = [
        [
            f"{export.name}/{one.path}" if several else one.path,
            one.title,
            f"{one.mib:,.1f}",
            one.sha256[:_DIGITS],
        ]
        for export in exports
        for one in export.files
    ]
    caption = f"Files, with the first {_DIGITS} digits of their digests."
    return Grid(caption, ["file", "format", "MiB", "SHA-256"], rows)


def compared_grid(exports: Sequence[tuple[str, Export]]) -> Grid:
    """Exports of several students, a row for each format.

    Args:
        exports: with the name of each one's student.
    """
    columns = ["student and format", "score", "falls by", "MiB", "one input, ms"]
    columns += ["32 inputs, ms", "faster, one", "faster, 32"]
    rows = []
    for name, export in exports:
        for one in export.files:
            score, drop, _ = _score_cells(export, one.kind)
            cells = [f"{title_of(export.score)} {score}", drop, *_cells(export, one.kind)]
            rows.append([f"{name}, {one.title}", *cells])
    note = (
        "Falls by: points below the student in torch. Faster: than the teacher in torch, or than "
        "the student where no teacher was measured. Times of different exports may be of different "
        "machines."
    )
    return Grid("What was measured of exports.", columns, rows, note)
