"""The sections of one run: quality, training, size, layers, cost, and how it was made."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import yaml

from distilcli.config.models import TaskCopiedStudent
from distilcli.errors import DistilError
from distilcli.models.families import FAMILIES
from distilcli.models.layers import layer_map
from distilcli.report.blocks import Block, Code, Grid, Paragraph, Picture, Section
from distilcli.report.curves import Curve, Panel, loss_panel, over_steps, score_panel
from distilcli.report.drawing import STUDENT, TEACHER
from distilcli.report.layer_drawing import layer_picture
from distilcli.report.measured import (
    AT_START,
    Measured,
    main_score,
    measured_models,
    results_grid,
    the_student,
    the_teacher,
)
from distilcli.report.run_facts import RunFacts
from distilcli.report.scatter import quality_picture, size_picture
from distilcli.report.series import HELD_OUT, TOTAL, keys_of, length_of, series_of, terms_of
from distilcli.report.words import (
    compact,
    count,
    duration,
    name_of_term,
    significant,
    title_of,
    value_of,
)

# Of masked-LM training these say most, in this order; of a task the first ones.
_TEXT_SCORES = ("accuracy", "agreement", "loss")
_MOST_SCORES = 3
_DIGITS = 16  # of a fingerprint


def sections_of_run(run: RunFacts, prefix: str = "") -> list[Section]:
    """All sections of a run, those left out for which there is nothing.

    Args:
        run: what its folder holds.
        prefix: begins the ids of its sections and figures.
    """
    of = run.name if prefix else ""
    found = [
        Section(f"{prefix}quality", "Quality", quality_blocks(run, prefix), of),
        Section(f"{prefix}training", "Training", training_blocks(run, prefix), of),
        Section(f"{prefix}size", "Size and speed", size_blocks(run, prefix), of),
        Section(f"{prefix}layers", "The student", layer_blocks(run, prefix), of),
        Section(f"{prefix}cost", "Cost", cost_blocks(run), of),
        Section(f"{prefix}made", "How it was made", made_blocks(run), of),
    ]
    return [section for section in found if section.blocks]


def measured_on(run: RunFacts) -> str:
    """What the results are of, in words."""
    results = run.results or {}
    text = results.get("text")
    if isinstance(text, dict):
        if "store" in text:
            return f"held-out text ({text['store']})"
        return f"the text {compact(text.get('files') or text)}"
    dev = results.get("dev")
    return f"the examples {compact(dev)}" if dev else "the dev examples"


def quality_blocks(run: RunFacts, prefix: str) -> list[Block]:
    """Everything that `eval` measured, or the scores of training where it did not run."""
    models = measured_models(run.results)
    if models:
        score = main_score(run.results, models)
        caption = f"Teacher and student on {measured_on(run)}."
        return [results_grid(models, score, caption, _note_on(models))]
    last = last_held_out(run)
    if not last:
        return []
    names = dict.fromkeys([*shown_scores(run), *last])
    rows = [[title_of(name), value_of(name, last.get(name))] for name in names]
    caption = "Held-out scores of the last validation during training."
    return [Grid(caption, ["", run.name], rows, strong=(0,))]


def _note_on(models: Sequence[Measured]) -> str:
    names = {key for one in models for key in one.scores}
    parts = []
    if "retained" in names:
        parts.append("Retained: the share of the teacher's score.")
    if "agreement" in names:
        parts.append("Agreement: predictions that are the teacher's.")
    if "ece" in names:
        parts.append("ECE: expected calibration error.")
    how = next((one.speed_how for one in models if one.speed_how), "")
    if how:
        parts.append(f"Latency: {how}.")
    return " ".join(parts)


def last_held_out(run: RunFacts) -> dict[str, float]:
    """The held-out scores of the last record that has some."""
    for record in reversed(run.records):
        found = {k.removeprefix(HELD_OUT): v for k, v in record.items() if k.startswith(HELD_OUT)}
        if found:
            return found
    return {}


def training_blocks(run: RunFacts, prefix: str) -> list[Block]:
    """Held-out scores over the steps, loss terms over the steps, and the pace."""
    found = [
        picture
        for picture in (
            held_out_picture(run, prefix),
            loss_picture(run, prefix),
            pace_picture(run, prefix),
        )
        if picture is not None
    ]
    return list(found)


def shown_scores(run: RunFacts) -> list[str]:
    """The few held-out scores that are drawn."""
    names = [key.removeprefix(HELD_OUT) for key in keys_of(run.records, HELD_OUT)]
    if run.task is None and "accuracy" in names:
        return [name for name in _TEXT_SCORES if name in names]
    return names[:_MOST_SCORES]


def held_out_picture(run: RunFacts, prefix: str) -> Picture | None:
    """Held-out scores over the steps beside the teacher's; None with fewer than two of them."""
    teacher = the_teacher(measured_models(run.results))
    panels = []
    for score in shown_scores(run):
        series = series_of(run.records, HELD_OUT + score)
        if len(series) > 1:
            panels.append(
                score_panel(score, [Curve("student", series)], reference_of(teacher, score))
            )
    if not panels:
        return None
    caption = "Scores on held-out data while the student was trained."
    if any(panel.reference is not None for panel in panels):
        caption += (
            " Dashed: the teacher's score as eval measured it, which may have looked at more of "
            "the held-out data."
        )
    return over_steps(f"{prefix}held-out", "Held-out quality", caption, panels, 3)


def reference_of(teacher: Measured | None, score: str) -> float | None:
    """The teacher's score; agreement with itself says nothing."""
    if teacher is None or score in ("agreement", "kl", "flips", "right_to_wrong"):
        return None
    return teacher.scores.get(score)


def loss_picture(run: RunFacts, prefix: str) -> Picture | None:
    """The total and each term over the steps; None where there are fewer than two records."""
    terms = terms_of(run.records, run.task)
    named = {TOTAL: "total"} | {
        key: f"{name_of_term(name)}{_weight(run, name)}" for key, name in terms.items()
    }
    if len(terms) == 1:
        del named[TOTAL]
    panels: list[Panel] = []
    for key, title in named.items():
        series = series_of(run.records, key)
        if len(series) > 1:
            panels.append(loss_panel(title, [Curve("", series, rough=True)]))
    if not panels:
        return None
    caption = (
        "Losses on training data: the total, and each term before its weight. Pale: each step. "
        "Strong: the mean of a twentieth of the run around each step."
    )
    return over_steps(f"{prefix}losses", "Losses by term", caption, panels, 2)


def _weight(run: RunFacts, name: str) -> str:
    section = (run.settings.get("loss") or {}).get(name)
    weight = section.get("weight") if isinstance(section, dict) else None
    if isinstance(weight, int | float):
        return f" (weight {weight:g})"
    return "" if weight is None else " (weight changes)"


def pace_picture(run: RunFacts, prefix: str) -> Picture | None:
    """Learning rate, norm of the gradient and tokens a second over the steps."""
    wanted = {
        "learning rate": ("optim/lr", False),
        "gradient norm": ("optim/grad_norm", True),
        "tokens a second": ("speed/tokens_per_second", False),
    }
    panels = []
    for title, (key, rough) in wanted.items():
        series = series_of(run.records, key)
        if len(series) > 1:
            panels.append(Panel(title, significant, [Curve("", series, rough=rough)]))
    if not panels:
        return None
    caption = "The optimiser and the pace. The norm is that of the gradient before it is clipped."
    return over_steps(f"{prefix}pace", "Optimiser and pace", caption, panels, 3)


def size_blocks(run: RunFacts, prefix: str) -> list[Block]:
    """Quality against size and latency; sizes among those of the literature."""
    models = measured_models(run.results)
    blocks: list[Block] = []
    score = main_score(run.results, models)
    if score is not None:
        picture = quality_picture(
            f"{prefix}quality-by-size", _renamed(run, models), title_of(score)
        )
        blocks += [] if picture is None else [picture]
    sizes = _own_sizes(run, models)
    if sizes:
        blocks.append(size_picture(f"{prefix}sizes", sizes))
    return blocks


def _renamed(run: RunFacts, models: Sequence[Measured]) -> list[Measured]:
    """The run's own students by shorter names."""
    names = {f"{run.name} at start": AT_START, f"{run.name} trained": "student"}
    names[run.name] = "student"
    return [replace(one, name=names.get(one.name, one.name)) for one in models]


def _own_sizes(run: RunFacts, models: Sequence[Measured]) -> list[tuple[str, int, str]]:
    """Teacher and student with their parameters, as measured or as their files say."""
    teacher, student = the_teacher(models), the_student(models, run.name)
    of_teacher = teacher.parameters if teacher else None
    of_student = student.parameters if student else None
    if of_teacher is None and run.teacher is not None:
        of_teacher = run.teacher.parameters
    if of_student is None:
        made = run.student or run.initial
        of_student = made.parameters if made else None
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
    facts: dict[str, list[str]] = {
        "architecture": [one.family for one in known.values()],
        "layers": [count(one.layers) for one in known.values()],
        "width of hidden states": [count(one.width) for one in known.values()],
        "attention heads": [count(one.heads) for one in known.values()],
        "width of feed-forward networks": [count(one.inner) for one in known.values()],
        "tokens of the vocabulary": [count(one.vocabulary) for one in known.values()],
        "parameters in its files": [count(one.parameters) for one in known.values()],
    }
    rows = [[name, *cells] for name, cells in facts.items()]
    what = "both models" if len(known) > 1 else f"the {next(iter(known))}"
    return Grid(f"The shape of {what}.", ["", *known], rows)


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


def cost_blocks(run: RunFacts) -> list[Block]:
    """Time, tokens and the machine."""
    length = length_of(run.all_records)
    environment = run.environment
    rows: list[list[str]] = []
    if length.steps:
        speed = f"{length.tokens / length.seconds:,.0f}" if length.seconds else ""
        rows += [
            ["steps", count(length.steps)],
            ["tokens trained on", count(length.tokens)],
            ["time of training", duration(length.seconds)],
            ["tokens a second", speed],
            ["epochs begun", count(length.epoch)],
        ]
    rows += [[name, value] for name, value in machine_of(environment).items()]
    if not rows:
        return []
    note = "Time of training is that of the steps, with validation and checkpoints between them."
    return [Grid("What training took.", ["", run.name], rows, note if length.steps else "")]


def machine_of(environment: dict[str, Any]) -> dict[str, str]:
    """The machine, as environment.json has it."""
    found: dict[str, str] = {}
    devices = environment.get("cuda_devices") or []
    if devices:
        names = [f"{d.get('name')} ({d.get('memory_gib')} GiB)" for d in devices]
        found["GPUs"] = ", ".join(names)
    if environment.get("cpu"):
        cores, threads = environment.get("cpu_cores_usable"), environment.get("cpu_threads")
        found["CPU"] = f"{environment['cpu']}, {cores} cores, {threads} threads"
    if environment.get("memory_gib"):
        found["memory"] = f"{environment['memory_gib']:g} GiB"
    return found


def made_blocks(run: RunFacts) -> list[Block]:
    """Seed, command, versions, fingerprints and settings."""
    environment = run.environment
    rows = [["seed", compact(run.seed)]] if run.seed is not None else []
    if environment.get("command"):
        rows.append(["command", " ".join(["distilcli", *environment["command"][1:]])])
    for key, name in (
        ("distilcli", "distilcli"),
        ("distilcli_commit", "commit of distilcli"),
        ("commit", "commit of the working folder"),
        ("python", "Python"),
        ("platform", "platform"),
    ):
        if environment.get(key):
            rows.append([name, str(environment[key])])
    packages = environment.get("packages") or {}
    if packages:
        rows.append(["packages", ", ".join(f"{name} {one}" for name, one in packages.items())])
    blocks: list[Block] = []
    if rows:
        blocks.append(Grid("Seed, command and versions.", ["", ""], rows, words=True))
    if run.identity:
        prints = [
            [what, str(one.get("digest"))[:_DIGITS], str(one.get("place"))]
            for what, one in run.identity.items()
            if isinstance(one, dict)
        ]
        columns = ["what the run depends on", "fingerprint", "where it was"]
        caption = f"Fingerprints of what it read: the first {_DIGITS} digits."
        blocks.append(Grid(caption, columns, prints, words=True))
    if run.tree:
        text = yaml.safe_dump(run.tree, sort_keys=False, allow_unicode=True)
        blocks.append(Code("All settings: experiment.yaml", text, "yaml"))
    return blocks
