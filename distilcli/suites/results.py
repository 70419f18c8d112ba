"""What the runs of a suite come to: medians over seeds, what is retained, means over tasks."""

import statistics
from collections.abc import Iterable
from typing import Any

from distilcli.config.suite import DISTILLED, STUDENT, TEACHER, Suite
from distilcli.config.tasks import ClassificationTask, GlueTask, Task
from distilcli.evaluation.calibration import RELIABILITY_TITLES
from distilcli.evaluation.result import is_share
from distilcli.suites.published import SCORES
from distilcli.tasks import glue

# Scores by (task, model, seed); the first of a run is the one by which models are compared.
Results = dict[tuple[str, str, int], dict[str, float]]


def shown(score: str, value: float) -> str:
    """A value of a score for people: in percent, or as it is."""
    return f"{100 * value:.1f}" if is_share(score) else f"{value:.3f}"


def table(suite: Suite, results: Results) -> dict[str, Any]:
    """Medians, ranges, what students retain of their teacher, means over tasks, published scores.

    Args:
        suite: which was run.
        results: scores of each run that is done.
    """
    tasks: dict[str, Any] = {}
    for name, task in suite.tasks.items():
        models: dict[str, Any] = {}
        for model in (TEACHER, STUDENT, DISTILLED, *suite.baselines):
            found = {
                seed: scores
                for (t, m, seed), scores in sorted(results.items())
                if (t, m) == (name, model)
            }
            if found:
                models[model] = _summary(found)
        reference = models.get(TEACHER, {}).get("median")
        for model, summary in models.items():
            # A correlation may be below 0, of which there is no share either.
            if model != TEACHER and reference and reference > 0:
                summary["retained"] = summary["median"] / reference
        key = task.task.name if isinstance(task.task, GlueTask) else name
        known = SCORES.get(key)
        tasks[name] = {
            "models": models,
            "is_glue": isinstance(task.task, GlueTask),
            "positive": _positive(task.task),
        }
        if known:
            tasks[name]["published"] = {"bert": known.bert, "distilbert": known.distilbert}
    return {"suite": suite.name, "tasks": tasks, "macro": _macro(tasks)}


def _positive(task: Task) -> str | None:
    """The class that a task's F1 is of, where the suite says so."""
    if isinstance(task, GlueTask):
        return glue.positive_class(task.name, task.folder is None)
    if not isinstance(task, ClassificationTask):
        return None
    if task.positive is None and task.labels and len(task.labels) == 2:
        return task.labels[1]
    return task.positive


def _summary(found: dict[int, dict[str, float]]) -> dict[str, Any]:
    """Median and range of the first score, medians of what stands beside it, all of all seeds."""
    score = next(iter(next(iter(found.values()))))
    values = [scores[score] for scores in found.values()]
    return {
        "score": score,
        "median": statistics.median(values),
        "lowest": min(values),
        "highest": max(values),
        "reliability": _medians(found, RELIABILITY_TITLES),
        "seeds": {str(seed): scores for seed, scores in found.items()},
    }


def _medians(found: dict[int, dict[str, float]], names: Iterable[str]) -> dict[str, float]:
    """Of those scores that all seeds have."""
    return {
        name: statistics.median(scores[name] for scores in found.values())
        for name in names
        if all(name in scores for scores in found.values())
    }


def _macro(tasks: dict[str, Any]) -> dict[str, Any]:
    """Means over the tasks that all models have: of medians, and of what is retained."""
    models = {model for task in tasks.values() for model in task["models"]}
    whole = [task["models"] for task in tasks.values() if set(task["models"]) == models]
    if not whole:
        return {}
    macro: dict[str, Any] = {"tasks": len(whole)}
    for model in whole[0]:
        mean = statistics.fmean(task[model]["median"] for task in whole)
        macro[model] = {"mean": mean}
    reference = macro.get(TEACHER, {}).get("mean")
    for model in models - {TEACHER}:
        if reference and reference > 0:  # every teacher may have failed, or learnt nothing
            macro[model]["retained"] = macro[model]["mean"] / reference
    return macro
