"""What was measured of a student: a table for people, and the hub's model-index.

Figures come from results.json as `distilcli eval` writes it, or from the end of training.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distilcli.cards.sources import GLUE
from distilcli.cards.usage import SIMILARITY
from distilcli.config.data import FilesSource, HubSource, RowFiles, RowHub
from distilcli.config.embedding import EmbeddingTask
from distilcli.config.experiment import MaskedLMExperiment
from distilcli.config.kinds import AnyExperiment
from distilcli.config.tasks import GlueTask
from distilcli.evaluation.asked import TEACHER
from distilcli.evaluation.result import number, percent
from distilcli.files.shown_paths import short_name
from distilcli.hub.names import may_be_of_hub

# What the hub calls a metric, where that is another name than ours, and what it is of.
_METRICS: dict[str, tuple[str, str]] = {
    "micro_f1": ("f1", "micro F1"),
    "macro_f1": ("f1", "macro F1"),
    "entity_f1": ("f1", "F1 of entities"),
    "f1": ("f1", "F1"),
    "accuracy_f1": ("accuracy_f1", "mean of accuracy and F1"),
    "pearson_spearman": ("pearson_spearman", "mean of Pearson and Spearman correlation"),
    "accuracy": ("accuracy", "accuracy"),
    "matthews": ("matthews_correlation", "Matthews correlation"),
    "pearson": ("pearsonr", "Pearson correlation"),
    "spearman": ("spearmanr", "Spearman correlation"),
    "exact_match": ("exact_match", "exact match"),
    "loss": ("loss", "loss, nats per masked token"),
    "perplexity": ("perplexity", "perplexity of masked tokens"),
}
# As sentence-transformers calls them.
_OF_VECTORS = {
    "spearman": ("spearman_cosine", "Spearman correlation of cosines"),
    "ndcg@10": ("cosine_ndcg@10", "nDCG@10 of a search by cosine"),
    "recall@10": ("cosine_recall@10", "recall@10 of a search by cosine"),
}
_NO_SHARES = {"loss", "perplexity"}
_OF_TEXT = ("accuracy", "loss", "perplexity")
_GLUE_NAMES = {"SST-2": "sst2", "STS-B": "stsb"}


@dataclass(frozen=True)
class Measured:
    """The scores of a student, and of its teacher where that was measured with it.

    Attributes:
        scores: of the student, by what distilcli calls them; the most important one first.
        of_teacher: likewise; empty where it was not measured.
        more: lines of the table beside scores: what, of the student, of the teacher.
        data: where they were measured; what the hub wants to know of a data set.
        by_training: whether they are those by which training chose the student.
        positive: of two classes the one that F1 is of; None: there are none, or it is not known.
    """

    scores: Mapping[str, float]
    of_teacher: Mapping[str, float]
    more: Sequence[tuple[str, str, str]]
    data: Mapping[str, str]
    by_training: bool = False
    positive: str | None = None


def from_results(
    record: Mapping[str, Any], folder: Path, experiment: AnyExperiment
) -> Measured | None:
    """What results.json says of a student; None where it does not speak of it.

    Args:
        record: of results.json.
        folder: of the student.
        experiment: that it is from.
    """
    models = record.get("models")
    if not isinstance(models, dict):
        return None
    own = next((one for one in models.values() if _is_of(one, folder)), None)
    if own is None:
        return None
    teacher = models.get(TEACHER) or {}
    scores, of_teacher = _scores(own, record), _scores(teacher, record)
    if not scores:
        return None
    more = [("retained", percent(own.get("retained")), percent(teacher.get("retained")))]
    for key, title in (
        ("agreement", "agreement with the teacher"),
        ("cosine", "cosine to the teacher"),
    ):
        value = own.get(key, own["scores"].get(key))
        if isinstance(value, float):
            more.append((title, percent(value), "-"))
    more.append(("parameters", _counted(own), _counted(teacher)))
    other = record.get("dev") or (record.get("text") or {}).get("files")
    data = _of_files(other) if other else measured_data(experiment)
    positive = record.get("positive")
    named = positive if isinstance(positive, str) else None
    more = more if teacher else more[-1:]
    return Measured(scores, of_teacher, more, data, positive=named)


def from_training(held_out: Mapping[str, float], experiment: AnyExperiment) -> Measured | None:
    """What training measured of the student that it chose; None where it measured nothing.

    Args:
        held_out: as in metrics.jsonl, with keys such as held_out/loss.
        experiment: that was run.
    """
    named = {key.removeprefix("held_out/"): value for key, value in held_out.items()}
    if isinstance(experiment, MaskedLMExperiment):
        named = {key: named[key] for key in _OF_TEXT if key in named}
    if not named:
        return None
    return Measured(named, {}, [], measured_data(experiment), by_training=True)


def measured_data(experiment: AnyExperiment) -> dict[str, str]:
    """The data that an experiment is measured on, as the hub's model-index names a data set."""
    if isinstance(experiment, MaskedLMExperiment):
        sources = experiment.data.held_out_sources or experiment.data.sources
        return _of_sources(sources) | {"split": "held-out"}
    task = experiment.task
    if isinstance(task, GlueTask):
        config = _GLUE_NAMES.get(task.name, task.name.lower())
        split = "validation_matched" if task.name == "MNLI" else "validation"
        return {"type": GLUE, "name": f"GLUE {task.name}", "config": config, "split": split}
    if isinstance(task, EmbeddingTask) and task.dev is None and task.retrieval is not None:
        return _of_sources([task.retrieval.corpus])
    return _of_sources([] if task.dev is None else [task.dev])


def _of_sources(sources: Sequence[FilesSource | HubSource | RowFiles | RowHub]) -> dict[str, str]:
    first = sources[0] if sources else None
    if isinstance(first, HubSource | RowHub) and len(sources) == 1:
        if not may_be_of_hub(first.hub):
            return _of_files([first.hub])
        known = {"config": first.subset, "split": first.split, "revision": first.revision}
        return {"type": first.hub, "name": first.hub} | {k: v for k, v in known.items() if v}
    names: list[str] = []
    for one in sources:
        names += one.files if isinstance(one, FilesSource | RowFiles) else [one.hub]
    return _of_files(names)


def _of_files(names: Sequence[str]) -> dict[str, str]:
    """Files of this machine are no data set of the hub; their names are all that is said."""
    shown = ", ".join(dict.fromkeys(short_name(name) for name in names)) or "own data"
    return {"type": "own-data", "name": shown}


def _is_of(model: Any, folder: Path) -> bool:
    """Whether a record is of this student: a run may have been moved since, or named otherwise."""
    if not isinstance(model, dict) or not isinstance(model.get("scores"), dict):
        return False
    path, own = Path(str(model.get("path"))), folder.absolute()
    return path.absolute().parts[-2:] == own.parts[-2:]


def _scores(model: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, float]:
    """The scores of a model, the one that students are chosen by first."""
    found = dict(model.get("scores") or {})
    first = record.get("score")
    if first is None:  # masked-LM training: not all that is recorded is a score
        found |= {"perplexity": model.get("perplexity")}
        names: list[str] = [name for name in _OF_TEXT if name in found]
    else:
        names = [first, *(name for name in found if name != first)]
    return {name: found[name] for name in names if _is_figure(found.get(name))}


def _is_figure(value: Any) -> bool:
    """Whether a value is a number that a card can say; a perplexity may have overflowed."""
    return isinstance(value, int | float) and math.isfinite(value)


def _counted(model: Mapping[str, Any]) -> str:
    parameters = model.get("parameters")
    return f"{parameters:,}" if isinstance(parameters, int) else "-"


# How it is said


def model_index(name: str, tag: str, measured: Measured) -> list[dict[str, Any]]:
    """The hub's model-index with one result: all scores on the data that they were measured on."""
    metrics = [
        {
            "type": _named(score, tag)[0],
            "value": round(value, 6),
            "name": in_words(score, tag, measured.positive),
        }
        for score, value in measured.scores.items()
    ]
    result = {"task": {"type": tag}, "dataset": dict(measured.data), "metrics": metrics}
    return [{"name": name, "results": [result]}]


def metric_types(tag: str, measured: Measured) -> list[str]:
    """What the hub calls the metrics that were measured."""
    return list(dict.fromkeys(_named(score, tag)[0] for score in measured.scores))


def table_of(tag: str, measured: Measured) -> str:
    """The same for people, with the teacher's figures beside it, as Markdown."""
    rows = [
        [
            in_words(score, tag, measured.positive),
            _figure(score, value),
            _figure(score, measured.of_teacher.get(score)),
        ]
        for score, value in measured.scores.items()
    ]
    rows += [list(row) for row in measured.more]
    columns = ["", "this model", "teacher"]
    if not measured.of_teacher:
        rows, columns = [row[:2] for row in rows], columns[:2]
    return markdown_table(columns, rows)


def table_of_index(index: Any) -> str:
    """What an earlier card said in its model-index, for people."""
    try:
        [result] = index[0]["results"]
        where, metrics = str(result["dataset"]["name"]), result["metrics"]
        rows = [[str(one["name"]), f"{one['value']:g}"] for one in metrics]
    except (LookupError, TypeError, ValueError):
        return "Its scores are in the metadata of this card."
    return f"On {where}:\n\n{markdown_table(['', 'this model'], rows)}"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; the first column is words, the others figures."""
    lines = [columns, ["---", *("---:" for _ in columns[1:])], *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in lines)


def _named(score: str, tag: str) -> tuple[str, str]:
    """What the hub calls a score, and what people do."""
    if tag == SIMILARITY:
        base, _, width = score.partition("_")
        kind, words = _OF_VECTORS.get(base, (base, base))
        return (
            (f"{kind}_{width}", f"{words}, the first {width} numbers") if width else (kind, words)
        )
    return _METRICS.get(score, (score, score.replace("_", " ")))


def in_words(score: str, tag: str, positive: str | None = None) -> str:
    """What people call a score.

    Args:
        score: as distilcli calls it.
        tag: what the model is there for.
        positive: of two classes the one that F1 is of; None: it is not known.
    """
    words = _named(score, tag)[1]
    if tag == "text-classification" and score in ("f1", "accuracy_f1"):
        words += " of the positive class" if positive is None else f" of class {positive}"
    return words


def _figure(score: str, value: float | None) -> str:
    if score in _NO_SHARES:
        return number(value, 2 if score == "perplexity" else 3)
    return percent(value)
