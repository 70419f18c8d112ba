"""How good a run's student is: what eval measured, or the held-out scores of training."""

from collections.abc import Sequence
from dataclasses import replace

from distilcli.report.blocks import Block, Grid
from distilcli.report.measured import AT_START, Measured, main_score, measured_models, results_grid
from distilcli.report.run_facts import RunFacts
from distilcli.report.series import HELD_OUT, keys_of
from distilcli.report.words import compact, title_of, value_of

# Of masked-LM training these say most, in this order; of a task the first ones.
_TEXT_SCORES = ("accuracy", "agreement", "loss")
_MOST_SCORES = 3


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


def quality_blocks(run: RunFacts) -> list[Block]:
    """Everything that `eval` measured, or the scores of training where it did not run."""
    models = measured_models(run.results)
    if models:
        score = main_score(run.results, models)
        caption = f"Teacher and student on {measured_on(run)}."
        return [results_grid(renamed(run, models), score, caption, _note_on(models))]
    last = last_held_out(run)
    if not last:
        return []
    names = dict.fromkeys([*shown_scores(run), *last])
    rows = [[title_of(name), value_of(name, last.get(name))] for name in names]
    caption = "Held-out scores of the last validation during training."
    return [Grid(caption, ["", run.name], rows, strong=(0,))]


def renamed(run: RunFacts, models: Sequence[Measured]) -> list[Measured]:
    """The run's own students by shorter names."""
    names = {f"{run.name} at start": AT_START, f"{run.name} trained": "student"}
    names[run.name] = "student"
    return [replace(one, name=names.get(one.name, one.name)) for one in models]


def _note_on(models: Sequence[Measured]) -> str:
    names = {key for one in models for key in one.scores}
    parts = []
    if "retained" in names:
        parts.append("Retained: the share of the teacher's score.")
    if "agreement" in names:
        parts.append("Agreement: predictions that are the teacher's.")
    if "flips" in names:
        parts.append("Flips: predictions that are not the teacher's.")
    if "right_to_wrong" in names:
        parts.append("Right to wrong: the teacher is right and the student is not.")
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


def shown_scores(run: RunFacts) -> list[str]:
    """The few held-out scores that are drawn."""
    names = [key.removeprefix(HELD_OUT) for key in keys_of(run.records, HELD_OUT)]
    if run.task is None and "accuracy" in names:
        return [name for name in _TEXT_SCORES if name in names]
    return names[:_MOST_SCORES]


def reference_of(teacher: Measured | None, score: str) -> float | None:
    """The teacher's score; agreement with itself says nothing."""
    if teacher is None or score in ("agreement", "kl", "flips", "right_to_wrong"):
        return None
    return teacher.scores.get(score)
