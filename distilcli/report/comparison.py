"""The page about several runs: how they differ first, then what came of it."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from distilcli.report.blocks import Block, Grid, Missing, Page, Paragraph, Picture, Section
from distilcli.report.curves import Curve, Panel, loss_panel, over_steps, score_panel
from distilcli.report.drawing import SERIES
from distilcli.report.export_sections import compared_grid, drawn_exports, timed
from distilcli.report.measured import (
    Measured,
    main_score,
    measured_models,
    scores_in_order,
    the_student,
    the_teacher,
)
from distilcli.report.run_facts import RunFacts
from distilcli.report.run_models import parameters_of
from distilcli.report.run_page import missing_of
from distilcli.report.run_quality import (
    last_held_out,
    measured_on,
    reference_of,
    shown_scores,
)
from distilcli.report.run_sections import sections_of_run
from distilcli.report.scatter import drawn_models, quality_picture, size_picture
from distilcli.report.series import HELD_OUT, TOTAL, length_of, series_of
from distilcli.report.words import (
    DASH,
    compact,
    count,
    duration,
    joined,
    percent,
    short_count,
    significant,
    title_of,
    value_of,
)

# Keys that say which run it is, and not what it does.
_NAMES = frozenset({"name", "output_dir"})
_ONLY_SEEDS = frozenset({"seed"})
_MOST_IN_FULL = 6  # runs whose own sections follow
_MOST_COLUMNS = 5
_MOST_NAMED = 4
_LONGEST_TITLE = 60


def page_of_runs(runs: Sequence[RunFacts], foot: list[str]) -> Page:
    """The page about several runs."""
    runs = labelled(runs)
    differing = differing_settings(runs)
    lacking = [f"{run.name}: {item}" for run in runs for item in missing_of(run)]
    opening: list[Block] = [Missing(lacking)] if lacking else []
    sections = [
        Section("differences", "How they differ", difference_blocks(runs, differing)),
        Section("quality", "Quality", quality_blocks(runs)),
        Section("training", "Training", training_blocks(runs)),
        Section("size", "Size and speed", size_blocks(runs)),
        Section("exports", "Exports", _export_blocks(runs)),
        Section("cost", "Cost", [cost_grid(runs)]),
    ]
    sections = [section for section in sections if section.blocks]
    if len(runs) <= _MOST_IN_FULL:
        for number, run in enumerate(runs, start=1):
            sections += sections_of_run(run, f"run-{number}-")
    return Page(
        title=_title([run.name for run in runs]),
        kicker=f"Comparison of {len(runs)} runs",
        lede=_lede(runs, differing),
        opening=opening,
        sections=sections,
        foot=foot,
    )


def _title(names: Sequence[str]) -> str:
    title = joined(names)
    return title if len(title) <= _LONGEST_TITLE else f"{len(names)} runs"


def labelled(runs: Sequence[RunFacts]) -> list[RunFacts]:
    """The runs under names that tell them apart: their own, with folders where those repeat."""
    names = [run.name for run in runs]
    parts = [run.root.resolve().parts for run in runs]
    for depth in range(2, max(map(len, parts)) + 1):
        if len(set(names)) == len(names):
            break
        longer = ["/".join(one[-depth:]) for one in parts]
        names = [
            other if names.count(name) > 1 else name
            for name, other in zip(names, longer, strict=True)
        ]
    return [
        replace(run, tree=run.tree | {"name": name}) for run, name in zip(runs, names, strict=True)
    ]


def leaves(tree: Any, prefix: str = "") -> dict[str, Any]:
    """The values of a tree of settings by their dotted keys."""
    if not (isinstance(tree, dict) and tree):
        return {prefix: tree}
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= leaves(value, f"{prefix}.{key}" if prefix else str(key))
    return found


def differing_settings(runs: Sequence[RunFacts]) -> dict[str, list[Any]]:
    """The settings in which runs differ, with the value of each; what one lacks is a dash."""
    trees = [leaves(run.settings) for run in runs]
    keys = dict.fromkeys(key for tree in trees for key in tree if key not in _NAMES)
    return {
        key: [compact(tree[key]) if key in tree else DASH for tree in trees]
        for key in keys
        if any(tree.get(key, DASH) != trees[0].get(key, DASH) for tree in trees)
    }


def _differing_facts(runs: Sequence[RunFacts]) -> dict[str, list[str]]:
    """What differs besides settings: the contents that were read, versions and machines."""
    found: dict[str, list[str]] = {}
    prints = [_digests(run) for run in runs]
    for what in dict.fromkeys(key for one in prints for key in one):
        values = [one.get(what, DASH) for one in prints]
        if len(set(values)) > 1:
            found[f"{what} (fingerprint)"] = [value[:8] for value in values]
    environments = [_versions(run.environment) for run in runs]
    for what in dict.fromkeys(key for one in environments for key in one):
        values = [one.get(what, DASH) for one in environments]
        if len(set(values)) > 1:
            found[what] = values
    return found


def _digests(run: RunFacts) -> dict[str, str]:
    entries = run.identity.items()
    return {what: str(one.get("digest")) for what, one in entries if isinstance(one, dict)}


def _versions(environment: Mapping[str, Any]) -> dict[str, str]:
    found = {
        key: str(environment[key])
        for key in ("distilcli", "python", "cpu", "cpu_threads")
        if environment.get(key) is not None
    }
    return found | {name: str(one) for name, one in (environment.get("packages") or {}).items()}


def difference_blocks(
    runs: Sequence[RunFacts], differing: Mapping[str, Sequence[str]]
) -> list[Block]:
    """Settings and facts that differ, as tables."""
    blocks: list[Block] = []
    if differing:
        blocks.append(_by_run("Settings that differ.", runs, differing, words=True))
    else:
        blocks.append(Paragraph("All settings are the same, but for names and folders."))
    facts = _differing_facts(runs)
    if facts:
        caption = "What else differs: contents that were read, versions, machines."
        blocks.append(_by_run(caption, runs, facts, words=True))
    return blocks


def _by_run(
    caption: str,
    runs: Sequence[RunFacts],
    rows: Mapping[str, Sequence[str]],
    note: str = "",
    words: bool = False,
) -> Grid:
    """A column for each run, or, of many runs, a row."""
    if len(runs) <= _MOST_COLUMNS:
        cells = [[key, *values] for key, values in rows.items()]
        return Grid(caption, ["", *(run.name for run in runs)], cells, note, words)
    turned = [
        [run.name, *(values[place] for values in rows.values())] for place, run in enumerate(runs)
    ]
    return Grid(caption, ["run", *rows], turned, note, words)


def _lede(runs: Sequence[RunFacts], differing: Mapping[str, Sequence[str]]) -> str:
    keys = list(differing)
    if not keys:
        what = "in none of their settings"
    elif len(keys) <= _MOST_NAMED:
        what = f"in {joined(keys)}"
    else:
        what = f"in {joined([*keys[:3], f'{len(keys) - 3} more settings'])}"
    teachers = {run.teacher_name for run in runs}
    teacher = teachers.pop() if len(teachers) == 1 else None
    who = "These runs" if teacher is None else f"These students of {teacher}"
    text = f"{who} differ {what}."
    best = _best(runs)
    return f"{text} {best}" if best else text


def _best(runs: Sequence[RunFacts]) -> str:
    """Which run has the highest score, where all have one of the same kind on the same examples."""
    if len({_digests(run).get("task.dev rows") for run in runs}) > 1:
        return ""
    found = [(run, *_quality(run)) for run in runs]
    scores = {score for _, score, _ in found}
    if len(scores) != 1 or None in scores or len({measured_on(run) for run in runs}) > 1:
        return ""
    score = scores.pop()
    values = [value for _, _, value in found]
    if score is None or score in ("loss", "kl") or any(value is None for value in values):
        return ""
    run, _, value = max(found, key=lambda one: one[2] or 0.0)
    return f"The best {title_of(score)} is that of {run.name}, {value_of(score, value)}."


def _quality(run: RunFacts) -> tuple[str | None, float | None]:
    """The main score of a run and its value: as measured, else the last one of training."""
    models = measured_models(run.results)
    score, student = main_score(run.results, models), the_student(models, run.name)
    if score is not None and student is not None and score in student.scores:
        return score, student.scores[score]
    last = last_held_out(run)
    shown = shown_scores(run)
    return (shown[0], last.get(shown[0])) if shown else (None, None)


# Sections


def quality_blocks(runs: Sequence[RunFacts]) -> list[Block]:
    """What eval measured of each student, else the scores at the end of training."""
    blocks: list[Block] = []
    students = [the_student(measured_models(run.results), run.name) for run in runs]
    if any(students):
        known = [one for one in students if one]
        rows: dict[str, list[str]] = {}
        for key in scores_in_order(known, _common_score(runs)):
            cells = [None if one is None else one.scores.get(key) for one in students]
            rows[title_of(key)] = [_shown(key, cell) for cell in cells]
        rows |= _sizes(students)
        places = {measured_on(run) for run, one in zip(runs, students, strict=True) if one}
        note = "" if len(places) < 2 else f"Measured on {joined(sorted(places))}."
        blocks.append(_by_run("The students as eval measured them.", runs, rows, note))
    lasts = [last_held_out(run) for run in runs]
    if any(lasts) and not all(students):
        names = dict.fromkeys([*shown_scores(runs[0]), *(key for one in lasts for key in one)])
        rows = {title_of(k): [value_of(k, one.get(k)) for one in lasts] for k in names}
        blocks.append(_by_run("Held-out scores of the last validation.", runs, rows))
    if set(differing_settings(runs)) <= _ONLY_SEEDS and len(runs) > 1:
        blocks += _spread(runs)
    return blocks


def _common_score(runs: Sequence[RunFacts]) -> str | None:
    """The main score, where all that were measured have the same."""
    scores = {main_score(run.results, measured_models(run.results)) for run in runs} - {None}
    return scores.pop() if len(scores) == 1 else None


def _shown(key: str, value: float | None) -> str:
    if key == "perplexity":
        return DASH if value is None else significant(value, 4)
    return percent(value) if key == "retained" else value_of(key, value)


def _sizes(students: Sequence[Measured | None]) -> dict[str, list[str]]:
    rows = {
        "parameters": [count(one.parameters if one else None) for one in students],
        "latency, ms": [
            significant(one.latency_ms) if one and one.latency_ms else DASH for one in students
        ],
    }
    return {name: cells for name, cells in rows.items() if set(cells) != {DASH}}


def _spread(runs: Sequence[RunFacts]) -> list[Block]:
    """Runs that differ in their seeds alone: means, deviations and ranges."""
    found = [_scores_of(run) for run in runs]
    names = [key for key in found[0] if all(key in one for one in found)]
    rows = []
    for key in names:
        values = [one[key] for one in found]
        deviation = statistics.stdev(values)
        cells = (statistics.fmean(values), deviation, min(values), max(values))
        rows.append([title_of(key), *(_shown(key, cell) for cell in cells)])
    if not rows:
        return []
    caption = f"The same experiment with {len(runs)} seeds."
    return [Grid(caption, ["", "mean", "standard deviation", "lowest", "highest"], rows)]


def _scores_of(run: RunFacts) -> dict[str, float]:
    student = the_student(measured_models(run.results), run.name)
    scores = dict(student.scores) if student is not None else last_held_out(run)
    order = scores_in_order([student], None) if student is not None else list(scores)
    return {key: scores[key] for key in order}


def training_blocks(runs: Sequence[RunFacts]) -> list[Block]:
    """Held-out scores and the total loss of all runs in the same panels."""
    blocks: list[Block] = []
    scores = [s for s in shown_scores(runs[0]) if all(s in shown_scores(run) for run in runs)]
    panels = [panel for score in scores if (panel := _score_panel(runs, score)) is not None]
    if panels:
        caption = "Scores on held-out data while the students were trained. Dashed: the teacher's."
        blocks.append(over_steps("held-out", "Held-out quality", caption, panels, 2))
    curves = [replace(one, series=one.series.smooth()) for one in _curves(runs, TOTAL)]
    if curves and _loss_is_comparable(runs):
        caption = "The total loss on training data: the mean of a twentieth of a run at each step."
        panel = loss_panel("total loss", curves)
        blocks.append(over_steps("losses", "Total loss", caption, [panel], 1))
    return blocks


def _loss_is_comparable(runs: Sequence[RunFacts]) -> bool:
    return not any(key.startswith("loss.") for key in differing_settings(runs))


def _score_panel(runs: Sequence[RunFacts], score: str) -> Panel | None:
    curves = _curves(runs, HELD_OUT + score)
    if not curves:
        return None
    teachers = [reference_of(the_teacher(measured_models(run.results)), score) for run in runs]
    known = {value for value in teachers if value is not None}
    return score_panel(score, curves, known.pop() if len(known) == 1 else None)


def _curves(runs: Sequence[RunFacts], key: str) -> list[Curve]:
    curves = []
    for place, run in enumerate(runs):
        series = series_of(run.records, key)
        if len(series) > 1:
            curves.append(Curve(run.name, series, SERIES[place % len(SERIES)]))
    return curves


def size_blocks(runs: Sequence[RunFacts]) -> list[Block]:
    """All students against size and latency, where all have the same teacher."""
    models: dict[str, Measured] = {}
    for run in runs:
        found = measured_models(run.results)
        teacher, student = the_teacher(found), the_student(found, run.name)
        if teacher is not None:
            models.setdefault("teacher", replace(teacher, name="teacher"))
        if student is not None:
            models[run.name] = replace(student, name=run.name)
    pictures: list[Picture | None] = []
    score = _common_score(runs)
    if score is not None:
        how = next((one.speed_how for one in models.values() if one.speed_how), "")
        drawn = drawn_models(list(models.values()))
        colours = {one.name: one for one in drawn}
        for run in runs:
            one = colours.get(run.name)
            for export in run.exports:
                if one is not None and export.score == score:
                    drawn += drawn_exports(export, one.kept, one.colour, f"{run.name} ")
        drawn, of_exports = timed(drawn, {run.name: one for run in runs for one in run.exports[:1]})
        key, what = "quality-by-size", title_of(score)
        pictures.append(quality_picture(key, drawn, what, how or of_exports))
    sizes = [
        (run.name, size, SERIES[place % len(SERIES)])
        for place, run in enumerate(runs)
        if (size := parameters_of(run)[1])
    ]
    if sizes:
        pictures.append(size_picture("sizes", sizes, "these runs"))
    return [picture for picture in pictures if picture is not None]


def _export_blocks(runs: Sequence[RunFacts]) -> list[Block]:
    exports = [
        (run.name, export) for run in runs for one in (run, *run.stages) for export in one.exports
    ]
    return [compared_grid(exports)] if exports else []


def cost_grid(runs: Sequence[RunFacts]) -> Grid:
    """What each run took."""
    lengths = [length_of(run.records) for run in runs]
    rows = {
        "steps": [count(one.steps) for one in lengths],
        "tokens trained on": [short_count(one.tokens) for one in lengths],
        "time of training": [duration(one.seconds) for one in lengths],
        "tokens a second": [
            f"{one.tokens / one.seconds:,.0f}" if one.seconds else DASH for one in lengths
        ],
    }
    return _by_run("What training took.", runs, rows)
