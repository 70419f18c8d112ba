"""The page about one run: what it comes to first, then its sections."""

from dataclasses import replace

from distilcli.report.blocks import Block, KeyFigure, KeyFigures, Missing, Page
from distilcli.report.export_sections import export_figure, in_words
from distilcli.report.measured import main_score, measured_models, the_student, the_teacher
from distilcli.report.run_facts import RunFacts
from distilcli.report.run_models import parameters_of
from distilcli.report.run_quality import measured_on
from distilcli.report.run_sections import sections_of_run
from distilcli.report.series import HELD_OUT, keys_of, length_of
from distilcli.report.words import (
    ARROW,
    TIMES,
    duration,
    joined,
    percent,
    short_count,
    title_of,
    value_of,
)

_MOST_FIGURES = 4


def page_of_run(run: RunFacts, foot: list[str]) -> Page:
    """The page about one run."""
    opening: list[Block] = []
    figures = key_figures(run)
    if figures:
        opening.append(KeyFigures(figures))
    lacking = missing_of(run)
    if lacking:
        opening.append(Missing(lacking))
    sections = sections_of_run(run)
    for number, stage in enumerate(run.stages, start=1):
        named = replace(stage, tree=stage.tree | {"name": stage.label})
        sections += sections_of_run(named, f"stage-{number}-")
    return Page(run.name, kicker_of(run), lede_of(run), opening, sections, foot)


def kicker_of(run: RunFacts) -> str:
    """What kind of run it is."""
    kind = {
        None: "masked-LM training",
        "embedding": "embeddings",
    }.get(run.task, f"the task {str(run.task).replace('_', ' ')}")
    if run.stages:
        return f"Training in {len(run.tree.get('stages') or run.stages)} stages"
    what = "Distillation" if has_teacher(run) else "Training without a teacher"
    return f"{what}: {kind}"


def has_teacher(run: RunFacts) -> bool:
    """Whether a model or a file is its teacher."""
    task = run.settings.get("task")
    is_file = isinstance(task, dict) and task.get("teacher_outputs") is not None
    return run.teacher_name is not None or is_file


def lede_of(run: RunFacts) -> str:
    """What was distilled from what, and what came of it."""
    parts = (_what_from_what(run), _what_came(run), _what_is_exported(run))
    return " ".join(part for part in parts if part)


def _what_from_what(run: RunFacts) -> str:
    made = run.student or run.initial
    of_teacher, of_student = parameters_of(run)
    student = "A student"
    if made is not None:
        size = f" and {short_count(of_student)} parameters" if of_student else ""
        student = f"A {made.family} of {made.layers} layers{size}"
    verb = "distilled" if run.is_finished else "being distilled"
    if run.stages:
        stages = joined(
            [
                f"{stage.root.name.partition('-')[2]} ({_stage_in_words(stage)})"
                for stage in run.stages
            ]
        )
        return f"{student}, {verb.replace('distilled', 'trained')} in stages: {stages}."
    if run.teacher_name is None:
        if has_teacher(run):
            return f"{student}, {verb} from outputs in a file."
        return f"{student}, {verb.replace('distilled', 'trained')} without a teacher."
    teacher = run.teacher_name
    if run.teacher is not None:
        teacher += f", a {run.teacher.family} of {run.teacher.layers} layers"
        if of_teacher:
            teacher += f" and {short_count(of_teacher)} parameters"
    others = (run.settings.get("teacher") or {}).get("others") or []
    more = f" and {len(others)} more" if others else ""
    return f"{student}, {verb} from {teacher}{more}."


def _stage_in_words(stage: RunFacts) -> str:
    kind = "masked-LM training" if stage.task is None else stage.task.replace("_", " ")
    if stage.teacher_name is not None:
        return f"{kind} from {stage.teacher_name}"
    return kind if has_teacher(stage) else f"{kind} without a teacher"


def _what_came(run: RunFacts) -> str:
    models = measured_models(run.results)
    teacher, student = the_teacher(models), the_student(models, run.name)
    if teacher is None or student is None or student.kept is None:
        return ""
    score = title_of(main_score(run.results, models) or "score")
    text = f"It keeps {percent(student.kept)} of its teacher's {score} on {measured_on(run)}"
    parts = []
    if teacher.parameters and student.parameters:
        share = percent(student.parameters / teacher.parameters, 0)
        parts.append(f"has {share} of its parameters")
    if teacher.latency_ms and student.latency_ms:
        parts.append(f"is {teacher.latency_ms / student.latency_ms:.1f} times as fast")
    return f"{joined([text, *parts])}."


def _what_is_exported(run: RunFacts) -> str:
    return in_words(run.exports[-1]) if run.exports else ""


def key_figures(run: RunFacts) -> list[KeyFigure]:
    """The four numbers that come first, as far as they are known."""
    models = measured_models(run.results)
    teacher, student = the_teacher(models), the_student(models, run.name)
    found: list[KeyFigure] = []
    if student is not None:
        score = main_score(run.results, models)
        if student.kept is not None and student is not teacher and teacher is not None:
            assert score is not None
            both = [value_of(score, one.scores.get(score)) for one in (teacher, student)]
            label = f"of the teacher's {title_of(score)} kept"
            found.append(KeyFigure(percent(student.kept), label, f" {ARROW} ".join(both)))
        elif score is not None and score in student.scores:
            found.append(KeyFigure(value_of(score, student.scores[score]), title_of(score)))
    found += _size_figures(run)
    if run.exports and (figure := export_figure(run.exports[-1])) is not None:
        found.append(figure)
    length = length_of(run.all_records)
    if length.steps:
        note = f"{short_count(length.tokens)} tokens, {length.steps:,} steps"
        found.append(KeyFigure(duration(length.seconds), "of training", note))
    return found[:_MOST_FIGURES]


def _size_figures(run: RunFacts) -> list[KeyFigure]:
    models = measured_models(run.results)
    teacher, student = the_teacher(models), the_student(models, run.name)
    found = []
    of_teacher, parameters = parameters_of(run)
    if parameters:
        note = f"{percent(parameters / of_teacher, 0)} of the teacher's" if of_teacher else ""
        found.append(KeyFigure(short_count(parameters), "parameters", note))
    if teacher and student and teacher.latency_ms and student.latency_ms:
        ratio = teacher.latency_ms / student.latency_ms
        note = f"{teacher.latency_ms:,.1f} ms {ARROW} {student.latency_ms:,.1f} ms, CPU"
        found.append(KeyFigure(f"{ratio:.1f}{TIMES}", "as fast, one at a time", note))
    return found


def missing_of(run: RunFacts) -> list[str]:
    """What the folder does not have, with the command that makes it."""
    found = list(run.problems)
    if not run.records and not run.stages:
        found.append("Training has not begun, or metrics.jsonl is not there: no curves.")
    elif not run.is_finished and not run.stages:
        found.append(
            f"The run is not finished: the last record is that of step {run.last_step:,}, and "
            "there is no trained student. The same distilcli train command with --resume goes on."
        )
    if run.stages:
        found += _missing_of_stages(run)
    elif run.records and not keys_of(run.records, HELD_OUT):
        found.append("No held-out scores are on record: validation.every is 0, or was not reached.")
    if run.results is None and run.is_finished:
        found.append(f"It was not measured: distilcli eval {run.shown_root} writes results.json.")
    elif run.results is not None:
        models = measured_models(run.results)
        is_timed = any(one.latency_ms for one in models) or any(one.times for one in run.exports)
        if models and not is_timed:
            found.append(f"Speed was not measured: distilcli eval {run.shown_root} --speed.")
    if run.teacher is None and run.teacher_name is not None and not run.stages:
        found.append(
            f"Its teacher, {run.teacher_name}, is not where it was when the run began: its shape "
            "and the layer map are left out."
        )
    return found


def _missing_of_stages(run: RunFacts) -> list[str]:
    declared = run.tree.get("stages") or []
    begun = len(run.stages)
    found = []
    if begun < len(declared):
        found.append(f"{len(declared) - begun} of its {len(declared)} stages have not begun.")
    found += [
        f"Stage {stage.root.name} is not finished: its last record is that of step "
        f"{stage.last_step:,}."
        for stage in run.stages
        if not stage.is_finished
    ]
    return found
