"""The models of a run: how large and fast they are, and what the student was made of."""

from collections.abc import Sequence
from typing import Any

from distilcli.config.models import TaskCopiedStudent
from distilcli.errors import DistilError
from distilcli.models.families import FAMILIES
from distilcli.models.layers import layer_map
from distilcli.report.blocks import Block, Grid, Paragraph
from distilcli.report.drawing import STUDENT, TEACHER
from distilcli.report.export_sections import drawn_exports, timed
from distilcli.report.layer_drawing import layer_picture
from distilcli.report.measured import (
    Measured,
    main_score,
    measured_models,
    the_student,
    the_teacher,
)
from distilcli.report.run_facts import RunFacts
from distilcli.report.run_quality import renamed
from distilcli.report.scatter import Drawn, drawn_models, quality_picture, size_picture
from distilcli.report.words import compact, count, title_of


def size_blocks(run: RunFacts, prefix: str) -> list[Block]:
    """Quality against size and latency; sizes among those of the literature."""
    models = measured_models(run.results)
    blocks: list[Block] = []
    score = main_score(run.results, models)
    if score is not None:
        how = next((one.speed_how for one in models if one.speed_how), "")
        first = {"student": run.exports[0]} if run.exports else {}
        drawn, of_export = timed(_drawn(run, models, score), first)
        key, what = f"{prefix}quality-by-size", title_of(score)
        picture = quality_picture(key, drawn, what, how or of_export)
        blocks += [] if picture is None else [picture]
    sizes = _own_sizes(run)
    if sizes:
        blocks.append(size_picture(f"{prefix}sizes", sizes))
    return blocks


def _drawn(run: RunFacts, models: Sequence[Measured], score: str) -> list[Drawn]:
    """The run's models and its exports that were measured by the same score."""
    drawn = drawn_models(renamed(run, models))
    student = the_student(models, run.name)
    for export in run.exports:
        if student is not None and export.score == score:
            drawn += drawn_exports(export, student.kept, STUDENT)
    return drawn


def parameters_of(run: RunFacts) -> tuple[int | None, int | None]:
    """Parameters of teacher and student: those that they compute with, where they were measured.

    Files may hold more, such as a pooler that a sentence encoder does not use.
    """
    models = measured_models(run.results)
    teacher, student = the_teacher(models), the_student(models, run.name)
    of_teacher = teacher.parameters if teacher else None
    of_student = student.parameters if student else None
    made = run.student or run.initial
    if of_teacher is None and run.teacher is not None:
        of_teacher = run.teacher.parameters
    if of_student is None and made is not None:
        of_student = made.parameters
    return of_teacher, of_student


def _own_sizes(run: RunFacts) -> list[tuple[str, int, str]]:
    """Teacher and student with their parameters and colours."""
    of_teacher, of_student = parameters_of(run)
    found = [("teacher", of_teacher, TEACHER), ("student", of_student, STUDENT)]
    return [(name, size, colour) for name, size, colour in found if size]


def layer_blocks(run: RunFacts, prefix: str) -> list[Block]:
    """The shape of teacher and student, and which layers were copied."""
    blocks: list[Block] = []
    shapes = _shapes(run)
    if shapes is not None:
        blocks.append(shapes)
    chosen = copied_layers(run)
    if chosen is not None and run.teacher is not None:
        blocks.append(
            layer_picture(f"{prefix}layer-map", chosen, run.teacher.layers, "the teacher")
        )
    elif (start := start_in_words(run)) is not None:
        blocks.append(Paragraph(start))
    return blocks


def _shapes(run: RunFacts) -> Grid | None:
    made = run.student or run.initial
    models = {"teacher": run.teacher, "student": made}
    known = {name: one for name, one in models.items() if one is not None}
    if not known:
        return None
    used = dict(zip(models, parameters_of(run), strict=True))
    facts: dict[str, list[str]] = {
        "architecture": [one.family for one in known.values()],
        "layers": [count(one.layers) for one in known.values()],
        "width of hidden states": [count(one.width) for one in known.values()],
        "attention heads": [count(one.heads) for one in known.values()],
        "width of feed-forward networks": [count(one.inner) for one in known.values()],
        "tokens of the vocabulary": [count(one.vocabulary) for one in known.values()],
        "parameters": [count(used[name]) for name in known],
    }
    in_files = {name: one.parameters for name, one in known.items()}
    note = ""
    if any(in_files[name] != used[name] for name in known):
        facts["numbers in its files"] = [count(one) for one in in_files.values()]
        note = "Files may hold numbers that a model does not compute with, such as a pooler."
    rows = [[name, *cells] for name, cells in facts.items()]
    what = "both models" if len(known) > 1 else f"the {next(iter(known))}"
    return Grid(f"The shape of {what}.", ["", *known], rows, note)


def copied_layers(run: RunFacts) -> list[int] | None:
    """The teacher's layer of each layer of the student; None where it is not made of these."""
    student = run.settings.get("student")
    if not isinstance(student, dict) or student.get("kind", "copied") != "copied":
        return None
    if student.get("source") is not None or run.teacher is None:
        return None
    config = run.teacher.config
    try:
        wanted = TaskCopiedStudent(
            num_layers=student.get("num_layers"), layers=student.get("layers", "alternate")
        )
        return layer_map(
            run.teacher.layers,
            wanted.num_layers,
            wanted.layers,
            lambda depth: FAMILIES[config.model_type].layer_kinds(config, depth),
        )
    except (DistilError, ValueError):
        return None


def start_in_words(run: RunFacts) -> str | None:
    """How the student started, where that cannot be drawn."""
    student = run.settings.get("student")
    if not isinstance(student, dict):
        return None
    kind = student.get("kind", "copied")
    if kind == "checkpoint":
        return f"The student started as the model {student.get('model')}."
    if kind == "random":
        return f"The student started with random weights{_like(student.get('like'))}."
    source = student.get("source")
    if source is not None:
        return f"The student started with layers of {source}: {compact(student.get('layers'))}."
    return None


def _like(name: Any) -> str:
    return f" in the shape of {name}" if name else ""
